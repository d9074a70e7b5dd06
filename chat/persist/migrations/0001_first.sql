-- Users, people, groups, tokens, devices; the record; what persist knows.
-- SQL that MySQL 8 and MariaDB 10.11 both take. Migrations are numbered and only add; a statement that
-- was done already does no harm (a run may be cut off), so an ALTER is a file of its own.
-- timeline, conversation: `u42` or `g7`. Positions: generation × 2^44 + offset + 1.

CREATE TABLE IF NOT EXISTS users (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  password VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, -- argon2id, PHC string
  created_at BIGINT NOT NULL,
  banned_at BIGINT NULL,
  UNIQUE KEY by_name (name)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS tokens (
  hash BINARY(32) NOT NULL PRIMARY KEY, -- SHA-256 of the token
  user BIGINT NOT NULL,
  device VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  KEY by_user (user),
  KEY by_expiry (expires_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS devices (
  user BIGINT NOT NULL,
  device VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  label VARCHAR(128) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  PRIMARY KEY (user, device)
) ENGINE=InnoDB;

-- What each device has acknowledged.
CREATE TABLE IF NOT EXISTS cursors (
  user BIGINT NOT NULL,
  device VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  timeline VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position BIGINT NOT NULL,
  PRIMARY KEY (user, device, timeline)
) ENGINE=InnoDB;

-- Each side of a friendship is kept from the notices in that user's own timeline.
CREATE TABLE IF NOT EXISTS friends (
  user BIGINT NOT NULL,
  other BIGINT NOT NULL,
  state ENUM('friend','asked','asking') NOT NULL,
  position BIGINT NOT NULL, -- of the notice that made it so
  PRIMARY KEY (user, other)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS blocks (
  user BIGINT NOT NULL, -- who blocks
  other BIGINT NOT NULL, -- who is blocked
  created_at BIGINT NOT NULL,
  PRIMARY KEY (user, other),
  KEY by_other (other)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS chat_groups (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(128) CHARACTER SET utf8mb4 NOT NULL,
  open TINYINT NOT NULL DEFAULT 0,
  owner BIGINT NOT NULL,
  created_at BIGINT NOT NULL
) ENGINE=InnoDB;

-- Membership as position intervals of the group's timeline: from the notice of the join to that of the leave.
CREATE TABLE IF NOT EXISTS members (
  chat_group BIGINT NOT NULL,
  user BIGINT NOT NULL,
  from_position BIGINT NOT NULL,
  to_position BIGINT NULL, -- NULL: still in
  joined_at BIGINT NOT NULL, -- sent_at of the join
  PRIMARY KEY (chat_group, user, from_position),
  KEY by_user (user, to_position)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS invitations (
  chat_group BIGINT NOT NULL,
  user BIGINT NOT NULL,
  inviter BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (chat_group, user)
) ENGINE=InnoDB;

-- The record: one row per record of a timeline (`read` and `delivered` are state, below).
CREATE TABLE IF NOT EXISTS messages (
  timeline VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position BIGINT NOT NULL,
  conversation VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  sent_at BIGINT NOT NULL,
  sender BIGINT NOT NULL,
  stream BIGINT NULL, -- NULL: a kind other than text
  seq BIGINT NULL,
  kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  receipt TINYINT NOT NULL DEFAULT 0, -- the sender asked to be told of the delivery
  body MEDIUMBLOB NOT NULL, -- the record's value: the JSON frame without prev and pos
  PRIMARY KEY (timeline, position),
  KEY by_conversation (timeline, conversation, sent_at, position),
  KEY by_stream (timeline, stream, seq)
) ENGINE=InnoDB;

-- Stream heads; never archived: duplicates are known by them.
CREATE TABLE IF NOT EXISTS streams (
  timeline VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  conversation VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  sender BIGINT NOT NULL,
  stream BIGINT NOT NULL,
  next_seq BIGINT NOT NULL,
  last_sent_at BIGINT NOT NULL,
  last_position BIGINT NOT NULL,
  PRIMARY KEY (timeline, conversation, sender, stream)
) ENGINE=InnoDB;

-- How far a user has read a conversation.
CREATE TABLE IF NOT EXISTS read_marks (
  user BIGINT NOT NULL,
  conversation VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  sent_at BIGINT NOT NULL,
  PRIMARY KEY (user, conversation)
) ENGINE=InnoDB;

-- How far a sender's messages have reached a device of the other.
CREATE TABLE IF NOT EXISTS delivered_marks (
  user BIGINT NOT NULL, -- the sender
  conversation VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  stream BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  position BIGINT NOT NULL,
  PRIMARY KEY (user, conversation)
) ENGINE=InnoDB;

-- Persist's next offset per partition: the truth about what is stored. The row exists before persist begins.
CREATE TABLE IF NOT EXISTS offsets (
  topic VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  topic_partition INT NOT NULL,
  topic_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  generation INT NOT NULL DEFAULT 0,
  next_offset BIGINT NOT NULL,
  PRIMARY KEY (topic, topic_partition)
) ENGINE=InnoDB;

-- What an operator sees: messages that wait for a device.
CREATE OR REPLACE VIEW offline_messages AS
  SELECT c.user, c.device, m.timeline, m.position, m.conversation, m.sent_at, m.sender, m.kind, m.body
  FROM cursors c JOIN messages m ON m.timeline = c.timeline AND m.position > c.position;
