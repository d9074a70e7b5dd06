"""Persist's own code at work on the sandbox: `persist.work` with its parsing, batches, transactions and offsets. Only its
producer is another: what is dead is noted here, and not put into the live topic of the dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from chat.config import Config
from chat.errors import PartError, SetupError
from chat.metrics import PersistMetrics
from chat.persist.batch import needs
from chat.persist.heads import Heads
from chat.persist.parse import Parsed, parse_messages
from chat.persist.work import Work
from chat.ports import Database, Statement
from chat.records import Consumed, Record, TopicPartition, Topics
from chat.tools.logsource import Reading, Span
from chat.tools.replay.sandbox.before import Before

#: Records in a transaction.
TOGETHER: Final = 2_000


class DeadRecord(NamedTuple):
    topic: str
    partition: int
    offset: int
    why: str


class Grave:
    """ports.Producer, for the dead alone."""

    def __init__(self) -> None:
        self.dead: list[DeadRecord] = []

    async def produce(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Mapping[TopicPartition, int | PartError]:
        for records in batches.values():
            for record in records:
                said = dict(record.headers)  # the last of a name counts: those that persist has added
                where = (said["topic"].decode(), int(said["partition"]), int(said["offset"]))
                self.dead.append(DeadRecord(*where, said["why"].decode(errors="replace")))
        return dict.fromkeys(batches, 0)


class Filler:
    def __init__(self, config: Config, topics: Topics, sandbox: Database, before: Before) -> None:
        self._topics = topics
        self._sandbox = sandbox
        self._before = before
        self._next: dict[TopicPartition, int] = {}
        self.grave = Grave()
        self.metrics = PersistMetrics()
        self.records = 0
        self._work = Work(
            topics,
            database=sandbox,
            producer=self.grave,
            heads=Heads(config.persist.stream_entries),
            metrics=self.metrics,
            max_batch_bytes=config.kafka.max_batch_bytes,
        )

    async def begin(self, spans: Sequence[Span]) -> None:
        """Offsets where the spans begin."""
        for span in spans:
            topic, number = span.partition
            generation = self._topics.generation_of(topic) or 0
            await self._sandbox.write(
                [
                    Statement(
                        "INSERT INTO offsets (topic, topic_partition, topic_id, generation, next_offset)"
                        " VALUES (%s, %s, %s, %s, %s)",
                        (topic, number, "replay", generation, span.start),
                    )
                ]
            )
            self._next[span.partition] = span.start

    async def fill(self, reading: Reading) -> None:
        """Store all of it. Raises PartError, SetupError."""
        gathered: dict[TopicPartition, list[Consumed]] = {}
        count = 0
        async for batch in reading:
            for partition, record in batch:
                gathered.setdefault(partition, []).append(record)
                count += 1
                if count >= TOGETHER:
                    await self._store(gathered)
                    gathered, count = {}, 0
        if gathered:
            await self._store(gathered)

    async def _store(self, records: dict[TopicPartition, list[Consumed]]) -> None:
        parsed = Parsed([], [], [])
        for partition, some in records.items():
            generation = self._topics.generation_of(partition.topic)
            if generation is not None:
                parse_messages(parsed, partition, generation, some)
        await self._before.provide(needs(parsed))
        done = await self._work.store({p: (self._next[p], some) for p, some in records.items()})
        if done.keys() != records.keys():
            raise SetupError("somebody else writes into the sandbox: its offsets have moved")
        self._next |= done
        self.records += sum(map(len, records.values()))
