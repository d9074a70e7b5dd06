from __future__ import annotations

from typing import Any

import pytest
import trio
from aiokafka.protocol.api import Request
from msgspec.structs import replace

from chat.bridge import open_producer
from chat.bridge.kafka_hot import Call
from chat.bridge.kafka_wire import Wire
from chat.config import KafkaConfig
from chat.errors import BadData, PartAway
from chat.ports import NoSuchTopic
from chat.records import Consumed, Record, TopicPartition
from tests.contract.conftest import AnyKafka


def record(value: bytes, key: bytes | None = b"u1") -> Record:
    return Record(key, value, 1_700_000_000_000)


async def read(kafka: AnyKafka, partition: TopicPartition, count: int) -> list[Consumed]:
    found: list[Consumed] = []
    async with kafka.reader() as reader:
        await reader.assign({partition: 0})
        with trio.fail_after(10):
            while len(found) < count:
                found += (await reader.poll(1.0, 1_000)).get(partition, ())
    return found


async def test_batches_go_to_their_partitions_in_order(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with kafka.producer() as producer:
        assert await producer.produce({first: [record(b"a"), record(b"b", None)], second: [record(b"c")]}) == {
            first: 0,
            second: 0,
        }
        assert await producer.produce({first: [Record(b"k", b"d", 5, (("k", b"x"), ("r", b"")))]}) == {first: 2}
    found = await read(kafka, first, 3)
    assert [(r.offset, r.key, r.value) for r in found] == [(0, b"u1", b"a"), (1, None, b"b"), (2, b"k", b"d")]
    assert found[2].headers == (("k", b"x"), ("r", b""))
    assert found[2].timestamp == 5
    assert [r.value for r in await read(kafka, second, 1)] == [b"c"]


async def test_a_batch_that_is_too_large_is_refused_alone(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with kafka.producer() as producer:
        outcome = await producer.produce({first: [record(b"x" * 1_000_000)], second: [record(b"y")]})
        assert isinstance(outcome[first], BadData)
        assert outcome[second] == 0
        assert await producer.produce({first: [record(b"z")], second: [record(b"z")]}) == {first: 0, second: 1}


async def test_a_topic_that_is_not_there(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    there, missing, beyond = TopicPartition(topic, 0), TopicPartition(f"{kafka.ns}.missing", 0), TopicPartition(topic, 9)
    async with kafka.producer() as producer:
        outcome = await producer.produce({there: [record(b"a")], missing: [record(b"b")], beyond: [record(b"c")]})
        assert outcome[there] == 0
        assert isinstance(outcome[missing], NoSuchTopic)
        assert isinstance(outcome[beyond], NoSuchTopic)
        async with kafka.admin() as admin:
            await admin.create_topic(missing.topic, 1, 1, {})
        assert await producer.produce({missing: [record(b"b")]}) == {missing: 0}


# ------------------------------------------------------------------ the real one alone


@pytest.mark.servers
async def test_nobody_listens(kafka_config: KafkaConfig, bridge: None, closed_port: int) -> None:
    config = replace(kafka_config, bootstrap=f"127.0.0.1:{closed_port}")
    partition = TopicPartition("any", 0)
    with trio.fail_after(5):
        async with open_producer(config) as producer:
            assert isinstance((await producer.produce({partition: [record(b"a")]}))[partition], PartAway)


async def test_nobody_answers(bridge: None, silent_port: int) -> None:
    config = KafkaConfig(bootstrap=f"127.0.0.1:{silent_port}", produce_timeout_ms=300, request_timeout_ms=5_000)
    partition = TopicPartition("any", 0)
    with trio.fail_after(5):
        async with open_producer(config) as producer:
            assert isinstance((await producer.produce({partition: [record(b"a")]}))[partition], PartAway)


class Lossy:
    """Between a producer and its broker: what happens to the answers that come next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lose_answers = 0
        self.never_answer = False
        self.requests = 0
        ask = Wire.ask

        async def lossy(wire: Wire, request: Request[Any] | Call) -> Any:
            if not isinstance(request, Call):
                return await ask(wire, request)
            self.requests += 1
            answer = await ask(wire, request)
            if self.never_answer:
                await trio.sleep_forever()
            if self.lose_answers:
                self.lose_answers -= 1
                wire.close()
                raise ConnectionResetError("the answer was lost")
            return answer

        monkeypatch.setattr(Wire, "ask", lossy)


@pytest.mark.servers
@pytest.mark.parametrize("kafka", ["real"], indirect=True)
async def test_a_lost_acknowledgement_is_asked_for_again_and_appends_once(
    kafka: AnyKafka, kafka_config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = TopicPartition(await kafka.topic(), 0)
    async with open_producer(kafka_config) as producer:
        assert await producer.produce({partition: [record(b"a")]}) == {partition: 0}
        lossy = Lossy(monkeypatch)
        lossy.lose_answers = 2
        assert await producer.produce({partition: [record(b"b"), record(b"c")]}) == {partition: 1}
        assert lossy.requests == 3
        assert await producer.produce({partition: [record(b"d")]}) == {partition: 3}
    assert [r.value for r in await read(kafka, partition, 4)] == [b"a", b"b", b"c", b"d"]


@pytest.mark.servers
@pytest.mark.parametrize("kafka", ["real"], indirect=True)
async def test_an_unknown_outcome_ends_the_producer(
    kafka: AnyKafka, kafka_config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = TopicPartition(await kafka.topic(), 0)
    config = replace(kafka_config, produce_timeout_ms=500)
    async with open_producer(config) as producer:
        assert await producer.produce({partition: [record(b"a")]}) == {partition: 0}
        first = producer._session
        lossy = Lossy(monkeypatch)
        lossy.never_answer = True
        with trio.fail_after(5):
            assert isinstance((await producer.produce({partition: [record(b"ghost")]}))[partition], PartAway)
        assert producer._session is None
        lossy.never_answer = False
        assert await producer.produce({partition: [record(b"b")]}) == {partition: 2}
        assert producer._session is not None
        assert first is not None
        assert producer._session.producer != first.producer


@pytest.mark.servers
@pytest.mark.parametrize("kafka", ["real"], indirect=True)
async def test_a_cancelled_produce_learns_its_outcome(kafka: AnyKafka, kafka_config: KafkaConfig) -> None:
    partition = TopicPartition(await kafka.topic(), 0)
    async with open_producer(kafka_config) as producer:
        await producer.produce({partition: [record(b"a")]})
        async with trio.open_nursery() as nursery:
            outcomes = []

            async def produce() -> None:
                outcomes.append(await producer.produce({partition: [record(b"b")]}))

            nursery.start_soon(produce)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert outcomes in ([], [{partition: 1}])
        after = await producer.produce({partition: [record(b"c")]})
        assert after == {partition: 1 + len(outcomes)}
