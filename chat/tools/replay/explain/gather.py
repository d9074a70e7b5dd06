"""What an explanation needs: the records of a user's timelines from Kafka; who was a member when, what the device had at the
beginning, and the stream heads there, from Kafka and MySQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from chat.errors import SetupError
from chat.ports import Database, Statement
from chat.positions import position
from chat.protocol import Message, decode_message
from chat.records import (
    Consumed,
    TopicPartition,
    conversation_of,
    decode_presence,
    decode_receipts,
    group_timeline,
    partition_of,
    unpack_deliveries,
    user_timeline,
)
from chat.tools.logsource import Limits, LogSource, Span
from chat.tools.replay.explain.track import Arrived, Stay, StreamKey, Track

#: Records of one user's timelines that are held in memory.
MOST: Final = 300_000
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Case(NamedTuple):
    """`loud`: the records of the range, in the order of the log; what lies before them is told to the device in silence.
    `notes`: what is not known, in words."""

    tracks: dict[str, Track]
    silent: list[tuple[str, Arrived]]
    loud: list[tuple[str, Arrived]]
    notes: list[str]


class Session(NamedTuple):
    """A log-in or log-out of the device."""

    time: int
    login: bool
    edge: str
    incarnation: int
    session: str


class Came(NamedTuple):
    """A delivery for a timeline of the user, in an edge's topic."""

    time: int
    edge: str
    incarnation: int | None
    timeline: str
    message: Message


