-- Groups that were asked for: a request that is made again, since its outcome was not told, finds the group that it made.

CREATE TABLE IF NOT EXISTS group_requests (
  owner BIGINT NOT NULL,
  request BINARY(32) NOT NULL, -- SHA-256 of what was asked for, and of the device
  chat_group BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (owner, request),
  KEY by_expiry (expires_at)
) ENGINE=InnoDB;

-- How often an operator has put a dead record of this partition where it belongs: persist's transactions begin anew where
-- that happened since they were made ready. Looked for first, since a run may be cut off, and neither server can add a
-- column "if it is not there" in words that the other one takes.

SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
   WHERE table_schema = DATABASE() AND table_name = 'offsets' AND column_name = 'mended') = 0,
  'ALTER TABLE offsets ADD COLUMN mended BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_it FROM @change;
EXECUTE change_it;
DEALLOCATE PREPARE change_it;
