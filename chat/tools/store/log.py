"""Records into the log, as fast as Kafka takes them: those of towns far from all that a store has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Final

import trio

from chat.bridge import open_bridge, open_log_admin, open_producer
from chat.config import Config
from chat.errors import PartError, SetupError
from chat.generations import message_topics
from chat.ports import LogAdmin
from chat.records import Record, TopicPartition, Topics, cut, partition_of
from chat.tools.store.corpus import Corpus
from chat.tools.store.town import SPAN_MS, Size, Town

#: Of the first of these towns. Nobody is registered under such numbers in a cluster for measuring.
FAR: Final = 1_000_000
_AT_ONCE: Final = 20_000

Say = Callable[[str], None]


async def fill_log(config: Config, corpus: Corpus, *, records: int, size: Size | None = None, say: Say) -> int:
    """Append to the newest generation until it has at least so many records; how many were appended. Persist stores them
    as it stores any. Raises PartError, SetupError; cancelled, what is in the log stays."""
    topics = Topics(config.kafka.namespace)
    async with open_bridge(), open_log_admin(config.kafka) as admin, open_producer(config.kafka) as producer:
        topic = (await message_topics(admin, topics))[-1]
        places = [TopicPartition(topic, n) for n in range(await admin.partitions(topic))]
        missing = max(0, records - await length(admin, places))
        done, number = 0, FAR + Random().randrange(FAR)
        while done < missing:
            town = Town(number, corpus, seed=number, since=int(time.time() * 1_000) - SPAN_MS, size=size)
            number += 1
            made = await trio.to_thread.run_sync(_batches, town, topic, len(places), missing - done)
            for batch in made:
                for place, some in batch.items():
                    for piece in cut(some, config.kafka.max_batch_bytes):
                        outcome = (await producer.produce({place: piece}))[place]
                        if isinstance(outcome, PartError):
                            raise outcome
                done += sum(map(len, batch.values()))
                say(f"{done:,} of {missing:,} records appended")
        if (there := await length(admin, places)) < records:
            raise SetupError(f"{topic} has {there} records after {done} were appended: something trims it")
    return done


async def length(admin: LogAdmin, places: Sequence[TopicPartition]) -> int:
    starts, ends = await admin.start_offsets(places), await admin.end_offsets(places)
    return sum(ends[place] - starts[place] for place in places)


def _batches(
    town: Town, topic: str, partitions: int, most: int
) -> list[Mapping[TopicPartition, list[Record]]]:  # fmt: skip
    """Its first `most` records, timestamps of now: Kafka's own retention goes by them."""
    batches: list[Mapping[TopicPartition, list[Record]]] = []
    batch: dict[TopicPartition, list[Record]] = {}
    now = int(time.time() * 1_000)
    for count, (timeline, record) in enumerate(islice(town.records(), most), 1):
        batch.setdefault(TopicPartition(topic, partition_of(timeline, partitions)), []).append(
            record._replace(timestamp=now)
        )
        if count % _AT_ONCE == 0:
            batches.append(batch)
            batch = {}
    return [*batches, batch] if batch else batches
