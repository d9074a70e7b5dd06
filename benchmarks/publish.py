"""Records to Kafka, 200 a cycle over four partitions."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from msgspec.structs import replace

from benchmarks.data import record
from benchmarks.measure import Case, Job
from chat.bridge import open_bridge, open_log_admin, open_producer
from chat.bridge.kafka_producer import KafkaProducer, _Session
from chat.bridge.kafka_wire import Brokers
from chat.config import EdgeConfig, KafkaConfig
from chat.edge.publisher import EdgePublisher
from chat.errors import PartError
from chat.metrics import EdgeMetrics
from chat.records import Record, TopicPartition, partition_of
from tests.fakes.kafka import FakeKafka, FakeProducer

GIVEN: Final = "CHAT_TEST_KAFKA"
_RECORDS: Final = 2_000
_CYCLE: Final = 200
_USERS: Final = 500
_PARTITIONS: Final = 4

Batches = dict[TopicPartition, list[Record]]


def _cycles(topic: str) -> list[Batches]:
    found: list[Batches] = []
    for begin in range(0, _RECORDS, _CYCLE):
        batches: Batches = {}
        for number in range(begin, begin + _CYCLE):
            one = record(number, _USERS)
            place = TopicPartition(topic, partition_of((one.key or b"").decode(), _PARTITIONS))
            batches.setdefault(place, []).append(one)
        found.append(batches)
    return found


@asynccontextmanager
async def _bytes() -> AsyncIterator[Job]:
    config = KafkaConfig()
    producer, session, cycles = KafkaProducer(config), _Session(Brokers(config), 1, 0), _cycles("t")

    async def run() -> None:
        for batches in cycles:
            for place, records in batches.items():
                producer._build(session, place, records)

    yield Job(_RECORDS, run)


@asynccontextmanager
async def _publisher() -> AsyncIterator[Job]:
    """Queue, cut, produce into a list, settle; what belongs to clients is not in it."""
    kafka = FakeKafka()
    kafka.create("t.messages", _PARTITIONS)
    publisher = EdgePublisher(
        EdgeConfig(linger_ms=0), KafkaConfig(namespace="t"), FakeProducer(kafka), messages="t.messages", generation=0,
        partitions={"t.messages": _PARTITIONS}, metrics=EdgeMetrics(),
    )  # fmt: skip
    cycles = _cycles("t.messages")

    async def run() -> None:
        for batches in cycles:
            for place, records in batches.items():
                for one in records:
                    publisher.put(place, one)
            while publisher._any():
                await publisher._cycle(0.0)

    async def settle() -> None:
        kafka.create("t.messages", _PARTITIONS)
        kafka.produced.clear()

    yield Job(_RECORDS, run, settle)


@asynccontextmanager
async def _real() -> AsyncIterator[Job | None]:
    """This process's share; the broker's is its own."""
    given = os.environ.get(GIVEN)
    if not given:
        yield None
        return
    config = replace(KafkaConfig(), bootstrap=given, namespace=f"bench{secrets.token_hex(4)}")
    topic = f"{config.namespace}.messages"
    cycles = _cycles(topic)
    async with open_bridge(), open_log_admin(config) as admin, open_producer(config) as producer:
        await admin.create_topic(topic, _PARTITIONS, 1, {})

        async def run() -> None:
            for batches in cycles:
                for outcome in (await producer.produce(batches)).values():
                    if isinstance(outcome, PartError):
                        raise outcome

        try:
            yield Job(_RECORDS, run)
        finally:
            await admin.delete_topics([topic])


CASES: Sequence[Case] = (
    Case("publish-bytes", "records to the bytes of a batch; a record", _bytes),
    Case("publish-fake", "the publisher's cycle without Kafka; a record", _publisher),
    Case("publish-kafka", f"a produce request of {_CYCLE} records, acknowledged; a record ({GIVEN}=host:port)", _real),
)
