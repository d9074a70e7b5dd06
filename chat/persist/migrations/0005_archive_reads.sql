-- What finds archived rows: of a timeline those above a position, of a conversation the newest. And when a stay in a group
-- ended: the notice of the leave may be archived. Each change looks first whether it was made already, since neither server
-- can add a key or a column "if it is not there" in words that the other one takes.

SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.statistics
   WHERE table_schema = DATABASE() AND table_name = 'archive_index' AND index_name = 'by_position') = 0,
  'ALTER TABLE archive_index ADD KEY by_position (timeline, max_position)', 'DO 0');
PREPARE change_it FROM @change;
EXECUTE change_it;
DEALLOCATE PREPARE change_it;

SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.statistics
   WHERE table_schema = DATABASE() AND table_name = 'archive_index' AND index_name = 'by_time') = 0,
  'ALTER TABLE archive_index ADD KEY by_time (timeline, conversation, max_sent_at)', 'DO 0');
PREPARE change_it FROM @change;
EXECUTE change_it;
DEALLOCATE PREPARE change_it;

SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
   WHERE table_schema = DATABASE() AND table_name = 'members' AND column_name = 'left_at') = 0,
  'ALTER TABLE members ADD COLUMN left_at BIGINT NULL', 'DO 0'); -- sent_at of the leave
PREPARE change_it FROM @change;
EXECUTE change_it;
DEALLOCATE PREPARE change_it;

UPDATE members m JOIN messages x
  ON x.timeline = CONVERT(CONCAT('g', m.chat_group) USING ascii) COLLATE ascii_bin AND x.position = m.to_position
  SET m.left_at = x.sent_at WHERE m.to_position IS NOT NULL AND m.left_at IS NULL;
