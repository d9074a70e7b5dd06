"""What Kafka's topics hold of a message: read-only, in no group, until a moment is over.

Two passes. **Back**: from the end of the log, where neither MySQL nor the asker knows where the message lies; and from the
message's time in the presence topic, for log-ins before it. **Forward**: from the message's time on in every topic at once,
merged by time, so that where the moment ends everything was read up to one and the same time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

from chat.positions import generation_of, offset_of, position
from chat.records import Consumed, TopicPartition, partition_of
from chat.tools.logsource import Limits, LogSource, Span

#: Clocks of processes on different machines differ by less, and `sent_at` is at most so far ahead of them.
SKEW_MS: Final = 5_000
CHUNK: Final = 20_000  # records of a step back

Wanted = Callable[[TopicPartition, Consumed], bool]
Batch = Sequence[tuple[TopicPartition, Consumed]]


def part(span: Span, start: int | None = None, end: int | None = None) -> Span:
    """The same with another start or end. (A Span's length is that of its range, so it has no _replace.)"""
    return Span(span.partition, span.start if start is None else start, span.end if end is None else end, span.first)


class Logs:
    """All methods raise PartAway; SetupError where Kafka has no topic of messages."""

    def __init__(self, source: LogSource) -> None:
        self._source = source
        self.topics = source.topics
        self._newest = ""
        self._names: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Which topics there are."""
        self._newest = (await self._source.message_topics())[-1]
        self._names = await self._source.admin.topics()

    def has(self, topic: str) -> bool:
        return topic in self._names

    @property
    def edge_topics(self) -> list[str]:
        return sorted(name for name in self._names if name.startswith(self.topics.edge_prefix))

    # ------------------------------------------------------------------ places

    async def place(self, timeline: str, pos: int | None = None) -> TopicPartition:
        """Where a timeline lies: in the generation of `pos`, or in the newest."""
        topic = self._newest if pos is None else self.topics.generation_topic(generation_of(pos))
        count = await self._source.admin.partitions(topic) if topic in self._names else 0
        return TopicPartition(topic, partition_of(timeline, count) if count else 0)

    async def receipts_places(self, users: Collection[int]) -> set[TopicPartition]:
        topic = self.topics.receipts
        count = await self._source.admin.partitions(topic) if topic in self._names else 0
        return {TopicPartition(topic, partition_of(f"u{user}", count)) for user in users} if count else set()

    def pos_of(self, where: TopicPartition, offset: int) -> int:
        return position(self.topics.generation_of(where.topic) or 0, offset)

    async def passed(self, group: str, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """What a consumer group has committed."""
        found = await self._source.admin.group_offsets(group, list(places))
        return {p: offset for p, offset in found.items() if offset is not None}

    async def at(self, where: TopicPartition, pos: int) -> Consumed | None:
        """The record at a position; None: the log does not have it (any more)."""
        if where.topic not in self._names:
            return None
        offset = offset_of(pos)
        (start,) = (await self._source.admin.start_offsets([where])).values()
        (end,) = (await self._source.admin.end_offsets([where])).values()
        if not start <= offset < end:
            return None
        reading = self._source.read([Span(where, offset, offset + 1, start)])
        async for batch in reading:
            return batch[0][1]
        return None

    # ------------------------------------------------------------------ passes

    async def spans(
        self, topics: Iterable[str], limits: Limits, only: Collection[TopicPartition] | None = None
    ) -> list[Span]:
        found = await self._source.spans([t for t in topics if t in self._names], limits)
        return [span for span in found if only is None or span.partition in only]

    def read(self, spans: Sequence[Span], wanted: Wanted) -> AsyncIterator[Batch]:
        return self._source.read(spans, wanted)

    async def back(self, places: Collection[TopicPartition], wanted: Wanted, before: int | None = None) -> Steps:
        """Step by step towards older records, from the ends or from `before` (ms) on."""
        limits = Limits() if before is None else Limits(since=before)
        spans = await self.spans({p.topic for p in places}, Limits(), set(places))
        if before is not None:
            later = {span.partition: span.start for span in await self.spans({p.topic for p in places}, limits, set(places))}
            spans = [part(span, end=later.get(span.partition)) for span in spans]
        return Steps(self._source, spans, wanted)


class Steps:
    """`async for records in steps`: each step is older than the one before, and in itself in order. `oldest`: the time from
    which on everything was read; None: nothing yet. `whole`: the beginning was reached."""

    def __init__(self, source: LogSource, spans: Sequence[Span], wanted: Wanted) -> None:
        self._source = source
        self._spans = [span for span in spans if span]
        self._wanted = wanted
        self.trimmed = any(span.first for span in spans)
        self.oldest: int | None = None

    @property
    def whole(self) -> bool:
        return not self._spans

    def __aiter__(self) -> Steps:
        return self

    async def __anext__(self) -> list[tuple[TopicPartition, Consumed]]:
        if not self._spans:
            raise StopAsyncIteration
        step = [part(span, start=max(span.start, span.end - CHUNK)) for span in self._spans]
        oldest: dict[TopicPartition, int] = {}

        def wanted(where: TopicPartition, record: Consumed) -> bool:
            oldest.setdefault(where, record.timestamp)
            return self._wanted(where, record)

        found: list[tuple[TopicPartition, Consumed]] = []
        async for batch in self._source.read(step, wanted):
            found += batch
        self.oldest = max(oldest.values(), default=self.oldest)
        rest = [part(old, end=new.start) for old, new in zip(self._spans, step, strict=True)]
        self._spans = [span for span in rest if span]
        return found
