"""The router's cycle on the fakes: what fails is read again from the commit, what is another's is not committed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chat.config import RouterConfig
from chat.errors import PartAway, SetupError
from chat.metrics import RouterMetrics
from chat.protocol import Message, decode_event
from chat.records import (
    Delivery,
    DeliveryBatch,
    TopicPartition,
    Topics,
    message_records,
    unpack_deliveries,
)
from chat.router.cycle import Router
from chat.router.lookup import Breaker, Lookup
from chat.router.outcasts import Outcasts
from tests.fakes.kafka import FakeGroupConsumer, FakeKafka, FakeLogAdmin, FakeProducer
from tests.fakes.redis import FakeRedis

TOPICS = Topics("chat")
P = TopicPartition(TOPICS.messages, 0)
GROUP = "chat-router"


@pytest.fixture
def kafka() -> FakeKafka:
    kafka = FakeKafka(max_batch_bytes=4_000)
    kafka.create(TOPICS.messages)
    return kafka


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


class World:
    def __init__(self, kafka: FakeKafka, redis: FakeRedis) -> None:
        self.kafka = kafka
        self.redis = redis
        self.metrics = RouterMetrics()
        self.seq = 0

    async def edge(self, name: str, incarnation: int, *users: int) -> None:
        self.kafka.create(TOPICS.edge(name))
        await self.redis.pipeline([("SET", f"edge:{name}", f'{{"incarnation":{incarnation}}}')])
        for user in users:
            await self.redis.pipeline([("HSET", f"loc:{user}", f"s{name}", f"{name} {incarnation} dev")])

    def write(self, *timelines: str, said: str = "x") -> None:
        for timeline in timelines:
            number = int(timeline[1:])
            to, group = (number, None) if timeline[0] == "u" else (None, number)
            message = Message(sender=9, to=to, group=group, stream=1, seq=self.seq, sent_at=1, kind="text", text=said)
            self.seq += 1
            self.kafka.log(P).append(r.record for r in message_records(message, [timeline]))
        self.kafka.tell()

    def batches(self, edge: str) -> list[DeliveryBatch]:
        return [unpack_deliveries(v) for v in self.kafka.values(TOPICS.edge(edge))]

    def at(self, edge: str) -> list[Delivery]:
        return [d for batch in self.batches(edge) for d in batch.deliveries]

    @property
    def committed(self) -> int | None:
        return self.kafka.committed.get(GROUP, {}).get(P)

    @asynccontextmanager
    async def router(self, newest: int = 0, **settings: Any) -> AsyncIterator[Router]:
        topics = [TOPICS.generation_topic(n) for n in range(newest + 1)]
        consumer = FakeGroupConsumer(self.kafka, GROUP, topics)
        breaker = Breaker(self.redis, self.metrics.broadcasting)
        outcasts = Outcasts(TOPICS, FakeProducer(self.kafka), self.redis, "", self.metrics.given_up)
        router = Router(
            RouterConfig(**settings),
            TOPICS,
            consumer=consumer,
            producer=FakeProducer(self.kafka),
            admin=FakeLogAdmin(self.kafka),
            lookup=Lookup(self.redis, ""),
            breaker=breaker,
            outcasts=outcasts,
            metrics=self.metrics,
            max_batch_bytes=self.kafka.max_batch_bytes,
            newest=newest,
        )
        stop, ready = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaker.run)
            nursery.start_soon(outcasts.run)
            async with trio.open_nursery() as inner:
                inner.start_soon(router.run, stop, ready.set)
                await ready.wait()
                yield router
                stop.set()
            self.kafka.leave(GROUP, consumer)
            nursery.cancel_scope.cancel()


@pytest.fixture
def world(kafka: FakeKafka, redis: FakeRedis) -> World:
    return World(kafka, redis)


async def until(true: Callable[[], object], seconds: float = 60) -> None:
    with trio.fail_after(seconds):
        while True:
            if true():
                return
            await trio.sleep(0.01)


def prev(delivery: Delivery) -> int | None:
    message = decode_event(delivery.payload)
    assert isinstance(message, Message)
    assert isinstance(message.prev, int | None)
    return message.prev


async def test_stopping_commits_what_is_done(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router():
        world.write("u2", "u3")
        await until(lambda: len(world.at("a")) == 1)
    assert world.committed == 2


@pytest.mark.parametrize("fate", ["lost", "ghost", "late"])
async def test_an_unknown_outcome_is_read_again_from_the_commit(autojump_clock: MockClock, world: World, fate: Any) -> None:
    await world.edge("a", 1, 2)
    async with world.router():
        world.write("u2")
        await until(lambda: world.committed == 1)
        world.kafka.fail_produce(fate)
        world.write("u2", "u2")
        await until(lambda: len({d.pos for d in world.at("a")}) == 3)
        world.kafka.release_late()
        world.write("u2")
        await until(lambda: world.committed == 4)
    found = {d.pos: d for d in world.at("a")}
    assert [prev(found[pos]) for pos in (1, 2, 3, 4)] == [0, 1, 2, 3]


async def test_nothing_is_committed_beyond_an_unknown_outcome(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router(commit_ms=0):
        world.kafka.fail_produce(*["lost"])
        world.write("u2")
        await until(lambda: not world.kafka.fates)
        assert world.committed is None
        await until(lambda: world.committed == 1)


async def test_waits_grow_while_kafka_is_away(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router():
        world.write("u2")
        await until(lambda: world.committed == 1)
        world.kafka.away = True
        world.write("u2")
        await trio.sleep(60)
        given_up = world.metrics.failures.labels("kafka")._value.get()
        assert 10 < given_up < 40
        world.kafka.away = False
        await until(lambda: len({d.pos for d in world.at("a")}) == 2)


async def test_redis_is_not_asked_again_by_each_cycle_and_comes_back(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2)
    async with world.router():
        world.redis.away = True
        for _ in range(3):
            world.write("u2", "u3")
            await trio.sleep(0.01)
        await until(lambda: len(world.at("a")) == len(world.at("b")) == 6)
        assert {b.incarnation for b in world.batches("b")} == {None}
        assert world.metrics.broadcasting._value.get() == 1
        world.kafka.create(TOPICS.edge("new"))
        world.write("u3")
        await until(lambda: len(world.at("new")) == 1)
        world.redis.away = False
        await until(lambda: world.metrics.broadcasting._value.get() == 0)
        world.write("u2", "u3")
        await until(lambda: len(world.at("a")) == 8)
    assert world.batches("a")[-1].incarnation == 1
    assert len(world.at("b")) == 7


async def test_a_look_up_is_made_after_the_fetch_every_time(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2)
    async with world.router():
        world.write("u2", "u2", "u2")
        await until(lambda: len(world.at("a")) == 3)
        await world.redis.pipeline(
            [("DEL", "loc:2"), ("HSET", "loc:2", "s", "b 2 dev"), ("SET", "edge:a", '{"incarnation":7}')]
        )
        world.write("u2")
        await until(lambda: len(world.at("b")) == 1)
    asked = [[c for c in p if c[0] == "HGETALL"] for p in world.redis.pipelines]
    assert max(map(len, asked)) == 1
    assert len(world.at("a")) == 3


async def test_one_pipeline_a_cycle_once_the_edges_are_known(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.redis.pipeline([("HSET", "loc:2", "old", "dead 5 dev")])
    async with world.router():
        world.write("u2")
        await until(lambda: len(world.at("a")) == 1)
        before = len(world.redis.pipelines)
        world.write("u2", "u2")
        await until(lambda: len(world.at("a")) == 3)
        assert len(world.redis.pipelines) - before <= 2  # the two may be fetched by two cycles
    assert world.metrics.dead_locations._value.get() >= 2


async def test_unreadable_locations_and_leases_are_dead(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.redis.pipeline([("HSET", "loc:2", "x", "rubbish"), ("HSET", "loc:3", "s", "b 1 d"), ("SET", "edge:b", "{")])
    async with world.router():
        world.write("u3", "u2")
        await until(lambda: len(world.at("a")) == 1)


async def test_a_wrong_type_in_redis_is_taken_as_away(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1)
    await world.redis.pipeline([("SET", "loc:2", "x")])
    async with world.router():
        world.write("u2")
        await until(lambda: len(world.at("a")) == 1)
    assert world.batches("a")[0].incarnation is None


async def test_a_topic_that_goes_is_no_error(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2, 2)
    async with world.router():
        world.write("u2")
        await until(lambda: len(world.at("b")) == 1)
        del world.kafka.topics[TOPICS.edge("b")]
        world.write("u2", "u2")
        await until(lambda: len(world.at("a")) == 3)
    assert world.committed == 3
    assert world.metrics.failures.labels("kafka")._value.get() == 0


async def test_a_delivery_that_kafka_refuses_goes_alone(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router(linger_ms=50):
        world.write("u2")
        await until(lambda: len(world.at("a")) == 1)
        world.write("u2", "u2", said="small")
        world.write("u2", said="x" * 5_000)
        world.write("u2")
        await until(lambda: len(world.at("a")) == 4)
    assert [d.pos for d in world.at("a")] == [1, 2, 3, 5]
    assert world.committed == 5
    assert world.metrics.refused._value.get() == 1


async def test_much_for_one_edge_goes_in_rounds_in_order(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    world.write(*["u2"] * 50, said="x" * 300)
    async with world.router():
        await until(lambda: len(world.at("a")) == 50)
    assert [d.pos for d in world.at("a")] == list(range(1, 51))


async def test_a_rebalance_forgets_and_warms_up(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router(warm_records=2):
        world.write("u2", "u2", "u2", "u4")
        await until(lambda: world.committed == 4)
        world.kafka.rebalance(GROUP)
        world.write("u2", "u4", "u5")
        await until(lambda: len(world.at("a")) == 4)
    assert [prev(d) for d in world.at("a")] == [0, 1, 2, 3]


async def test_a_zombie_does_not_commit_for_others(autojump_clock: MockClock, world: World) -> None:
    """What was done before the partitions were lost is not committed after they are back."""
    await world.edge("a", 1, 2)
    async with world.router(commit_ms=10**9) as router:
        world.write("u2")
        await until(lambda: world.committed == 1)  # the first time at once, then no more
        world.write("u2", "u2")
        await until(lambda: router._done == {P: 3})
        world.kafka.rebalance(GROUP)
        world.kafka.committed[GROUP] = {P: 2}  # another has come so far meanwhile
        await until(lambda: len(world.at("a")) == 4)
        world.kafka.rebalance(GROUP)
    assert world.committed == 2
    assert [d.pos for d in world.at("a")][:4] == [1, 2, 3, 3]


async def test_a_commit_that_is_too_late_is_passed_over(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    other = FakeGroupConsumer(world.kafka, GROUP, [TOPICS.messages])
    async with world.router(commit_ms=0):
        world.write("u2")
        await until(lambda: world.committed == 1)
        await other.poll(0, 1)
        world.write("u2")
        await trio.sleep(1)
        world.kafka.leave(GROUP, other)
        await until(lambda: world.committed == 2)


async def test_trimmed_before_it_was_delivered(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    world.write(*["u2"] * 5)
    world.kafka.committed[GROUP] = {P: 1}
    world.kafka.log(P).trim(3)
    async with world.router():
        await until(lambda: world.committed == 5)
    assert [prev(d) for d in world.at("a")] == [None, 4]


async def test_a_commit_beyond_the_end_is_refused_by_name(autojump_clock: MockClock, world: World) -> None:
    world.kafka.committed[GROUP] = {P: 7}
    with pytest.RaisesGroup(pytest.RaisesExc(SetupError, match=r"ends at 0.*committed 7"), flatten_subgroups=True):
        async with world.router():
            pass


async def test_an_old_generation_that_was_lost_is_left_alone(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    world.kafka.committed[GROUP] = {P: 7}
    world.write("u2")  # into the topic that was made anew; it is carried over
    topic = TOPICS.generation_topic(1)
    world.kafka.create(topic)
    message = Message(sender=9, to=2, stream=1, seq=0, sent_at=1, kind="text", text="x")
    world.kafka.log(TopicPartition(topic, 0)).append(r.record for r in message_records(message, ["u2"]))
    async with world.router(newest=1):
        await until(lambda: world.at("a"))
    assert [d.pos for d in world.at("a")] == [2**44 + 1]


async def test_a_new_generation_knows_nothing_of_the_old_one(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    world.kafka.topics[TOPICS.messages] = []
    topic = TOPICS.generation_topic(1)
    world.kafka.create(topic)
    assert (TOPICS.generation_of(topic), TOPICS.generation_of("chat.messages.x")) == (1, None)
    message = Message(sender=9, to=2, stream=1, seq=0, sent_at=1, kind="text", text="x")
    world.kafka.log(TopicPartition(topic, 0)).append(r.record for r in message_records(message, ["u2"]))
    consumer = FakeGroupConsumer(world.kafka, GROUP, [topic])
    router = Router(
        RouterConfig(),
        TOPICS,
        consumer=consumer,
        producer=FakeProducer(world.kafka),
        admin=FakeLogAdmin(world.kafka),
        lookup=Lookup(world.redis, ""),
        breaker=Breaker(world.redis, world.metrics.broadcasting),
        outcasts=Outcasts(TOPICS, FakeProducer(world.kafka), world.redis, "", world.metrics.given_up),
        metrics=world.metrics,
        max_batch_bytes=9_000,
    )
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.run, stop, lambda: None)
        await until(lambda: len(world.at("a")) == 1)
        stop.set()
    (only,) = world.at("a")
    assert (only.pos, prev(only)) == (2**44 + 1, None)


async def test_away_is_away(autojump_clock: MockClock, world: World) -> None:
    """The fakes raise what the bridge raises."""
    world.redis.away = True
    with pytest.raises(PartAway):
        await Lookup(world.redis, "").find(["u1"])
