"""A Kafka in memory: one log for producers, group members, readers and administrators.

    kafka = FakeKafka()
    kafka.create("chat.messages", partitions=4)
    kafka.fail_produce("lost", "ghost")     # what happens to the next two batches
    kafka.away = True                       # everything raises PartAway
    kafka.leaderless.add("chat.edge.a")     # a topic that takes nothing

A batch's fate: `lost` (PartAway, never in the log), `ghost` (PartAway, and yet in the log), `late` (PartAway, comes into the
log at `release_late()`), `refused` (BadData).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio

from chat.errors import BadData, PartAway, PartError
from chat.ports import GroupMoved, NoSuchTopic, OutOfRange, Poll
from chat.records import Consumed, Record, TopicPartition

Fate = Literal["lost", "ghost", "late", "refused"]


class Log:
    """One partition."""

    def __init__(self) -> None:
        self.start = 0
        self.records: list[Consumed] = []

    @property
    def end(self) -> int:
        return self.start + len(self.records)

    def append(self, records: Iterable[Record]) -> int:
        first = self.end
        for offset, record in enumerate(records, first):
            self.records.append(Consumed(offset, record.timestamp, record.key, record.value, tuple(record.headers)))
        return first

    def trim(self, before: int) -> None:
        if before > self.end:
            raise PartAway("kafka", "offset out of range")
        cut = max(0, before - self.start)
        self.records = self.records[cut:]
        self.start += cut


class FakeKafka:
    def __init__(self, max_batch_bytes: int = 900_000) -> None:
        self.away = False
        self.max_batch_bytes = max_batch_bytes
        self.topics: dict[str, list[Log]] = {}
        self.ids: dict[str, str] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.committed: dict[str, dict[TopicPartition, int]] = {}
        self.groups: dict[str, list[FakeGroupConsumer]] = {}
        self.fates: deque[Fate] = deque()
        self.leaderless: set[str] = set()  # topics that take nothing
        self.produced: list[dict[TopicPartition, list[Record]]] = []  # every call of produce
        self._late: list[tuple[TopicPartition, list[Record]]] = []
        self._created = 0
        self._news = trio.Event()

    # ---------------------------------------------------------------- for tests

    def create(self, topic: str, partitions: int = 1) -> None:
        self._created += 1
        self.topics[topic] = [Log() for _ in range(partitions)]
        self.ids[topic] = f"id-{self._created}"
        self.tell()

    def fail_produce(self, *fates: Fate) -> None:
        self.fates.extend(fates)

    def release_late(self) -> None:
        """The late batches come into the log."""
        for partition, records in self._late:
            self.log(partition).append(records)
        self._late.clear()
        self.tell()

    def values(self, topic: str, partition: int = 0) -> list[bytes]:
        return [r.value for r in self.topics[topic][partition].records]

    def rebalance(self, group: str) -> None:
        """As if a member had come or gone."""
        self._assign(group)

    # ---------------------------------------------------------------- for the fakes

    def check(self) -> None:
        if self.away:
            raise PartAway("kafka", "away")

    def log(self, partition: TopicPartition) -> Log:
        logs = self.topics.get(partition.topic)
        if logs is None or partition.partition >= len(logs):
            raise NoSuchTopic("kafka", f"{partition.topic}/{partition.partition}")
        return logs[partition.partition]

    def tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def news(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._news.wait()

    def fate(self, partition: TopicPartition, records: list[Record]) -> int | PartError:
        size = sum(len(r.value) + len(r.key or b"") + 12 for r in records) + 61
        if size > self.max_batch_bytes:
            return BadData("kafka", f"batch of {size} bytes, {self.max_batch_bytes} may be")
        try:
            log = self.log(partition)
        except NoSuchTopic as error:
            return error
        if partition.topic in self.leaderless:
            return PartAway("kafka", "no leader")
        fate = self.fates.popleft() if self.fates else None
        if fate == "refused":
            return BadData("kafka", "refused")
        if fate == "late":
            self._late.append((partition, records))
        elif fate != "lost":
            first = log.append(records)
            self.tell()
            if fate is None:
                return first
        return PartAway("kafka", f"outcome unknown ({fate})")

    def read(self, partition: TopicPartition, offset: int, most: int) -> list[Consumed]:
        log = self.log(partition)
        if not log.start <= offset <= log.end:
            raise OutOfRange({partition: offset})
        begin = offset - log.start
        return log.records[begin : begin + most]

    def join(self, group: str, member: FakeGroupConsumer) -> None:
        self.groups.setdefault(group, []).append(member)
        self._assign(group)

    def leave(self, group: str, member: FakeGroupConsumer) -> None:
        if member in self.groups.get(group, []):
            self.groups[group].remove(member)
            member.assigned(frozenset())
            self._assign(group)

    def _assign(self, group: str) -> None:
        members = self.groups[group]
        shares: dict[FakeGroupConsumer, set[TopicPartition]] = {m: set() for m in members}
        topics = sorted({t for m in members for t in m.topics if t in self.topics})
        turn = 0
        for topic in topics:
            takers = [m for m in members if topic in m.topics]
            for number in range(len(self.topics[topic])):
                shares[takers[turn % len(takers)]].add(TopicPartition(topic, number))
                turn += 1
        for member, share in shares.items():
            member.assigned(frozenset(share))
        self.tell()

    # ---------------------------------------------------------------- as the bridge opens them

    @asynccontextmanager
    async def open_producer(self) -> AsyncIterator[FakeProducer]:
        yield FakeProducer(self)

    @asynccontextmanager
    async def open_group_consumer(self, group: str, topics: Sequence[str]) -> AsyncIterator[FakeGroupConsumer]:
        member = FakeGroupConsumer(self, group, topics)
        try:
            yield member
        finally:
            self.leave(group, member)

    @asynccontextmanager
    async def open_log_reader(self) -> AsyncIterator[FakeLogReader]:
        yield FakeLogReader(self)

    @asynccontextmanager
    async def open_log_admin(self) -> AsyncIterator[FakeLogAdmin]:
        yield FakeLogAdmin(self)


class FakeProducer:
    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self._busy = False

    async def produce(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Mapping[TopicPartition, int | PartError]:
        assert not self._busy, "one produce at a time"
        self._busy = True
        try:
            await trio.lowlevel.checkpoint()
            if self._kafka.away:
                return {p: PartAway("kafka", "away") for p in batches}
            taken = {p: list(records) for p, records in batches.items()}
            self._kafka.produced.append(taken)
            return {p: self._kafka.fate(p, records) for p, records in taken.items()}
        finally:
            self._busy = False


class FakeGroupConsumer:
    def __init__(self, kafka: FakeKafka, group: str, topics: Sequence[str]) -> None:
        self._kafka = kafka
        self._group = group
        self.topics = frozenset(topics)
        self._joined = False
        self._changed = False
        self._owned: frozenset[TopicPartition] = frozenset()
        self._regained: frozenset[TopicPartition] = frozenset()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._changed = self._changed or bool(partitions or self._owned)
        self._owned = self._regained = partitions
        self._positions.clear()
        self._paused.clear()

    async def poll(self, max_wait: float, max_records: int) -> Poll:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint()
        while True:
            self._kafka.check()
            if not self._joined:
                self._joined = True
                self._kafka.join(self._group, self)
            for partition in self._regained:
                self._positions.pop(partition, None)
            records = _take(self._kafka, self._positions, self._paused, max_records)
            seconds = deadline - trio.current_time()
            if records or self._changed or seconds <= 0:
                regained, self._regained = self._regained, frozenset()
                self._changed = False
                return Poll(self._owned, regained, records)
            await self._kafka.news(seconds)

    async def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        await trio.lowlevel.checkpoint()
        self._positions.update({p: o for p, o in offsets.items() if p in self._owned})

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        await trio.lowlevel.checkpoint()
        self._kafka.check()
        known = self._kafka.committed.get(self._group, {})
        return {p: known.get(p) for p in partitions}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await trio.lowlevel.checkpoint()
        self._kafka.check()
        if not offsets.keys() <= self._positions.keys():
            raise GroupMoved("partitions were assigned anew")
        self._kafka.committed.setdefault(self._group, {}).update(offsets)

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        self._paused.update(p for p in partitions if p in self._owned)

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        self._paused.difference_update(partitions)
        self._kafka.tell()

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        await trio.lowlevel.checkpoint()
        return {p: max(0, self._kafka.log(p).end - o) for p, o in self._positions.items()}


class FakeLogReader:
    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self._positions: dict[TopicPartition, int] = {}

    async def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        await trio.lowlevel.checkpoint()
        self._kafka.check()
        self._positions = dict(offsets)

    async def poll(self, max_wait: float, max_records: int) -> Mapping[TopicPartition, Sequence[Consumed]]:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint()
        while True:
            self._kafka.check()
            records = _take(self._kafka, self._positions, set(), max_records)
            seconds = deadline - trio.current_time()
            if records or seconds <= 0:
                return records
            await self._kafka.news(seconds)


def _take(
    kafka: FakeKafka, positions: dict[TopicPartition, int], paused: set[TopicPartition], most: int
) -> dict[TopicPartition, Sequence[Consumed]]:
    taken: dict[TopicPartition, Sequence[Consumed]] = {}
    outside: dict[TopicPartition, int] = {}
    for partition, offset in positions.items():
        if partition in paused or most <= 0:
            continue
        try:
            records = kafka.read(partition, offset, most)
        except OutOfRange:
            outside[partition] = offset
        except NoSuchTopic:
            continue
        else:
            if records:
                taken[partition] = records
                most -= len(records)
    if outside and not taken:
        raise OutOfRange(outside)
    for partition, found in taken.items():
        positions[partition] = found[-1].offset + 1
    return taken


class FakeLogAdmin:
    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka

    async def _ask(self) -> FakeKafka:
        await trio.lowlevel.checkpoint()
        self._kafka.check()
        return self._kafka

    async def partitions(self, topic: str) -> int:
        return len((await self._ask()).topics.get(topic, ()))

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        kafka = await self._ask()
        return {p: kafka.log(p).end for p in partitions}

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        kafka = await self._ask()
        return {p: kafka.log(p).start for p in partitions}

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int | None]:
        kafka = await self._ask()
        return {p: next((r.offset for r in kafka.log(p).records if r.timestamp >= t), None) for p, t in times.items()}

    async def group_offsets(self, group: str, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        known = (await self._ask()).committed.get(group, {})
        return {p: known.get(p) for p in partitions}

    async def topics(self) -> frozenset[str]:
        return frozenset((await self._ask()).topics)

    async def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        kafka = await self._ask()
        return {t: kafka.ids[t] for t in topics if t in kafka.topics}

    async def create_topic(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> bool:
        kafka = await self._ask()
        if name in kafka.topics:
            return False
        kafka.create(name, partitions)
        kafka.settings[name] = dict(settings)
        return True

    async def delete_topics(self, names: Sequence[str]) -> None:
        kafka = await self._ask()
        for name in names:
            kafka.topics.pop(name, None)
            kafka.ids.pop(name, None)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        kafka = await self._ask()
        for partition, offset in before.items():
            kafka.log(partition).trim(offset)
