-- Which records of the topic of the dead an operator has handled. A topic that was made anew has another id, and its
-- offsets begin anew.

CREATE TABLE IF NOT EXISTS dead_handled (
  topic_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  topic_partition INT NOT NULL,
  record_offset BIGINT NOT NULL,
  outcome VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, -- retried, skipped
  handled_at BIGINT NOT NULL,
  PRIMARY KEY (topic_id, topic_partition, record_offset)
) ENGINE=InnoDB;
