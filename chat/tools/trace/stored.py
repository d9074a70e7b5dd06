"""What MySQL knows of a message. Reads only, each bounded by an index. All methods raise PartError."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from chat.config import ArchiveConfig
from chat.errors import PartError
from chat.message_id import MessageId, id_of
from chat.persist.archive.cold import Cold
from chat.persist.archive.pieces import FOREVER, MOST_PIECES, Ids, Piece
from chat.persist.queries import OFFSETS, places
from chat.ports import Database, Statement
from chat.protocol import decode_message
from chat.records import TopicPartition, conversation_of
from chat.tools.trace.facts import Ack, Device, Slice

#: Members of a group who are looked at, and devices of all of them.
READERS: Final = 1_000
DEVICES: Final = 5_000
SLICES: Final = 5
CACHE_MB: Final = 16
_NO_TABLE: Final = "1146"


class Row(NamedTuple):
    timeline: str
    pos: int
    sent_at: int
    sender: int
    kind: str
    body: bytes

    def id(self) -> MessageId | None:
        try:
            return id_of(decode_message(self.body))
        except msgspec.DecodeError:
            return None


class Head(NamedTuple):
    """Of a stream: what of it was stored last."""

    id: MessageId
    next_seq: int
    last_position: int
    last_sent_at: int


class People(NamedTuple):
    """`acks`: (timeline, user, device) → what the device's cursor covers; only those that cover the position."""

    names: Mapping[int, str]
    devices: Mapping[int, list[Device]]
    acks: Mapping[tuple[str, int, str], Ack]
    read: Sequence[int]


class Archived(NamedTuple):
    pos: int
    sent_at: int
    slice: Slice


