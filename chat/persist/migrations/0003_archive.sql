-- Rows that were moved out of `messages` into files. A slice is one file; the index says where in it a conversation of a
-- timeline lies: rows are sorted by timeline, conversation, sent_at, position, so that each is one stretch of the file.

CREATE TABLE IF NOT EXISTS archive_slices (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  file VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, -- its name below the archive's address
  row_count INT NOT NULL,
  byte_count BIGINT NOT NULL,
  checksum BINARY(32) NOT NULL, -- SHA-256 of the file
  min_sent_at BIGINT NOT NULL,
  max_sent_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  UNIQUE KEY by_file (file),
  KEY by_age (max_sent_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS archive_index (
  timeline VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  conversation VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  slice BIGINT NOT NULL,
  first_row INT NOT NULL,
  row_count INT NOT NULL,
  min_position BIGINT NOT NULL,
  max_position BIGINT NOT NULL,
  min_sent_at BIGINT NOT NULL,
  max_sent_at BIGINT NOT NULL,
  PRIMARY KEY (timeline, conversation, slice),
  KEY by_slice (slice)
) ENGINE=InnoDB;

-- Files that no slice stands for: `writing` before the transaction that makes one a slice, `gone` once nothing refers to it
-- any more. A writer whose file another has set to `gone` cannot make it a slice; the file is removed some time after.
CREATE TABLE IF NOT EXISTS archive_files (
  file VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  state ENUM('writing','gone') NOT NULL,
  since BIGINT NOT NULL
) ENGINE=InnoDB;

-- What was run, for operators and for when to run next.
CREATE TABLE IF NOT EXISTS archive_runs (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  why VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, -- age, rows, asked
  before_ms BIGINT NOT NULL, -- messages sent before this
  began_at BIGINT NOT NULL,
  ended_at BIGINT NULL, -- NULL: under way, or cut off
  row_count BIGINT NOT NULL DEFAULT 0,
  slice_count INT NOT NULL DEFAULT 0
) ENGINE=InnoDB;