class Gatherer:
    def __init__(self, source: LogSource, database: Database, user: int, device: str) -> None:
        self._source = source
        self._database = database
        self._user = user
        self._device = device
        self._own = user_timeline(user)

    async def case(self, topics: Sequence[str], limits: Limits, *, from_nothing: bool) -> Case:
        """Raises SetupError (too much, no such partition), PartError."""
        stays = await self._stays()
        timelines = [self._own, *stays]
        spans = {s.partition: s for s in await self._source.spans(topics, limits)}
        places = {t: await self._places(t, topics) for t in timelines}
        notes: list[str] = []
        ranges = {t: [spans[p] for p in places[t] if p in spans] for t in timelines if any(p in spans for p in places[t])}
        firsts = {t: self._position(mine[0], mine[0].start) for t, mine in ranges.items()}
        begins = {t: first - 1 for t, first in firsts.items()}
        cursors: dict[str, int] = {}
        if not from_nothing:
            cursors = await self._cursors(limits, firsts, notes)
            for timeline, cursor in cursors.items():
                if timeline in begins:
                    begins[timeline] = min(begins[timeline], cursor)
        records = await self._records(topics, ranges, begins, limits)
        tracks: dict[str, Track] = {}
        for timeline in ranges:
            heads = await self._heads(timeline, begins[timeline], [r for _, _, r in records[timeline]])
            tracks[timeline] = Track(
                timeline, self._user, records[timeline], begin=begins[timeline], heads=heads,
                stays=None if timeline == self._own else stays[timeline],
            )  # fmt: skip
        in_order = self._in_order(tracks)
        loud = [(t, r) for t, r in in_order if r.pos >= firsts[t] and self._within(limits, r)]
        silent = [(t, r) for t, r in in_order if r.pos < firsts[t] or (limits.since or 0) > r.time]
        return Case(tracks, silent, loud, notes)

    @staticmethod
    def _within(limits: Limits, arrived: Arrived) -> bool:
        time = arrived.time
        return (limits.since is None or time >= limits.since) and (limits.until is None or time < limits.until)

    @staticmethod
    def _in_order(tracks: dict[str, Track]) -> list[tuple[str, Arrived]]:
        """By time; within a timeline as the log has them."""
        keyed = []
        for timeline, track in tracks.items():
            high = 0
            for record in track.records:
                high = max(high, record.time)
                keyed.append((high, timeline[0] == "g", timeline, record.pos, record))
        keyed.sort(key=lambda k: k[:4])
        return [(timeline, record) for _, _, timeline, _, record in keyed]

    def _position(self, span: Span, offset: int) -> int:
        return position(self._source.topics.generation_of(span.partition.topic) or 0, offset)

    async def _places(self, timeline: str, topics: Iterable[str]) -> list[TopicPartition]:
        """Where it lies, by generation."""
        found = []
        for topic in topics:
            count = await self._source.admin.partitions(topic)
            found.append(TopicPartition(topic, partition_of(timeline, count)))
        return found

    async def _stays(self) -> dict[str, list[Stay]]:
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT chat_group, from_position, to_position FROM members WHERE user = %s"
                    " ORDER BY chat_group, from_position",
                    (self._user,),
                )
            ]
        )
        stays: dict[str, list[Stay]] = {}
        for group, first, last in result.rows:
            stays.setdefault(group_timeline(group), []).append((first, last))
        return stays

    async def _cursors(self, limits: Limits, firsts: dict[str, int], notes: list[str]) -> dict[str, int]:
        """What the device had acknowledged when the range begins, where that can be known."""
        acks: dict[str, int] = {}
        if limits.since is not None:
            for record in await self._of_key(self._source.topics.receipts, Limits(until=limits.since)):
                try:
                    receipts = decode_receipts(record.value)
                except _MALFORMED:
                    continue
                if receipts.device == self._device:
                    for timeline, pos in receipts.acks.items():
                        acks[timeline] = max(acks.get(timeline, 0), pos)
        (result,) = await self._database.read(
            [Statement("SELECT timeline, position FROM cursors WHERE user = %s AND device = %s", (self._user, self._device))]
        )
        now = {t if isinstance(t, str) else t.decode(): pos for t, pos in result.rows}
        if not now:
            notes.append(
                f"user {self._user} has no device {self._device} with a cursor; `--start nothing` is what a new one sees"
            )
        for timeline, first in firsts.items():
            if timeline not in acks and timeline in now:
                if now[timeline] < first:
                    acks[timeline] = now[timeline]  # it has not moved since
                else:
                    notes.append(
                        f"{timeline}: what the device had when the range began is not known; "
                        f"explained as if it had everything below {first}"
                    )
        return acks

    async def _of_key(self, topic: str, limits: Limits) -> list[Consumed]:
        key = self._own.encode()
        found: list[Consumed] = []
        async for batch in self._source.read(await self._source.spans([topic], limits), lambda _, r: r.key == key):
            found += [record for _, record in batch if limits.within(record)]
        return found

    async def _records(
        self, topics: Sequence[str], ranges: dict[str, list[Span]], begins: dict[str, int], limits: Limits
    ) -> dict[str, list[tuple[int, TopicPartition, Consumed]]]:
        wider: dict[TopicPartition, Span] = {}
        for timeline, mine in ranges.items():
            for span in mine:
                start = span.start
                if begins[timeline] < self._position(span, start) - 1:
                    behind = begins[timeline] - self._position(span, 0) + 1  # the offset behind the begin
                    start = max(span.first, min(start, behind))
                known = wider.get(span.partition)
                wider[span.partition] = span._replace(start=start if known is None else min(known.start, start))
        keys = {timeline.encode(): timeline for timeline in ranges}
        found: dict[str, list[tuple[int, TopicPartition, Consumed]]] = {timeline: [] for timeline in ranges}
        count = 0
        async for batch in self._source.read(list(wider.values()), lambda _, r: r.key in keys):
            for partition, record in batch:
                generation = self._source.topics.generation_of(partition.topic) or 0
                timeline = keys[record.key or b""]
                late = limits.until is not None and record.timestamp >= limits.until
                if position(generation, record.offset) > begins[timeline] and not late:
                    found[timeline].append((generation, partition, record))
                    count += 1
            if count > MOST:
                raise SetupError(f"more than {MOST:,} records of the user's timelines: narrow the range (--since, --until)")
        for records in found.values():
            records.sort(key=lambda r: (r[0], r[2].offset))
        return found

    async def _heads(self, timeline: str, begin: int, records: Sequence[Consumed]) -> dict[StreamKey, int]:
        """The next seq of every stream where the device begins: from the rows below. Where those are archived, a stream
        begins with what the range shows first."""
        rows, cold = await self._database.read(
            [
                Statement(
                    "SELECT sender, conversation, stream, MAX(seq) + 1 FROM messages WHERE timeline = %s AND position <= %s"
                    " AND stream IS NOT NULL GROUP BY sender, conversation, stream",
                    (timeline, begin),
                ),
                Statement(
                    "SELECT DISTINCT conversation FROM archive_index WHERE timeline = %s AND min_position <= %s",
                    (timeline, begin),
                ),
            ]
        )
        heads = {(sender, _text(c), stream): int(seq) for sender, c, stream, seq in rows.rows}
        archived = {_text(c) for (c,) in cold.rows}
        for record in records if archived else ():
            try:
                message = decode_message(record.value)
            except _MALFORMED:
                continue
            if message.kind == "text" and isinstance(message.stream, int) and isinstance(message.seq, int):
                conversation = conversation_of(timeline, message.sender, message.to, message.group)
                if conversation in archived:
                    heads.setdefault((message.sender, conversation, message.stream), message.seq)
        return heads

    # ---------------------------------------------------------------- what really arrived

    async def sessions(self, until: int | None) -> list[Session]:
        """The device's log-ins and log-outs, from as long ago as the topic of presence goes."""
        found = []
        for record in await self._of_key(self._source.topics.presence, Limits(until=until)):
            try:
                event = decode_presence(record.value)
            except _MALFORMED:
                continue
            if event.event in ("login", "logout") and event.device == self._device:
                found.append(Session(record.timestamp, event.event == "login", event.edge, event.incarnation, event.session))
        return found

    async def deliveries(self, timelines: Iterable[str], limits: Limits) -> list[Came]:
        names = frozenset(timelines)
        topics = await self._source.edge_topics()
        found: list[Came] = []
        prefix = self._source.topics.edge_prefix
        async for batch in self._source.read(
            await self._source.spans(topics, limits._replace(first=None, to=None, partitions=None))
        ):
            for (topic, _), record in batch:
                if not limits.within(record):
                    continue
                try:
                    deliveries = unpack_deliveries(record.value)
                except msgspec.DecodeError:
                    continue
                for one in deliveries.deliveries:
                    if one.timeline in names:
                        try:
                            message = decode_message(one.payload)
                        except _MALFORMED:
                            continue
                        edge = topic.removeprefix(prefix)
                        found.append(Came(record.timestamp, edge, deliveries.incarnation, one.timeline, message))
        return found


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii")
