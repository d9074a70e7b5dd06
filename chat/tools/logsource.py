"""Reading ranges of Kafka's topics to look at them: no consumer group, nothing committed, nothing written.

    async with open_log_source(config.kafka) as source:
        spans = await source.spans(await source.message_topics(), Limits(since=1_700_000_000_000))
        async for batch in source.read(spans):
            for partition, record in batch: …

The ends of the spans are fixed when they are made, so reading ends even while others write. What is read is merged over the
partitions by time, in an order that only the log's content decides (see `logmerge.py`): the same spans give the same
records in the same order, however the fetches fell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

import structlog
import trio

from chat.backoff import Backoff
from chat.bridge.kafka_admin import KafkaLogAdmin, open_log_admin
from chat.bridge.kafka_reader import KafkaLogReader, open_log_reader
from chat.config import KafkaConfig
from chat.errors import PartAway, SetupError
from chat.ports import OutOfRange
from chat.records import Consumed, TopicPartition, Topics
from chat.tools.logmerge import Lane, Sourced, merge

log = structlog.get_logger()

#: Records taken of one partition at a time.
CHUNK: Final = 4_000
#: Records of a partition do not lie exactly in the order of their times: each edge has a clock of its own, and an answer
#: is never before what it answers. `until` looks this much further for stragglers.
STRAGGLERS_MS: Final = 60_000
#: One look for records; it is repeated.
_POLL_S: Final = 1.0

Wanted = Callable[[TopicPartition, Consumed], bool]


class Span(NamedTuple):
    """Offsets `start` up to, not including, `end` of a partition. `first`: the first that the log still has; where more
    was asked for than that, it is gone."""

    partition: TopicPartition
    start: int
    end: int
    first: int = 0

    @property
    def size(self) -> int:
        """Offsets in it."""
        return max(0, self.end - self.start)


class Limits(NamedTuple):
    """What of a topic. Times in milliseconds, by the records' own time: since ≤ time < until. Offsets: from ≤ offset < to.
    `partitions`: None for all. A record may lie in the spans and yet outside the times: see `within`."""

    since: int | None = None
    until: int | None = None
    first: int | None = None
    to: int | None = None
    partitions: frozenset[int] | None = None

    def within(self, record: Consumed) -> bool:
        time = record.timestamp
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


EVERYTHING: Final = Limits()


class LogSource:
    """Open it with `open_log_source`. One task uses it at a time; any number of readings one after the other."""

    def __init__(self, config: KafkaConfig, admin: KafkaLogAdmin, stack: AsyncExitStack) -> None:
        self.topics = Topics(config.namespace)
        self.admin = admin
        self._config = config
        self.patience = config.request_timeout_ms / 1000
        self._stack = stack

    # ---------------------------------------------------------------- which topics

    async def message_topics(self) -> list[str]:
        """Those of all generations that exist, oldest first. Raises SetupError where there is none, PartAway."""
        names = await self.admin.topics()
        found = {generation: name for name in names if (generation := self.topics.generation_of(name)) is not None}
        if not found:
            raise SetupError(
                f"Kafka at {self._config.bootstrap} has no topic {self.topics.messages}: is `[kafka] namespace` right?"
            )
        return [found[generation] for generation in sorted(found)]

    async def edge_topics(self) -> list[str]:
        """Of the edges whose topics are there, by name. Raises PartAway."""
        return sorted(name for name in await self.admin.topics() if name.startswith(self.topics.edge_prefix))

    # ---------------------------------------------------------------- which records

    async def spans(self, topics: Iterable[str], limits: Limits = EVERYTHING) -> list[Span]:
        """The spans of what the topics hold now within `limits`, cut to what the log has; a partition without any is left
        out. A topic that does not exist has none. Raises PartAway."""
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            for number in range(await self.admin.partitions(topic))
            if limits.partitions is None or number in limits.partitions
        ]
        if not partitions:
            return []
        ends = dict(await self.admin.end_offsets(partitions))
        firsts = await self.admin.start_offsets(partitions)
        starts = dict(firsts)
        if limits.since is not None:
            for p, offset in (await self.admin.offsets_at(dict.fromkeys(partitions, limits.since))).items():
                starts[p] = ends[p] if offset is None else max(starts[p], offset)
        if limits.until is not None:
            later = await self.admin.offsets_at(dict.fromkeys(partitions, limits.until + STRAGGLERS_MS))
            for p, offset in later.items():
                ends[p] = ends[p] if offset is None else min(ends[p], offset)
        found = []
        for p in partitions:
            start = starts[p] if limits.first is None else max(starts[p], limits.first)
            end = ends[p] if limits.to is None else min(ends[p], limits.to)
            if start < end:
                found.append(Span(p, start, end, firsts[p]))
        return found

    # ---------------------------------------------------------------- reading

    def read(self, spans: Sequence[Span], wanted: Wanted | None = None) -> Reading:
        """Begin to read; a reading is iterated over once. `wanted` says early what is passed over."""
        return Reading(self, spans, wanted)

    async def reader(self) -> KafkaLogReader:
        return await self._stack.enter_async_context(open_log_reader(self._config))


class Reading:
    """The records of spans as batches of (partition, record), merged by time; none is empty. Raises PartAway where Kafka
    does not answer for its request time-out. Cancelling it loses only its place."""

    def __init__(self, source: LogSource, spans: Sequence[Span], wanted: Wanted | None) -> None:
        self._source = source
        self._lanes = [Lane(span.partition, index) for index, span in enumerate(sorted(spans))]
        self._spans = {span.partition: span for span in spans}
        self._next = {span.partition: span.start for span in spans}
        self._readers: dict[TopicPartition, KafkaLogReader] = {}
        self._wanted = wanted
        self.records = 0  # read so far, wanted or not
        self.total = sum(span.size for span in spans)

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> list[Sourced]:
        while True:
            for lane in self._lanes:
                if lane.hungry:
                    await self._feed(lane)
            if not self._lanes:
                raise StopAsyncIteration
            batch = merge(self._lanes)
            self._lanes = [lane for lane in self._lanes if not lane.finished]
            if batch:
                return batch

    async def _feed(self, lane: Lane) -> None:
        """Records of one partition, or its end."""
        partition = lane.partition
        end = self._spans[partition].end
        reader = self._readers.get(partition)
        if reader is None:
            reader = self._readers[partition] = await self._source.reader()
            await reader.assign({partition: self._next[partition]})
        records = await self._some(reader, partition, end)
        self.records += len(records)
        wanted = self._wanted
        if wanted is None:
            lane.feed(records, None)
        else:
            lane.feed(records, [wanted(partition, record) for record in records])
        if self._next[partition] >= end:
            lane.end()
            reader.close()

    async def _some(self, reader: KafkaLogReader, partition: TopicPartition, end: int) -> Sequence[Consumed]:
        """The next records; none only where the end is reached."""
        deadline, backoff = trio.current_time() + self._source.patience, Backoff()
        while self._next[partition] < end:
            try:
                polled = await reader.poll(_POLL_S, CHUNK)
            except OutOfRange:
                await self._trimmed(reader, partition, end)
                continue
            except PartAway:
                if trio.current_time() > deadline:
                    raise
                await trio.sleep(backoff.next())
                continue
            records = polled.get(partition, ())
            place = reader.position(partition)
            if place > self._next[partition]:
                self._next[partition] = place
                if place > end:
                    records = [record for record in records if record.offset < end]
                if records:
                    return records
                deadline = trio.current_time() + self._source.patience
            elif trio.current_time() > deadline:
                raise PartAway("kafka", f"{partition.topic}/{partition.partition} gives no records at {place}, before {end}")
        return ()

    async def _trimmed(self, reader: KafkaLogReader, partition: TopicPartition, end: int) -> None:
        """Records were removed while they were about to be read: on from the first that is there."""
        first = (await self._source.admin.start_offsets([partition]))[partition]
        place = self._next[partition]
        if not place < first:
            where = f"{partition.topic}/{partition.partition}"
            raise PartAway("kafka", f"{where} is made anew: it has no offset {place} any more")
        log.warning("trimmed while it was read", partition=partition, missing_from=place, missing_to=min(first, end))
        self._next[partition] = first
        await reader.assign({partition: first})


@asynccontextmanager
async def open_log_source(config: KafkaConfig) -> AsyncIterator[LogSource]:
    """Connects when it is used; needs no bridge around it."""
    async with AsyncExitStack() as stack:
        yield LogSource(config, await stack.enter_async_context(open_log_admin(config)), stack)
