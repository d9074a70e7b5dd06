"""Storing what was fetched, exactly once.

All partitions of a fetch go into one transaction, since a commit costs more than a row. Where it fails for what it
contains, the partitions are done one by one, and a batch that MySQL refuses is halved until the record is alone: that one
goes to the dead, and its partition goes on.

**Before anything is judged by a refusal, the offset is read again**: a process that has lost its partition sees duplicate
keys where the new owner has stored the same records, and must not bury them.

**What an operator mends meanwhile** (a dead record put where it belongs) changes states that a transaction builds on: it is
rolled back then as if another owned the partition, which is begun anew.

A dead record is acknowledged by Kafka before the offset behind it is committed, so it is never lost; a crash between the
two puts it there twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from chat.errors import BadData, Conflict, PartAway, PartError
from chat.metrics import PersistMetrics
from chat.persist.batch import Changes, build, needs, verify
from chat.persist.heads import Heads
from chat.persist.numbers import Numbers
from chat.persist.offsets import Place, read_places
from chat.persist.parse import Dead, Parsed, parse_messages, parse_receipts
from chat.persist.store import Store
from chat.ports import Database, Producer
from chat.records import Consumed, Record, TopicPartition, Topics, cut, dead_headers, size_of

log = structlog.get_logger()

#: A dead record's headers, and what Kafka puts around a record.
_AROUND_DEAD: Final = 4_096

#: Errors of MySQL that one record can cause: NULL, duplicate key, out of range, truncated, wrong value, wrong characters,
#: too long, too large a packet, a trigger's SIGNAL, a CHECK constraint (MySQL's, MariaDB's). Others (no such table, no
#: permission) would bury every record.
DATA_ERRORS: Final = frozenset({1048, 1062, 1153, 1264, 1265, 1292, 1366, 1406, 1644, 1690, 3819, 4025})

#: partition → (its next offset in MySQL, records from there on, without a gap)
Fetched = Mapping[TopicPartition, tuple[int, Sequence[Consumed]]]


class Work:
    def __init__(
        self,
        topics: Topics,
        *,
        database: Database,
        producer: Producer,
        heads: Heads,
        metrics: PersistMetrics,
        max_batch_bytes: int,
    ) -> None:
        self._topics = topics
        self._database = database
        self._store = Store(database)
        self._numbers = Numbers(database)
        self._producer = producer
        self._heads = heads
        self._metrics = metrics
        self._max_bytes = max_batch_bytes
        self._buried: set[tuple[TopicPartition, int]] = set()  # of fetches that are not stored yet
        self._mended: dict[TopicPartition, int] = {}

    def begun(self, places: Mapping[TopicPartition, Place]) -> None:
        """These partitions are read from there on; nothing of them is remembered from before."""
        self._mended |= {partition: place.mended for partition, place in places.items()}

    async def store(self, fetched: Fetched) -> dict[TopicPartition, int]:
        """Store all of it; the new next offset of each partition. A partition that another process owns is left out.
        Raises PartAway: what was done is not known, read the offsets again."""
        try:
            done = await self._transaction(fetched)
        except (Conflict, BadData) as error:
            log.info("stored one by one", error=error.message)
            done = await self._one_by_one(fetched)
        self._buried.clear()
        return done

    async def _one_by_one(self, fetched: Fetched) -> dict[TopicPartition, int]:
        done: dict[TopicPartition, int] = {}
        for partition, (begin, records) in fetched.items():
            try:
                done |= await self._halving(partition, begin, records)
            except Conflict as error:
                self._metrics.conflicts.inc()
                log.warning("partition given up: another process has it", partition=partition, error=error.message)
        return done

    async def _halving(
        self, partition: TopicPartition, begin: int, records: Sequence[Consumed]
    ) -> dict[TopicPartition, int]:
        try:
            return await self._transaction({partition: (begin, records)})
        except BadData as error:
            found = (await read_places(self._database, [partition]))[partition]
            if found != (begin, self._mended.get(partition, found.mended)):
                raise Conflict("mysql", 0, 0) from error
            if error.part != "mysql":
                raise
            if len(records) > 1:
                middle = len(records) // 2
                done = await self._halving(partition, begin, records[:middle])
                return await self._halving(partition, done[partition], records[middle:])
            if _code(error) not in DATA_ERRORS:
                raise PartAway("mysql", f"not a record's fault, so none is buried for it: {error.message}") from error
            await self._bury([Dead(partition, records[0], f"MySQL refuses it: {error.message}")])
        end = records[0].offset + 1
        await self._store.write(Changes(), {partition: (begin, end)}, self._mended)
        self._committed({partition: (begin, records)})
        return {partition: end}

    async def _transaction(self, fetched: Fetched) -> dict[TopicPartition, int]:
        changes = await self._changes(fetched)
        if changes.dead:
            await self._bury(changes.dead)
        ends = {p: records[-1].offset + 1 for p, (_, records) in fetched.items()}
        await self._store.write(changes, {p: (fetched[p][0], end) for p, end in ends.items()}, self._mended)
        for stream, head in changes.heads.items():
            self._heads.committed(stream, head.next_seq, head.partition)
        self._committed(fetched)
        self._metrics.rows.inc(len(changes.rows))
        self._metrics.duplicates.inc(changes.duplicates)
        if changes.rows:
            oldest = min(entry.message.sent_at for entry in changes.rows)
            self._metrics.stored.observe(max(0.0, time.time() - oldest / 1000))
        return ends

    async def _changes(self, fetched: Fetched) -> Changes:
        parsed = Parsed([], [], [])
        for partition, (_, records) in fetched.items():
            generation = self._topics.generation_of(partition.topic)
            if generation is None:
                parse_receipts(parsed, partition, records)
            else:
                parse_messages(parsed, partition, generation, records)
        await self._numbers.see(parsed)
        known = await self._store.load(needs(parsed), self._heads)
        changes = build(parsed, known)
        for entry in verify(changes, await self._store.first_copies(changes.unverified)):
            log.info("duplicate whose first copy is not among the rows", timeline=entry.timeline, pos=entry.pos)
        for entry in changes.holes:
            self._metrics.holes.inc()
            log.error("hole in a stream", timeline=entry.timeline, pos=entry.pos, stream=entry.stream, seq=entry.seq)
        return changes

    def _committed(self, fetched: Fetched) -> None:
        for partition, (_, records) in fetched.items():
            self._metrics.records.labels(self._label(partition)).inc(len(records))

    def _label(self, partition: TopicPartition) -> str:
        return "receipts" if partition.topic == self._topics.receipts else "messages"

    # ---------------------------------------------------------------- the dead

    async def _bury(self, dead: Sequence[Dead]) -> None:
        """Returns when Kafka has acknowledged all of them. Raises PartError."""
        new = [d for d in dead if (d.partition, d.record.offset) not in self._buried]
        for batch in cut([self._dead_record(one) for one in new], self._max_bytes):
            await self._produce(batch)
        for one in new:
            self._buried.add((one.partition, one.record.offset))
            self._metrics.dead.inc()
            topic, partition = one.partition
            log.error("dead record", topic=topic, partition=partition, offset=one.record.offset, why=one.why)

    def _dead_record(self, dead: Dead) -> Record:
        """The record with why it is dead, cut to what a batch takes."""
        record, why = dead.record, dead.why[:1_000]
        room = self._max_bytes - 2 * _AROUND_DEAD
        key, value, headers = record.key, record.value, record.headers
        around = size_of(Record(key, b"", 0, headers))
        if around > room // 2:  # not ours: its own headers are left out, and most of the key
            why = f"{why} (key cut from {len(key or b'')} bytes, {len(headers)} headers left out)"
            key, headers = key and key[:1_000], ()
            around = size_of(Record(key, b"", 0))
        room -= around
        if len(value) > room:
            why = f"{why} (value cut from {len(value)} to {room} bytes)"
            value = value[:room]
        return Record(key, value, record.timestamp, (*headers, *dead_headers(*dead.partition, record.offset, why)))

    async def _produce(self, batch: Sequence[Record]) -> None:
        where = TopicPartition(self._topics.dead, 0)
        outcome = (await self._producer.produce({where: batch}))[where]
        if isinstance(outcome, PartError):
            raise outcome


def _code(error: BadData) -> int:
    """MySQL's number of the error, with which its message begins; 0 where there is none."""
    number = error.message.split(":", 1)[0]
    return int(number) if number.isdigit() else 0
