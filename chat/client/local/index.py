"""What lies where in a history, in SQLite. It has numbers alone, no text, and is made anew from the files at any time.

A file is known up to its `End`; what lies behind is looked at when the conversation is next used (the program was killed
between the file and this). The index is committed after the files are on the disk, so it is never ahead of them.

A **floor** per conversation: from there on upwards, in the order of display, the history has everything that the server
has. Below it the server is asked, from `cursor` on. `count` grows with every commit and is kept beside the reader's state
too: an index that is behind that one was restored from a copy, and its floors hold no more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from chat.client.local.files import BEGIN, End, Place
from chat.client.local.folders import FileName
from chat.client.transaction import transaction

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY, conversation TEXT NOT NULL, day TEXT NOT NULL, part INTEGER NOT NULL,
    end INTEGER NOT NULL, number INTEGER NOT NULL, link BLOB NOT NULL, UNIQUE (conversation, day, part)
);
CREATE TABLE records (
    conversation TEXT NOT NULL, sender INTEGER NOT NULL, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
    sent_at INTEGER NOT NULL, pos INTEGER NOT NULL,
    file INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (conversation, sender, stream, seq)
) WITHOUT ROWID;
CREATE INDEX shown ON records (conversation, sent_at, pos);
CREATE INDEX everything ON records (sent_at, pos);
CREATE INDEX of_file ON records (file, start);
CREATE TABLE floors (
    conversation TEXT PRIMARY KEY, sent_at INTEGER NOT NULL, pos INTEGER NOT NULL, cursor TEXT
) WITHOUT ROWID;
"""


class Id(NamedTuple):
    """Of a message. Of one that is no text `stream` is -1 and `seq` its position."""

    conversation: str
    sender: int
    stream: int
    seq: int


class Row(NamedTuple):
    id: Id
    sent_at: int
    pos: int
    file: int
    place: Place


class Floor(NamedTuple):
    """`cursor` None: there is nothing below."""

    sent_at: int
    pos: int
    cursor: str | None


#: sent_at, position, conversation: the order of display; the last for a search in all conversations.
At = tuple[int, int, str]


class Index:
    """Raises sqlite3.Error everywhere. Not safe in several threads at once."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"version {version}")
            if version == 0:
                with self.transaction():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={VERSION}")
            self.count = int(self.fact("count") or 0)
        except BaseException:
            self._db.close()
            raise
        path.chmod(0o600)

    def transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db)

    def close(self) -> None:
        self._db.close()

    def fact(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def put_fact(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def counted(self) -> int:
        """Inside of a transaction: the number it will have. Set `count` when it is committed."""
        self.put_fact("count", str(self.count + 1))
        return self.count + 1

    # -------------------------------------------------------------- files

    def files(self, conversation: str) -> dict[FileName, tuple[int, End]]:
        rows = self._db.execute(
            "SELECT id, day, part, end, number, link FROM files WHERE conversation = ? ORDER BY day, part", (conversation,)
        )
        return {FileName(conversation, day, part): (number, End(*end)) for number, day, part, *end in rows}

    def last_part(self, conversation: str, day: str) -> tuple[FileName, int, End] | None:
        row = self._db.execute(
            "SELECT part, id, end, number, link FROM files WHERE conversation = ? AND day = ? ORDER BY part DESC LIMIT 1",
            (conversation, day),
        ).fetchone()
        return (FileName(conversation, day, row[0]), row[1], End(*row[2:])) if row else None

    def file_name(self, number: int) -> FileName:
        row = self._db.execute("SELECT conversation, day, part FROM files WHERE id = ?", (number,)).fetchone()
        return FileName(*row)

    def add_file(self, name: FileName) -> int:
        done = self._db.execute(
            "INSERT INTO files (conversation, day, part, end, number, link) VALUES (?, ?, ?, ?, ?, ?)", (*name, *BEGIN)
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def move_end(self, file: int, end: End) -> None:
        self._db.execute("UPDATE files SET end = ?, number = ?, link = ? WHERE id = ?", (*end, file))

    def drop_file(self, file: int) -> None:
        """With its records: it is gone, or will be looked at from its beginning."""
        self._db.execute("DELETE FROM records WHERE file = ?", (file,))
        self._db.execute("DELETE FROM files WHERE id = ?", (file,))

    # -------------------------------------------------------------- records

    def has(self, message: Id) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM records WHERE conversation = ? AND sender = ? AND stream = ? AND seq = ?", message
        )
        return found.fetchone() is not None

    def add(self, rows: Iterable[Row]) -> None:
        """What is there already stays."""
        self._db.executemany(
            "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*row.id, row.sent_at, row.pos, row.file, *row.place) for row in rows],
        )

    def page(self, conversation: str, limit: int, before: tuple[int, int] | None) -> list[Row]:
        """Newest first, in the order of display."""
        below, args = ("", ()) if before is None else ("AND (sent_at, pos) < (?, ?)", before)
        rows = self._db.execute(
            f"SELECT * FROM records WHERE conversation = ? {below} ORDER BY sent_at DESC, pos DESC LIMIT ?",
            (conversation, *args, limit),
        )
        return [_row(row) for row in rows]

    def all_before(self, limit: int, before: At | None) -> list[Row]:
        """Of all conversations, newest first."""
        below, args = ("", ()) if before is None else ("WHERE (sent_at, pos, conversation) < (?, ?, ?)", before)
        rows = self._db.execute(
            f"SELECT * FROM records {below} ORDER BY sent_at DESC, pos DESC, conversation DESC LIMIT ?", (*args, limit)
        )
        return [_row(row) for row in rows]

    def conversations(self) -> list[str]:
        """Those that have something, the one with the newest first."""
        rows = self._db.execute("SELECT conversation, MAX(sent_at) FROM records GROUP BY conversation ORDER BY 2 DESC")
        return [row[0] for row in rows]

    # -------------------------------------------------------------- floors

    def floor(self, conversation: str) -> Floor | None:
        row = self._db.execute("SELECT sent_at, pos, cursor FROM floors WHERE conversation = ?", (conversation,)).fetchone()
        return Floor(*row) if row else None

    def put_floor(self, conversation: str, floor: Floor) -> None:
        self._db.execute("INSERT OR REPLACE INTO floors VALUES (?, ?, ?, ?)", (conversation, *floor))

    def drop_floors(self, timelines: Sequence[str] | None = None) -> None:
        """Of the conversations in these timelines; None: of all."""
        if timelines is None:
            self._db.execute("DELETE FROM floors")
            return
        for timeline in timelines:
            if timeline[0] == "g":
                self._db.execute("DELETE FROM floors WHERE conversation = ?", (timeline,))
            else:
                self._db.execute("DELETE FROM floors WHERE conversation LIKE 'u%'")

    def drop_floor(self, conversation: str) -> None:
        self._db.execute("DELETE FROM floors WHERE conversation = ?", (conversation,))


def _row(row: tuple[object, ...]) -> Row:
    conversation, sender, stream, seq, sent_at, pos, file, *place = row
    return Row(Id(conversation, sender, stream, seq), sent_at, pos, file, Place(*place))  # type: ignore[arg-type]
