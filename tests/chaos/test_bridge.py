"""The adapters while their servers are killed and frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_database, open_group_consumer, open_log_admin, open_memory, open_producer
from chat.config import Config
from chat.errors import PartAway, PartError
from chat.ports import GroupConsumer, Producer
from chat.ports import Statement as S
from chat.records import Consumed, Record, TopicPartition
from tests.harness.cluster import Cluster

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

SERVERS = {"up.edges": 0, "up.routers": 0, "up.persists": 0}
LIMIT = 60.0


class Writer:
    """Produces 0, 1, 2 … one at a time; each again until it is acknowledged."""

    def __init__(self, producer: Producer, place: TopicPartition) -> None:
        self._producer = producer
        self._place = place
        self.acknowledged: list[int] = []  # offsets
        self.unknown = 0

    async def run(self, count: int) -> None:
        while len(self.acknowledged) < count:
            value = b"%d" % len(self.acknowledged)
            outcome = (await self._producer.produce({self._place: [Record(None, value, 1)]}))[self._place]
            if isinstance(outcome, int):
                self.acknowledged.append(outcome)
            else:
                assert isinstance(outcome, PartAway), outcome
                self.unknown += 1
                await trio.sleep(0.05)


class Reader:
    """Follows the log through rebalances, from what it has read."""

    def __init__(self, member: GroupConsumer, place: TopicPartition) -> None:
        self._member = member
        self._place = place
        self.read: list[Consumed] = []
        self.failures = 0

    async def until(self, last: bytes) -> None:
        while not self.read or self.read[-1].value != last:
            try:
                poll = await self._member.poll(0.5, 100)
                await self._member.seek({p: len(self.read) for p in poll.regained})
            except PartAway:
                self.failures += 1
                await trio.sleep(0.05)
                continue
            self.read += poll.records.get(self._place, ())


async def for_ever(ask: Callable[[], Awaitable[object]]) -> None:
    while True:
        await ask()


@pytest.fixture
def kafka_alone(own_cluster: Callable[..., Cluster], bridge: None) -> Cluster:
    return own_cluster(**SERVERS, **{"up.parts": "kafka"})


async def made(config: Config) -> TopicPartition:
    async with open_log_admin(config.kafka) as admin:
        await admin.create_topic("bridge", 1, 1, {})
    return TopicPartition("bridge", 0)


async def test_kafka_is_killed(kafka_alone: Cluster) -> None:
    config = kafka_alone.config
    place = await made(config)
    async with (
        open_producer(config.kafka) as producer,
        open_group_consumer(config.kafka, "bridge", ["bridge"]) as member,
        open_log_admin(config.kafka) as admin,
    ):
        writer, reader = Writer(producer, place), Reader(member, place)
        with trio.fail_after(LIMIT):
            await writer.run(50)
            await reader.until(b"49")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run, 400)
                nursery.start_soon(reader.until, b"399")
                pid = kafka_alone.kill("kafka")
                await kafka_alone.back("kafka", pid)
            assert (await admin.end_offsets([place]))[place] == len(reader.read)
    # read without a gap; what was acknowledged is where the acknowledgement says; ghosts are of unknown batches alone
    assert [r.offset for r in reader.read] == list(range(len(reader.read)))
    assert [reader.read[offset].value for offset in writer.acknowledged] == [b"%d" % i for i in range(400)]
    assert len(reader.read) <= 400 + writer.unknown


async def test_kafka_is_frozen(kafka_alone: Cluster) -> None:
    kafka = replace(kafka_alone.config.kafka, produce_timeout_ms=1_000, request_timeout_ms=1_000)
    place = await made(kafka_alone.config)
    async with (
        open_producer(kafka) as producer,
        open_group_consumer(kafka, "bridge", ["bridge"]) as member,
        open_log_admin(kafka) as admin,
    ):
        writer, reader = Writer(producer, place), Reader(member, place)
        with trio.fail_after(LIMIT):
            await writer.run(10)
            await reader.until(b"9")
        kafka_alone.pause("kafka")
        try:
            with trio.fail_after(10):
                assert isinstance((await producer.produce({place: [Record(None, b"ghost", 1)]}))[place], PartAway)
                with pytest.raises(PartAway):
                    await admin.end_offsets([place])
                with pytest.raises(PartError):
                    await member.commit({place: 5})
                with pytest.raises(PartAway):
                    await for_ever(lambda: member.poll(0.5, 100))
        finally:
            kafka_alone.go_on("kafka")
        with trio.fail_after(LIMIT):
            await writer.run(20)
            await reader.until(b"19")
    assert [r.offset for r in reader.read] == list(range(len(reader.read)))
    assert [reader.read[offset].value for offset in writer.acknowledged] == [b"%d" % i for i in range(20)]


async def test_redis_and_mariadb_are_killed_and_frozen(own_cluster: Callable[..., Cluster], bridge: None) -> None:
    cluster = own_cluster(**SERVERS, **{"up.parts": "redis,mariadb"})
    config = cluster.config
    async with (
        open_memory(replace(config.redis, timeout_ms=300)) as memory,
        open_database(replace(config.mysql, timeout_ms=1_000)) as database,
    ):

        async def ask() -> None:
            assert await memory.pipeline([("PING",)]) == [b"PONG"]
            assert (await database.read([S("SELECT 1")]))[0].rows == ((1,),)

        async def answers_again() -> None:
            with trio.fail_after(LIMIT):
                while True:
                    try:
                        await ask()
                    except PartAway:
                        await trio.sleep(0.05)
                    else:
                        return

        await answers_again()
        run = await memory.run_id()
        for name in ("redis", "mariadb"):
            cluster.pause(name)
            try:
                with trio.fail_after(5), pytest.raises(PartAway):
                    await ask()
            finally:
                cluster.go_on(name)
            await answers_again()
            pid = cluster.kill(name)
            with trio.fail_after(5), pytest.raises(PartAway):
                await for_ever(ask)
            await cluster.back(name, pid)
            await answers_again()
        assert await memory.run_id() != run
