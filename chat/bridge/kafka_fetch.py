"""Fetching records: what a group's member and a lone reader have in common.

One fetch request per leader is on its way at a time, on a connection of its own, for every partition that has nothing left
in the buffer. The broker answers as soon as there is one record. A poll that ends before the answer leaves the request on
its way; the next one takes the answer up. So a cancelled poll has either taken nothing or returns what it took.

The next request goes out when the buffer is empty, not before: what gathers at the broker meanwhile comes in one answer, and
a cycle costs more than a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import trio
from aiokafka import errors
from aiokafka.record.memory_records import MemoryRecords

from chat.bridge import kafka_hot
from chat.bridge.kafka_client import RETRY_SECONDS, raise_for
from chat.bridge.kafka_wire import BROKEN, Brokers, Wire
from chat.config import KafkaConfig
from chat.ports import OutOfRange
from chat.records import Consumed, TopicPartition

#: A fetch that finds nothing is answered after this long; one that finds a record at once.
WAIT_MS: Final = 500
#: Of one partition, and of all, in one answer. A batch above it is still returned.
PARTITION_BYTES: Final = 2 << 20
ANSWER_BYTES: Final = 16 << 20
_OUT_OF_RANGE: Final = 1
#: The partition is elsewhere, or not there now: ask who leads it.
_MOVED: Final = frozenset({3, 5, 6, 9, 56, 74, 75, 76, 78})


class _Asked(NamedTuple):
    """A request on its way."""

    wire: Wire
    offsets: Mapping[TopicPartition, int]
    until: float  # an answer that has not come by then never will


class _Fetched:
    """What an answer brought for one partition, taken apart as it is needed. No value (Kafka's tombstone; nothing of ours
    writes one) reads as an empty one."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.next_offset = offset
        self._records = self._unpack(data)

    def take(self, most: int) -> list[Consumed]:
        return list(islice(self._records, most))

    def _unpack(self, data: bytes) -> Iterator[Consumed]:
        batches = MemoryRecords(data)
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.validate_crc():
                raise errors.CorruptRecordException(f"checksum of the batch at {batch.base_offset}")
            if not batch.is_control_batch:
                for record in batch:
                    if record.offset >= self.next_offset:  # the first asked for may lie within a batch
                        self.next_offset = record.offset + 1
                        headers = record.headers
                        yield Consumed(
                            record.offset,
                            record.timestamp,
                            record.key,
                            record.value or b"",
                            tuple(headers) if headers else (),
                        )
            self.next_offset = batch.next_offset  # behind what compaction has left out