class Stored:
    def __init__(self, database: Database, archive: ArchiveConfig) -> None:
        self._database = database
        self._cold = Cold(archive.url, CACHE_MB) if archive.url else None

    async def user(self, name: str) -> int | None:
        (result,) = await self._database.read([Statement("SELECT id FROM users WHERE name = %s", (name,))])
        return int(result.rows[0][0]) if result.rows else None

    async def offsets(self) -> dict[TopicPartition, int]:
        """Persist's next offsets."""
        (result,) = await self._database.read([OFFSETS])
        return {TopicPartition(topic, number): next_offset for topic, number, _, next_offset in result.rows}

    async def rows(self, message: MessageId) -> dict[str, Row]:
        """Its rows by timeline."""
        statements = [
            Statement(
                "SELECT timeline, position, sent_at, sender, kind, body FROM messages FORCE INDEX (by_stream)"
                " WHERE timeline = %s AND stream = %s AND seq = %s AND sender = %s AND conversation = %s"
                " ORDER BY position LIMIT 1",
                (t, message.stream, message.seq, message.sender, _conversation(message, t)),
            )
            for t in message.timelines
        ]
        results = await self._database.read(statements)
        return {r.rows[0][0]: Row(*r.rows[0]) for r in results if r.rows}

    async def row(self, timeline: str, pos: int) -> Row | None:
        sql = "SELECT timeline, position, sent_at, sender, kind, body FROM messages WHERE timeline = %s AND position = %s"
        (result,) = await self._database.read([Statement(sql, (timeline, pos))])
        return Row(*result.rows[0]) if result.rows else None

    async def heads(self, message: MessageId) -> dict[str, int]:
        """The next seq of its stream by timeline, where anything of the stream was stored."""
        sql = (
            "SELECT next_seq FROM streams WHERE timeline = %s AND conversation = %s AND sender = %s AND stream = %s"
        )  # fmt: skip
        args = [(t, _conversation(message, t), message.sender, message.stream) for t in message.timelines]
        results = await self._database.read([Statement(sql, a) for a in args])
        return {t: r.rows[0][0] for t, r in zip(message.timelines, results, strict=True) if r.rows}

    async def last(self, sender: int, conversation: str | None) -> MessageId | None:
        """The newest text of a sender that is stored."""
        (groups,) = await self._database.read(
            [Statement("SELECT DISTINCT chat_group FROM members WHERE user = %s LIMIT %s", (sender, READERS))]
        )
        timelines = [f"u{sender}", *(f"g{number}" for (number,) in groups.rows)]
        if conversation is not None:
            timelines = [conversation if conversation[0] == "g" else f"u{sender}"]
        narrow, args = ("", ()) if conversation is None else (" AND conversation = %s", (conversation,))
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT sender, conversation, stream, next_seq - 1 FROM streams"
                    f" WHERE timeline IN ({places(timelines)}) AND sender = %s{narrow}"
                    " ORDER BY last_sent_at DESC LIMIT 1",
                    (*timelines, sender, *args),
                )
            ]
        )
        return MessageId(*result.rows[0]) if result.rows else None

    # ------------------------------------------------------------------ people

    async def members(self, group: int, pos: int) -> list[int]:
        """Who is to get what lies at this position of a group's timeline; READERS of them at most."""
        sql = (
            "SELECT DISTINCT user FROM members WHERE chat_group = %s AND from_position <= %s"
            " AND (to_position IS NULL OR to_position >= %s) ORDER BY user LIMIT %s"
        )
        (result,) = await self._database.read([Statement(sql, (group, pos, pos, READERS))])
        return [user for (user,) in result.rows]

    async def people(
        self, users: Collection[int], positions: Mapping[str, int], conversations: Mapping[int, str], sent_at: int
    ) -> People:
        """`positions`: timeline → what is to be acknowledged. `conversations`: user → how he names the conversation."""
        if not users:
            return People({}, {}, {}, [])
        who, marks = list(users), places(users)
        statements = [
            Statement(f"SELECT id, name FROM users WHERE id IN ({marks})", who),
            Statement(
                f"SELECT user, device, label, created_at, seen_at FROM devices WHERE user IN ({marks})"
                " ORDER BY user, seen_at DESC LIMIT %s",
                [*who, DEVICES],
            ),
            Statement(
                f"SELECT user, conversation FROM read_marks WHERE user IN ({marks}) AND sent_at >= %s"
                f" AND conversation IN ({places(conversations) or 'NULL'})",
                [*who, sent_at, *conversations.values()],
            ),
        ]
        if positions:
            statements.append(
                Statement(
                    f"SELECT timeline, user, device, position FROM cursors WHERE user IN ({marks})"
                    f" AND timeline IN ({places(positions)})",
                    [*who, *positions],
                )
            )
        names, devices, read, *cursors = await self._database.read(statements)
        by_user: dict[int, list[Device]] = {user: [] for user in users}
        for row in devices.rows:
            by_user[row[0]].append(Device(*row))
        acks = {
            (timeline, user, device): Ack(pos, None)
            for result in cursors
            for timeline, user, device, pos in result.rows
            if pos >= positions[timeline]
        }
        readers = [user for user, conversation in read.rows if conversations.get(user) == conversation]
        return People(dict(names.rows), by_user, acks, readers)

    # ------------------------------------------------------------------ the archive

    async def archived(self, message: MessageId, timeline: str) -> Archived | None:
        """Its row in the archive, where this process knows where that is."""
        if self._cold is None:
            return None
        sql = (
            "SELECT s.id, s.created_at, s.file, i.first_row, i.row_count, i.min_position, i.max_position, i.min_sent_at,"
            " i.max_sent_at FROM archive_index i JOIN archive_slices s ON s.id = i.slice"
            " WHERE i.timeline = %s AND i.conversation = %s ORDER BY i.max_sent_at DESC LIMIT %s"
        )
        args = (timeline, _conversation(message, timeline), MOST_PIECES)
        (result,) = await self._database.read([Statement(sql, args)])
        slices = {file: Slice(number, file, at, sure=True) for number, at, file, *_ in result.rows}
        pieces = [Piece(*row[2:]) for row in result.rows]
        wanted = Ids(message.sender, message.stream, frozenset({message.seq}), 0, FOREVER)
        for pos, place in await self._cold.find(pieces, wanted):
            (row,) = await self._cold.rows([place], bodies=False)
            return Archived(pos, row.sent_at, slices[place.file])
        return None

    async def slices(self, timeline: str, conversation: str, pos: int, sent_at: int) -> list[Slice]:
        """Those whose stretch of the conversation covers it; none where nothing was ever archived."""
        sql = (
            "SELECT s.id, s.file, s.created_at FROM archive_index i JOIN archive_slices s ON s.id = i.slice"
            " WHERE i.timeline = %s AND i.conversation = %s AND i.min_position <= %s AND i.max_position >= %s"
            " AND i.min_sent_at <= %s AND i.max_sent_at >= %s ORDER BY s.id LIMIT %s"
        )
        try:
            (result,) = await self._database.read(
                [Statement(sql, (timeline, conversation, pos, pos, sent_at, sent_at, SLICES))]
            )
        except PartError as error:
            if error.message.startswith(_NO_TABLE):
                return []
            raise
        return [Slice(*row) for row in result.rows]


def _conversation(message: MessageId, timeline: str) -> str:
    return conversation_of(timeline, message.sender, message.to, message.group)
