"""What a client must not forget, in SQLite: one file per server and account.

Kept are the device's id and token, the reader's state of each timeline, the outbox, what has been received (the newest
`KEEP` messages), and names. **A message and the reader's state that has passed it are written in one transaction**, before
the position is acknowledged: after a crash at any moment the reader asks for what is not here, and shows nothing twice.

WAL with `synchronous=NORMAL`: a power failure may take back the newest transactions whole, which is a crash a moment
earlier. A transaction takes some 50 µs, so it is done in the loop, once for what one read from the socket brought.

With a local history (`keep_sealed`) the messages here are sealed too, and the mark up to which that history has them is
written in the same transaction, after they are in it: the reader's state is never ahead of it.

`Store(":memory:")` forgets all with the process: for tools and tests.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from chat import protocol
from chat.client.local.keys import Box
from chat.client.outbox import NOTHING, Changes, Entry
from chat.client.transaction import transaction
from chat.errors import SetupError
from chat.ordering import ReaderState, StreamKey
from chat.protocol import Message
from chat.records import conversation_of

KEEP: Final = 10_000  # received messages
#: Milliseconds, by `sent_at`, that a stream may rest behind the newest of its timeline before its expected seq is forgotten.
#: A server refuses a stream that was not written for 30 days (`stream_days`); one that is forgotten and still goes on would
#: be read again from its beginning.
STREAMS_KEPT: Final = 400 * 86_400_000
_PRUNE_EVERY: Final = 500
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS readers (
    timeline TEXT PRIMARY KEY, known INTEGER NOT NULL, fresh INTEGER NOT NULL, active INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS expected (
    timeline TEXT, sender INTEGER, conversation TEXT, stream INTEGER, next INTEGER NOT NULL, at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (timeline, sender, conversation, stream)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, timeline TEXT NOT NULL, conversation TEXT NOT NULL, sender INTEGER NOT NULL,
    stream INTEGER, seq INTEGER, pos INTEGER NOT NULL, sent_at INTEGER NOT NULL, body BLOB NOT NULL,
    UNIQUE (timeline, sender, conversation, stream, seq)
);
CREATE INDEX IF NOT EXISTS shown ON messages (conversation, sent_at, pos);
CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
"""

_INSERT: Final = """
INSERT INTO messages (timeline, conversation, sender, stream, seq, pos, sent_at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (timeline, sender, conversation, stream, seq) DO NOTHING RETURNING number
"""
_EXPECT: Final = """
INSERT INTO expected (timeline, sender, conversation, stream, next, at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (timeline, sender, conversation, stream) DO UPDATE SET next = excluded.next, at = MAX(at, excluded.at)
"""
_DATE: Final = """
UPDATE expected SET at = MAX(
    COALESCE((SELECT MAX(sent_at) FROM messages WHERE messages.timeline = expected.timeline), 0),
    COALESCE((SELECT MAX(at) FROM expected AS newest WHERE newest.timeline = expected.timeline), 0)
) WHERE at = 0
"""
_FORGET: Final = """
DELETE FROM expected WHERE at < (SELECT MAX(at) FROM expected AS newest WHERE newest.timeline = expected.timeline) - ?
"""


class Kept(NamedTuple):
    """A received message; `number` grows in the order received, 0 for what is kept as state (`read`, `delivered`)."""

    number: int
    timeline: str
    message: Message


