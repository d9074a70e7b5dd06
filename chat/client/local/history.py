"""The local history of one account: what a device has received and sent, sealed, each message once.

    history = LocalHistory.open(folder, password)          # raises WrongPassword, SetupError
    history.append([("u34", message), …])                  # on the disk when it returns
    page = history.page("u34", 50)                         # newest first; page.next goes on below

All methods work at once and in one thread at a time; `chat.client.past` calls them off the loop. What is found damaged is
kept in `said` until someone takes it, and costs only itself: the file is looked at anew, and the server is asked again for
what it lacks.

The order of writes: **files, then index, then the reader's state** (in the client's store), then `ack`. Killed between the
first two, the tail of the file is found by its length at the next start; between the last two, the message comes again and
is known by its id.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import UNSET

from chat import protocol
from chat.client.local import files, folders
from chat.client.local.files import BEGIN, Appender, End, Place, Said
from chat.client.local.folders import FileName
from chat.client.local.index import At, Floor, Id, Index, Row
from chat.client.local.keys import NONCE_BYTES, AccountKey, Box, Cost, load_key
from chat.client.local.layout import NO_LINK, Record, link_of, seal
from chat.client.local.opening import INDEX, lock_folder, open_index, open_key
from chat.errors import SetupError
from chat.protocol import Message

__all__ = ["INDEX", "LocalHistory", "Page"]

LIMIT: Final = 200 << 20  # bytes of a file
PAGE_MAX: Final = 1_000
SAID_MAX: Final = 200
CIPHERS: Final = 256  # keys of files kept in memory
RECOVER_STEP: Final = 2_000  # records indexed in one transaction


class Page(NamedTuple):
    """Newest first. `next`: where the page below begins, None: there is none here. `whole`: the server has no more in the
    stretch from `before` to the end of this page."""

    messages: list[Message]
    next: tuple[int, int] | None
    whole: bool


class LocalHistory:
    """See the module. Made by `open`."""

    def __init__(self, folder: Path, lock: int, key: AccountKey, index: Index, limit: int) -> None:
        self.folder = folder
        self.said: list[Said] = []
        self._lock, self._key, self._index, self._limit = lock, key, index, limit
        self._appender = Appender(folder)
        self._ciphers: dict[FileName, AESGCM] = {}
        self._looked_at: set[str] = set()

    # -------------------------------------------------------------- life

    @classmethod
    def open(cls, folder: Path, password: str, *, limit: int = LIMIT, cost: Cost | None = None) -> LocalHistory:
        """Open the history in `folder`, or begin one. One without any message is begun anew where the password is another:
        it was made before a log-in that failed. `limit`: bytes of a file. Takes some 0.2 s, on purpose.

        Raises WrongPassword, SetupError.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = lock_folder(folder)
        except OSError as error:
            raise SetupError(f"{folder}: {error.strerror}") from None
        try:
            key = open_key(folder, password, cost or Cost())
            index, rebuilt = open_index(folder, key)
            history = cls(folder, lock, key, index, limit)
            if rebuilt:
                history._say(Said("its index was damaged, and is made anew from the files", loss=False))
            return history
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError | sqlite3.Error):
                raise SetupError(f"{folder}: {error}") from None
            raise

    def close(self) -> None:
        """Nothing is lost without it."""
        self._appender.close()
        self._index.close()
        os.close(self._lock)

    def change_password(self, old: str, new: str, cost: Cost | None = None) -> None:
        """Seal the account key with `new`; no other file changes. Raises WrongPassword, SetupError."""
        load_key(self.folder, old).save(self.folder, new, cost or Cost())

    def box(self, name: str) -> Box:
        """A cipher of this history's for small things that lie elsewhere."""
        return self._key.box(name)

    @property
    def mark(self) -> str:
        """How far this history is; to be stored with the reader's state."""
        return f"{self._key.history}:{self._index.count}"

    def covers(self, mark: str | None) -> bool:
        """Is it at least as far as it was at `mark`? Otherwise it is an older copy, or was closed in between."""
        name, _, count = (mark or "").partition(":")
        return name == self._key.history and count.isdecimal() and int(count) <= self._index.count

    # -------------------------------------------------------------- writing

    def append(self, items: Iterable[tuple[str, Message]], started_over: Sequence[str] = ()) -> int:
        """Add messages (with their conversations) that are not here yet; they are on the disk when it returns how many
        were new. `started_over`: timelines of which something was missed and does not come by itself.

        Raises OSError, sqlite3.Error: then nothing of it counts as added, and the same again is right.
        """
        waiting: dict[tuple[str, str], list[tuple[Id, Message]]] = {}
        seen: set[Id] = set()
        for conversation, message in items:
            found = _id(conversation, message)
            if found is None or found in seen or not folders.is_conversation(conversation):
                continue
            self._look_at(conversation)
            if not self._index.has(found):
                seen.add(found)
                waiting.setdefault((conversation, folders.day_of(message.sent_at)), []).append((found, message))
        if not seen and not started_over:
            return 0
        touched: list[FileName] = []
        try:
            with self._index.transaction():
                for (conversation, day), messages in waiting.items():
                    self._write(conversation, day, messages, touched)
                for name in touched:
                    self._appender.sync(name)
                self._index.drop_floors(started_over)
                count = self._index.counted()
        except BaseException:
            self._take_back(touched)
            raise
        self._index.count = count
        return len(seen)

    def _write(self, conversation: str, day: str, messages: Sequence[tuple[Id, Message]], touched: list[FileName]) -> None:
        """Behind the end of the day's last file, or of the next where that one is full."""
        name, number, end = self._index.last_part(conversation, day) or self._new_file(FileName(conversation, day, 0))
        data, rows = bytearray(), list[Row]()

        def write() -> None:
            if data:
                touched.append(name)
                self._appender.write(name, end.offset - len(data), bytes(data))
                self._index.add(rows)
                self._index.move_end(number, end)

        for found, message in messages:
            text = protocol.encode(msgspec.structs.replace(message, prev=UNSET))
            record = seal(self._cipher(name), end.number, end.link, secrets.token_bytes(NONCE_BYTES), text)
            if end.offset + len(record) > self._limit and end.number:
                write()
                data, rows = bytearray(), []
                name, number, end = self._new_file(FileName(conversation, day, name.part + 1))
                record = seal(self._cipher(name), 0, NO_LINK, secrets.token_bytes(NONCE_BYTES), text)
            place = Place(end.offset, len(record), end.number)
            rows.append(_row(found, message, number, place))
            data += record
            end = End(end.offset + len(record), end.number + 1, link_of(record))
        write()

    def _new_file(self, name: FileName) -> tuple[FileName, int, End]:
        return name, self._index.add_file(name), BEGIN

    def _take_back(self, touched: Iterable[FileName]) -> None:
        """After a failure: what lies behind the ends in the index is not known to be on the disk, and is cut off. Where
        that fails too, the files are looked at when they are next used."""
        for name in touched:
            self._looked_at.discard(name.conversation)
            try:
                known = self._index.files(name.conversation).get(name)
                self._appender.cut(name, known[1].offset if known else 0)
            except (OSError, sqlite3.Error):
                continue
        self._appender.close()

    # -------------------------------------------------------------- reading

    def page(self, conversation: str, limit: int, before: tuple[int, int] | None = None) -> Page:
        """The newest `limit` messages (at most `PAGE_MAX`) in the order of display, below `before` (the `next` of a page).
        Raises OSError, sqlite3.Error."""
        if not folders.is_conversation(conversation):
            return Page([], None, whole=False)
        limit = max(min(limit, PAGE_MAX), 1)
        self._look_at(conversation)
        rows, messages = self.read(lambda: self._index.page(conversation, limit, before))
        last = (rows[-1].sent_at, rows[-1].pos) if rows else None
        floor = self._index.floor(conversation)
        full = len(rows) == limit and last is not None
        whole = floor is not None and (floor.cursor is None or (full and last is not None and last >= floor[:2]))
        return Page(messages, last if full else None, whole)

    def scan(self, conversation: str | None, limit: int, before: At | None) -> tuple[list[tuple[str, Message]], At | None]:
        """`limit` messages of one conversation, or of all that were looked at, newest first; and where to go on, None
        where all is read. For searches."""
        if conversation is not None:
            page = self.page(conversation, limit, before[:2] if before else None)
            following = (*page.next, conversation) if page.next else None
            return [(conversation, message) for message in page.messages], following
        rows, messages = self.read(lambda: self._index.all_before(limit, before))
        following = (rows[-1].sent_at, rows[-1].pos, rows[-1].id.conversation) if len(rows) == limit else None
        return [(row.id.conversation, message) for row, message in zip(rows, messages, strict=True)], following

    def read(self, find: Callable[[], list[Row]]) -> tuple[list[Row], list[Message]]:
        """What the index finds. Where something does not open at its place, its file is looked at anew, and then once
        more."""
        for _ in range(2):
            rows = find()
            texts = self._texts(rows)
            bad = {row.file for row, text in zip(rows, texts, strict=True) if text is None}
            if not bad:
                break
            for file in bad:
                self._look_anew(file)
        good = [(row, protocol.decode_message(text)) for row, text in zip(rows, texts, strict=True) if text is not None]
        return [row for row, _ in good], [message for _, message in good]

    def _texts(self, rows: Sequence[Row]) -> list[bytes | None]:
        by_file: dict[int, list[Row]] = {}
        for row in rows:
            by_file.setdefault(row.file, []).append(row)
        texts: dict[tuple[int, int], bytes | None] = {}
        for file, wanted in by_file.items():
            name = self._index.file_name(file)
            found = files.read(self.folder, name, self._cipher(name), [row.place for row in wanted])
            texts.update(((file, row.place.offset), text) for row, text in zip(wanted, found, strict=True))
        return [texts[row.file, row.place.offset] for row in rows]

    def has(self, conversation: str, message: Message) -> bool:
        found = _id(conversation, message)
        if found is None or not folders.is_conversation(conversation):
            return False
        self._look_at(conversation)
        return self._index.has(found)

    def conversations(self) -> list[str]:
        """Those that have something, the one with the newest first."""
        for conversation in folders.conversations(self.folder):
            self._look_at(conversation)
        return self._index.conversations()

    # -------------------------------------------------------------- what the server has

    def floor(self, conversation: str) -> Floor | None:
        return self._index.floor(conversation)

    def put_floor(self, conversation: str, floor: Floor) -> None:
        """Everything from `floor` on upwards is here, or comes by itself."""
        with self._index.transaction():
            self._index.put_floor(conversation, floor)

    def drop_floors(self) -> bool:
        """Something was missed, and it is not known where: the server is asked again."""
        with self._index.transaction():
            self._index.drop_floors()
        return True

    # -------------------------------------------------------------- after a crash, or damage

    def _look_at(self, conversation: str) -> None:
        """Once a run: is there more, or less, in its files than the index knows?"""
        if conversation in self._looked_at:
            return
        known = self._index.files(conversation)
        there = folders.files(self.folder, conversation)
        for name, size in there.items():
            number, end = known.get(name, (0, BEGIN))
            if number and end.number and size < end.offset:
                self._lost(name, "it is shorter than it was")
                self._forget(number)
                number, end = 0, BEGIN
            if not number or size > end.offset:
                self._recover(name, number, end)
        for name, (number, end) in known.items():
            if name not in there:
                if end.number:
                    self._lost(name, "it is gone")
                self._forget(number)
        self._looked_at.add(conversation)

    def _look_anew(self, file: int) -> None:
        name = self._index.file_name(file)
        self._forget(file)
        self._appender.close()
        if name.below(self.folder).exists():
            with self._index.transaction():
                self._index.drop_floor(name.conversation)
            self._recover(name, 0, BEGIN)
        else:
            self._lost(name, "it is gone")

    def _recover(self, name: FileName, number: int, end: End) -> None:
        """Index what lies behind `end` in the file with this number (0: it has none yet). In steps, each with the end that
        it came to: if the next is not come to, it is the first of the next time."""
        if not number:
            with self._index.transaction():
                number = self._index.add_file(name)
        rows: list[Row] = []

        def step() -> None:
            with self._index.transaction():
                self._index.add(rows)
                self._index.move_end(number, end)
            rows.clear()

        for found in files.recover(self.folder, name, self._cipher(name), end):
            if isinstance(found, Said):
                self._say(found)
                if found.loss:
                    with self._index.transaction():
                        self._index.drop_floor(name.conversation)
                continue
            if row := _indexed(name, found, number):
                rows.append(row)
            end = End(found.end, max(end.number, found.number + 1), found.link)
            if len(rows) >= RECOVER_STEP:
                step()
        step()
        if not name.below(self.folder).exists():
            self._forget(number)

    def _forget(self, file: int) -> None:
        with self._index.transaction():
            self._index.drop_file(file)

    def _lost(self, name: FileName, what: str) -> None:
        self._say(Said(f"{name.conversation}/{name.below(self.folder).name}: {what}", loss=True))
        with self._index.transaction():
            self._index.drop_floor(name.conversation)

    def _say(self, said: Said) -> None:
        if len(self.said) < SAID_MAX:
            self.said.append(said)

    def _cipher(self, name: FileName) -> AESGCM:
        cipher = self._ciphers.get(name)
        if cipher is None:
            while len(self._ciphers) >= CIPHERS:
                del self._ciphers[next(iter(self._ciphers))]
            cipher = self._ciphers[name] = self._key.derive("file", name.conversation, name.day, str(name.part))
        return cipher


def _id(conversation: str, message: Message) -> Id | None:
    """None for what is no part of a history."""
    if message.kind in protocol.STATE_KINDS or not isinstance(message.pos, int):
        return None
    if message.kind != "text":
        return Id(conversation, message.sender, -1, message.pos)
    if not isinstance(message.stream, int) or not isinstance(message.seq, int):
        return None
    return Id(conversation, message.sender, message.stream, message.seq)


def _row(found: Id, message: Message, file: int, place: Place) -> Row:
    pos = message.pos
    assert isinstance(pos, int)
    return Row(found, message.sent_at, pos, file, place)


def _indexed(name: FileName, record: Record, file: int) -> Row | None:
    try:
        message = protocol.decode_message(record.text)
    except msgspec.DecodeError:
        return None  # of a later version: it stays where it is
    found = _id(name.conversation, message)
    return found and _row(found, message, file, Place(record.offset, record.end - record.offset, record.number))