class Fetcher:
    """Reads the partitions that were placed. One task at a time uses it."""

    def __init__(self, config: KafkaConfig) -> None:
        self._brokers = Brokers(config)
        self._limit = (config.request_timeout_ms + WAIT_MS) / 1000
        self._next: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._buffer: dict[TopicPartition, _Fetched] = {}
        self._wires: dict[int, Wire] = {}
        self._asked: dict[int, _Asked] = {}
        self._outside: dict[TopicPartition, int] = {}
        self._look_up = False  # who leads what is to be asked anew

    # ---------------------------------------------------------------- what is read

    def place(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these from here on."""
        for partition, offset in offsets.items():
            self._next[partition] = offset
            self._buffer.pop(partition, None)
            self._ends.pop(partition, None)
        self._forget_asked()

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in list(partitions):
            self._next.pop(partition, None)
            self._ends.pop(partition, None)
            self._buffer.pop(partition, None)
            self._paused.discard(partition)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Nothing of these is returned, nor asked for; their place, and what was fetched, stays."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        if not self._paused.isdisjoint(partitions := set(partitions)):
            self._paused -= partitions
            self._forget_asked()

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end, of those whose end has been heard of."""
        return {p: max(0, end - self._next[p]) for p, end in self._ends.items()}

    def position(self, partition: TopicPartition) -> int:
        """Of one that was placed: where it is read on."""
        return self._next[partition]

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._asked.clear()
        self._brokers.close()

    # ---------------------------------------------------------------- reading

    def take(self, most: int) -> dict[TopicPartition, list[Consumed]]:
        """Up to `most` records that are here. Raises OutOfRange where there are none, but positions outside the log."""
        taken: dict[TopicPartition, list[Consumed]] = {}
        for partition in [p for p in self._buffer if p not in self._paused]:
            fetched = self._buffer[partition]
            try:
                records = fetched.take(most)
            except errors.KafkaError:  # damaged: it is fetched again
                del self._buffer[partition]
                if taken:
                    break
                raise
            self._next[partition] = fetched.next_offset
            if len(records) < most:
                del self._buffer[partition]
            else:
                self._buffer[partition] = self._buffer.pop(partition)  # the others' turn next time
            if records:
                taken[partition] = records
                most -= len(records)
                if not most:
                    break
        if not taken and self._outside:
            outside = {p: offset for p, offset in self._outside.items() if self._next.get(p) == offset}
            self._outside = {}
            if outside:
                raise OutOfRange(outside)
        return taken

    async def fetch(self, deadline: float) -> None:
        """Return when something may have come, at the latest at `deadline` (trio's clock). Raises the driver's errors and
        those of a broken connection. Cancelling it loses nothing."""
        if self._paused.issuperset(self._next):
            await trio.sleep_until(deadline)
            return
        try:
            if not await self._ask():
                await trio.sleep_until(min(deadline, trio.current_time() + RETRY_SECONDS))
                return
            until = min(asked.until for asked in self._asked.values())
            with trio.move_on_at(min(deadline, until)):
                await self._answer()
            if trio.current_time() >= until and any(a.until <= until for a in self._asked.values()):
                self._forget_asked()
                raise TimeoutError("a fetch was not answered")
        except trio.TooSlowError as error:
            self._look_up = True
            raise TimeoutError("a broker does not answer") from error
        except (*BROKEN, errors.KafkaError):
            self._look_up = True
            raise

    async def _ask(self) -> bool:
        """Send what requests are due; False where none is on its way."""
        wanted = [p for p in self._next if p not in self._paused and p not in self._buffer]
        if self._look_up or any(self._brokers.leader(p) is None for p in wanted):
            self._look_up = False
            with trio.fail_after(self._limit):
                await self._brokers.refresh({p.topic for p in wanted})
        by_leader: dict[int, dict[TopicPartition, int]] = {}
        for partition in wanted:
            leader = self._brokers.leader(partition)
            if leader is None or leader == -1:
                self._look_up = True
            else:
                by_leader.setdefault(leader, {})[partition] = self._next[partition]
        for leader, offsets in by_leader.items():
            if leader not in self._asked:
                await self._send(leader, offsets)
        return bool(self._asked)

    async def _send(self, leader: int, offsets: dict[TopicPartition, int]) -> None:
        request = kafka_hot.fetch(
            offsets, wait_ms=WAIT_MS, min_bytes=1, answer_bytes=ANSWER_BYTES, partition_bytes=PARTITION_BYTES
        )
        wire = self._wires.get(leader)
        if wire is None or not wire.usable:
            with trio.fail_after(self._limit):
                wire = self._wires[leader] = await Wire.open(*self._brokers.address(leader))
        await wire.send(request, self._limit)
        self._asked[leader] = _Asked(wire, offsets, trio.current_time() + self._limit)

    async def _answer(self) -> None:
        """Wait for one answer."""
        if len(self._asked) == 1:
            for leader, asked in list(self._asked.items()):
                self._heard(leader, await self._receive(leader, asked))
            return
        failures: list[BaseException] = []
        async with trio.open_nursery() as nursery:

            async def wait(leader: int, asked: _Asked) -> None:
                try:
                    self._heard(leader, await self._receive(leader, asked))
                except (*BROKEN, errors.KafkaError) as error:
                    failures.append(error)
                nursery.cancel_scope.cancel()

            for leader, asked in list(self._asked.items()):
                nursery.start_soon(wait, leader, asked)
        for failure in failures:
            raise failure

    async def _receive(self, leader: int, asked: _Asked) -> Any:
        try:
            return await asked.wire.receive()
        except (*BROKEN, errors.KafkaError):
            self._drop(leader)
            raise

    def _heard(self, leader: int, answer: Sequence[kafka_hot.Fetched]) -> None:
        asked = self._asked.pop(leader)
        for partition, code, end, data in answer:
            offset = asked.offsets.get(partition)
            if offset is None or self._next.get(partition) != offset:
                continue  # it was placed anew, or removed
            if code == 0:
                self._ends[partition] = end
                if data:
                    self._buffer[partition] = _Fetched(data, offset)
            elif code == _OUT_OF_RANGE:
                self._outside[partition] = offset
            elif code in _MOVED:
                self._look_up = True
            else:
                raise_for(code, f"{partition.topic}/{partition.partition}")

    # ---------------------------------------------------------------- requests that are no longer wanted

    def _forget_asked(self) -> None:
        """A request that waits at the broker does not know of a partition placed since: ask anew, by another connection."""
        for leader in list(self._asked):
            self._drop(leader)

    def _drop(self, leader: int) -> None:
        self._asked.pop(leader, None)
        wire = self._wires.pop(leader, None)
        if wire is not None:
            wire.close()