class Store:
    def __init__(self, path: Path | str) -> None:
        """Raises SetupError where the file cannot be opened, or belongs to a running client."""
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # one client per device: two would number alike
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            with transaction(self._db):
                self._date_streams()
                self._db.execute(_FORGET, (STREAMS_KEPT,))
                self._db.execute("INSERT OR IGNORE INTO facts VALUES ('device', ?)", (secrets.token_hex(10),))
        except sqlite3.Error as error:
            raise SetupError(f"{path}: {error}. Is another client of this account running? Use another --state.") from None
        if isinstance(path, Path):
            path.chmod(0o600)  # it holds the token
        self._since_prune = 0
        self._box: Box | None = None
        self._mark = self.get("history")
        self._entries = msgspec.json.Decoder(Entry)

    @property
    def device(self) -> str:
        return self.get("device") or ""

    # -------------------------------------------------------------- facts and names

    def get(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def put(self, name: str, value: str | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM facts WHERE name = ?", (name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def names(self) -> dict[str, str]:
        """`u34` or `g7` → name."""
        return dict(self._db.execute("SELECT id, name FROM names"))

    def put_names(self, names: Mapping[str, str]) -> None:
        with transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", names.items())

    # -------------------------------------------------------------- readers and messages

    def readers(self) -> tuple[dict[str, ReaderState], set[str]]:
        """The state of each, and which are at work: the others rest."""
        expected: dict[str, dict[StreamKey, int]] = {}
        for timeline, sender, conversation, stream, following in self._db.execute(
            "SELECT timeline, sender, conversation, stream, next FROM expected"
        ):
            expected.setdefault(timeline, {})[sender, conversation, stream] = following
        rows = self._db.execute("SELECT timeline, known, fresh, active FROM readers").fetchall()
        states = {t: ReaderState(known, expected.get(t, {}), bool(fresh)) for t, known, fresh, _ in rows}
        return states, {t for t, _, _, active in rows if active}

    def record(
        self,
        messages: Sequence[tuple[str, Message]],
        changes: Mapping[str, ReaderState],
        resets: Mapping[str, ReaderState],
        mark: str | None = None,
    ) -> list[Kept]:
        """One transaction: `messages` with their timelines; of the readers `changes` (the expected seqs that moved) and
        `resets` (all that is known; they rest from now on). `mark`: of the local history that has them, None: none.
        Returns those messages that were not here before, with their numbers."""
        new: list[Kept] = []
        with transaction(self._db):
            for timeline, message in messages:
                if message.kind in protocol.STATE_KINDS:
                    new.append(Kept(0, timeline, message))
                    continue
                row = self._db.execute(_INSERT, _row(timeline, message, self._box)).fetchone()
                if row:
                    new.append(Kept(row[0], timeline, message))
            self._db.executemany("DELETE FROM expected WHERE timeline = ?", [(t,) for t in resets])
            states = {**changes, **resets}
            self._db.executemany(
                "INSERT OR REPLACE INTO readers VALUES (?, ?, ?, ?)",
                [(t, s.known, s.fresh, t not in resets) for t, s in states.items()],
            )
            newest: dict[str, int] = {}
            for timeline, message in messages:
                newest[timeline] = max(newest.get(timeline, 0), message.sent_at)
            self._db.executemany(
                _EXPECT,
                [(t, *key, n, newest.get(t, 0)) for t, s in states.items() for key, n in s.expected.items()],
            )
            if mark != self._mark:
                self.put("history", mark)
            self._since_prune += len(messages)
            if self._since_prune >= _PRUNE_EVERY:
                self._since_prune = 0
                self._db.execute("DELETE FROM messages WHERE number <= (SELECT MAX(number) FROM messages) - ?", (KEEP,))
        self._mark = mark
        return new

    def received_after(self, number: int) -> list[Kept]:
        """Messages with a greater number, in the order received; without those that are sealed to this run."""
        rows = self._db.execute(
            "SELECT number, timeline, pos, body FROM messages WHERE number > ? ORDER BY number", (number,)
        )
        return [Kept(n, timeline, m) for n, timeline, pos, body in rows if (m := self._opened(timeline, pos, body))]

    def sealed_after(self, number: int) -> int:
        """How many of those are sealed, where the key is not here."""
        if self._box:
            return 0
        (count,) = self._db.execute(
            "SELECT COUNT(*) FROM messages WHERE number > ? AND substr(body, 1, 1) = ?", (number, Box.MARK)
        ).fetchone()
        return int(count)

    def newest(self, conversation: str, limit: int) -> list[Message]:
        """The newest of a conversation, oldest first, in display order."""
        rows = self._db.execute(
            "SELECT timeline, pos, body FROM messages WHERE conversation = ? ORDER BY sent_at DESC, pos DESC LIMIT ?",
            (conversation, limit),
        )
        return [m for row in rows if (m := self._opened(*row))][::-1]

    # -------------------------------------------------------------- sealed

    def keep_sealed(self, box: Box) -> None:
        """From now on messages are sealed with `box`."""
        self._box = box
        self._db.execute("PRAGMA secure_delete=ON")

    def clear(self, limit: int) -> list[Kept]:
        """Messages that are not sealed, the oldest first."""
        rows = self._db.execute(
            "SELECT number, timeline, body FROM messages WHERE substr(body, 1, 1) = ? ORDER BY number LIMIT ?", (b"{", limit)
        )
        return [Kept(n, timeline, protocol.decode_message(body)) for n, timeline, body in rows]

    def seal(self, kept: Sequence[Kept]) -> None:
        """Seal these, and leave nothing of them in the file."""
        with transaction(self._db):
            self._db.executemany(
                "UPDATE messages SET body = ? WHERE number = ?",
                [(_row(k.timeline, k.message, self._box)[-1], k.number) for k in kept],
            )
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _opened(self, timeline: str, pos: int, body: bytes) -> Message | None:
        if not body.startswith(Box.MARK):
            return protocol.decode_message(body)
        text = self._box.open(body, _about(timeline, pos)) if self._box else None
        return None if text is None else protocol.decode_message(text)

    # -------------------------------------------------------------- outbox

    def outbox(self) -> list[Entry]:
        """What is not accepted, in the order of composition."""
        return [self._entries.decode(entry) for (entry,) in self._db.execute("SELECT entry FROM outbox ORDER BY id")]

    def put_entries(self, changes: Changes) -> None:
        if changes == NOTHING:
            return
        with transaction(self._db):
            self._db.executemany("DELETE FROM outbox WHERE id = ?", [(number,) for number in changes.gone])
            self._db.executemany(
                "INSERT OR REPLACE INTO outbox VALUES (?, ?)", [(e.id, protocol.encode(e)) for e in changes.put]
            )

    # -------------------------------------------------------------- bits

    def _date_streams(self) -> None:
        """A stream that is known from heads alone, or from an earlier version, counts as written when its timeline was."""
        if not any(row[1] == "at" for row in self._db.execute("PRAGMA table_info(expected)")):
            self._db.execute("ALTER TABLE expected ADD COLUMN at INTEGER NOT NULL DEFAULT 0")
        self._db.execute(_DATE)

    def close(self) -> None:
        self._db.close()


def path_of(folder: Path, server: str, name: str) -> Path:
    """Where the store of an account at a server lies."""
    safe = "".join(c if c.isalnum() or c in ".-_" else "_" for c in server)
    return folder / safe / f"{name}.sqlite"


def _about(timeline: str, pos: object) -> bytes:
    return f"{timeline} {pos}".encode()


def _row(timeline: str, message: Message, box: Box | None) -> tuple[object, ...]:
    text = message.kind == "text"
    # Without a stream the position is what is unique: kinds other than text come once by their chain.
    stream, seq = (message.stream, message.seq) if text else (-1, message.pos)
    conversation = conversation_of(timeline, message.sender, message.to, message.group)
    body = protocol.encode(message)
    if box:
        body = box.seal(body, _about(timeline, message.pos))
    return timeline, conversation, message.sender, stream, seq, message.pos, message.sent_at, body
