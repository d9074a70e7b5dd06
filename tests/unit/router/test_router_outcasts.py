"""A topic of an edge that cannot be written to holds up nobody else, and its edge is told what it missed."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from chat.router.outcasts import HINTS
from tests.fakes.redis import FakeRedis
from tests.unit.router.test_router_cycle import TOPICS, World, kafka, redis, until, world

__all__ = ["kafka", "redis", "world"]  # fixtures


def missed(redis: FakeRedis, edge: str) -> set[bytes]:
    found = redis.data.get(f"missed:{edge}".encode(), set())
    assert isinstance(found, set)
    return found


def failures(world: World) -> float:
    return float(world.metrics.failures.labels("kafka")._value.get())


async def test_one_topic_without_leader_holds_up_nobody(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2, 3)
    async with world.router():
        world.write("u2", "u3")
        await until(lambda: world.at("a") and world.at("b"))
        world.kafka.leaderless.add(TOPICS.edge("b"))
        for n in range(2, 6):
            world.write("u2", "u3")
            await until(lambda n=n: len(world.at("a")) == n, 1)
        await until(lambda: missed(world.redis, "b") == {b"u3"})
        await until(lambda: world.committed == 10)
        assert len(world.at("a")) == 5  # nothing was read again
        assert world.metrics.given_up._value.get() == 1
        world.kafka.leaderless.clear()
        await until(lambda: world.metrics.given_up._value.get() == 0)
        world.write("u3")
        await until(lambda: len(world.at("b")) == 2)
    assert failures(world) == 0
    marks = [batch for batch in world.batches("b") if not batch.deliveries and batch.incarnation is None]
    assert len(marks) == 1  # and all its sessions sync


async def test_the_only_topic_is_given_up_once_kafka_has_shown_that_it_is_there(
    autojump_clock: MockClock, world: World
) -> None:
    await world.edge("a", 1, 2)
    async with world.router():
        world.write("u2")
        await until(lambda: world.at("a"))
        world.kafka.leaderless.add(TOPICS.edge("a"))
        world.write("u2", "u2")
        await until(lambda: world.committed == 3)
        assert failures(world) == 1
        assert missed(world.redis, "a") == {b"u2"}


async def test_kafka_away_gives_no_topic_up(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    async with world.router():
        world.write("u2")
        await until(lambda: world.committed == 1)
        world.kafka.fail_produce("lost")
        world.write("u2")
        await until(lambda: world.committed == 2)
    assert [d.pos for d in world.at("a")] == [1, 2]
    assert not missed(world.redis, "a")


async def test_a_live_edge_whose_topic_is_deleted_is_told(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2, 3)
    async with world.router():
        world.write("u2", "u3")
        await until(lambda: world.committed == 2)
        del world.kafka.topics[TOPICS.edge("b")]
        world.write("u3", "u2")
        await until(lambda: world.committed == 4)
        assert missed(world.redis, "b") == {b"u3"}
        world.kafka.create(TOPICS.edge("b"))  # the edge has found it missing
        await until(lambda: world.metrics.given_up._value.get() == 0)
        world.write("u3")
        await until(lambda: [d.pos for d in world.at("b")] == [5])


async def test_pauses_between_probes_grow(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2, 3)
    async with world.router():
        world.kafka.leaderless.add(TOPICS.edge("b"))
        world.write("u2", "u3")
        await until(lambda: world.committed == 2)
        before = len(world.kafka.produced)
        await trio.sleep(300)
        assert 8 < len(world.kafka.produced) - before < 40


async def test_hints_wait_for_redis_and_become_one_where_they_are_many(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1)
    await world.edge("b", 2)
    async with world.router() as router:
        world.redis.away = True
        world.kafka.leaderless.add(TOPICS.edge("b"))
        world.write(*[f"u{n}" for n in range(1, 21)])
        await until(lambda: world.committed == 20)
        assert len(world.at("a")) == 20
        assert not missed(world.redis, "b")
        world.redis.away = False
        await until(lambda: len(missed(world.redis, "b")) == 20)
        outcasts = router._outcasts
        outcasts._hints[TOPICS.edge("b")] = {f"u{n}" for n in range(HINTS + 1)}
        outcasts.missed(TOPICS.edge("b"), [])
        await until(lambda: b"*" in missed(world.redis, "b"))


async def test_a_topic_that_nobody_wants_any_more_is_forgotten(autojump_clock: MockClock, world: World) -> None:
    await world.edge("a", 1, 2)
    await world.edge("b", 2, 3)
    async with world.router():
        del world.kafka.topics[TOPICS.edge("b")]
        world.write("u2", "u3")
        await until(lambda: world.committed == 2)
        assert world.metrics.given_up._value.get() == 1
        await until(lambda: world.metrics.given_up._value.get() == 0, 900)
