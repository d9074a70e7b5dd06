-- Users that an operator has deleted. Their rows in `users` stay: what they wrote to others has a name, and nobody else can
-- take it; but nobody finds them any more.

CREATE TABLE IF NOT EXISTS deleted_users (
  user BIGINT NOT NULL PRIMARY KEY,
  deleted_at BIGINT NOT NULL
) ENGINE=InnoDB;
