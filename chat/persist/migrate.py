"""Migrations: numbered files, applied in order, each recorded with its checksum in `schema_migrations`.

Definitions cannot be rolled back, so a run that was cut off in the middle of a file runs that file again: its statements
must bear being repeated (`IF NOT EXISTS`). Files only ever add; a file that was applied is never edited.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from chat.errors import SetupError
from chat.ports import Database, Statement

FOLDER: Final = Path(__file__).parent / "migrations"
LOCK: Final = "chat-migrate"
WAIT_S: Final = 60.0  # for another run to end
_FIND: Final = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'schema_migrations'"
_TABLE: Final = """CREATE TABLE schema_migrations (
  number INT NOT NULL PRIMARY KEY,
  name VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  checksum CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  applied_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE=InnoDB"""

log = structlog.get_logger()


class Migration(NamedTuple):
    number: int
    name: str  # of the file
    statements: tuple[str, ...]
    checksum: str  # SHA-256 of the file, hex


def split_statements(sql: str) -> Iterator[str]:
    """The statements of a file, without comments and without their semicolons. Knows quotes ('', "", ``) and both kinds of
    comment; no DELIMITER, so no stored programs."""
    start, at, parts = 0, 0, []
    while at < len(sql):
        char = sql[at]
        if char in "'\"`":
            end = at + 1
            while end < len(sql) and sql[end] != char:
                end += 2 if sql[end] == "\\" and char != "`" else 1
            at = end + 1
        elif sql.startswith(("-- ", "--\n"), at) or char == "#" or sql.startswith("/*", at):
            parts.append(sql[start:at])
            close = "*/" if char == "/" else "\n"
            end = sql.find(close, at)
            at = start = len(sql) if end < 0 else end + (2 if char == "/" else 0)
        elif char == ";":
            parts.append(sql[start:at])
            if statement := "".join(parts).strip():
                yield statement
            at, parts = at + 1, []
            start = at
        else:
            at += 1
    if statement := "".join([*parts, sql[start:]]).strip():
        yield statement


def load(folder: Path = FOLDER) -> list[Migration]:
    """The migrations of a folder in order. Raises SetupError where numbers are missing or doubled."""
    found = []
    for file in sorted(folder.glob("*.sql")):
        text = file.read_bytes()
        number = file.name.split("_")[0]
        if not number.isdigit():
            raise SetupError(f"{file}: the name of a migration begins with its number, as in 0002_more.sql")
        found.append(Migration(int(number), file.name, tuple(split_statements(text.decode())), sha256(text).hexdigest()))
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise SetupError(
            f"{folder}: migrations must be numbered 1, 2, 3 …; found {', '.join(m.name for m in found) or 'none'}"
        )
    return found


def pending(migrations: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """What is still to be applied. Numbers above ours are a newer version's, and do not disturb us since files only add.
    Raises SetupError where an applied file was edited since."""
    for ours in migrations:
        name, checksum = applied.get(ours.number, ("", ours.checksum))
        if ours.checksum != checksum:
            raise SetupError(
                f"migration {ours.number} was applied as {name} with checksum {checksum[:12]}…, but {ours.name} has "
                f"{ours.checksum[:12]}… now: an applied file must not be edited; restore it, put changes into a new one"
            )
    return [m for m in migrations if m.number not in applied]


async def migrate(database: Database, folder: Path = FOLDER) -> list[str]:
    """Bring the database up to date; returns the names of the files that were applied now. Runs at the same time wait for
    each other. Raises SetupError, PartError. Cancelling it leaves a prefix of the statements done: run it again."""
    migrations = await trio.to_thread.run_sync(load, folder)
    deadline, pause = trio.current_time() + WAIT_S, 0.05
    while True:
        async with database.lock(LOCK) as held:
            if held:
                return await _apply(database, migrations)
        if trio.current_time() > deadline:
            raise SetupError(f"another migration has held the lock {LOCK!r} for {WAIT_S:.0f} s: see SHOW PROCESSLIST")
        await trio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, 1.0)


async def _apply(database: Database, migrations: Sequence[Migration]) -> list[str]:
    (found,) = await database.read([Statement(_FIND)])
    if not found.rows:
        await database.script([_TABLE])
    (result,) = await database.read([Statement("SELECT number, name, checksum FROM schema_migrations")])
    done = []
    for migration in pending(migrations, {number: (name, checksum) for number, name, checksum in result.rows}):
        await database.script(migration.statements)
        await database.write(
            [Statement(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                (migration.number, migration.name, migration.checksum), 1,
            )]
        )  # fmt: skip
        log.info("migration applied", name=migration.name)
        done.append(migration.name)
    return done
