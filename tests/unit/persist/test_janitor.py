"""Which topics of edges the janitor removes: only time counts in which Redis was asked, and knew of others."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from chat.config import PersistConfig
from chat.errors import PartError
from chat.metrics import PersistMetrics
from chat.persist.janitor import Janitor
from chat.records import Topics
from tests.fakes.kafka import FakeKafka, FakeLogAdmin
from tests.fakes.redis import FakeRedis
from tests.fakes.small_edge import FewUsers

TOPICS = Topics("t")
HOURS = 6.0


class World:
    def __init__(self) -> None:
        self.kafka, self.redis = FakeKafka(), FakeRedis()
        self.settings = PersistConfig(retain_days=0, edge_topic_hours=HOURS, janitor_s=60)
        for edge in ("here", "away"):
            self.kafka.create(TOPICS.edge(edge))
        self.lease("here")
        self.janitor = Janitor(
            self.settings, TOPICS, database=FewUsers(), admin=FakeLogAdmin(self.kafka), redis=self.redis, prefix="",
            metrics=PersistMetrics(),
        )  # fmt: skip

    def lease(self, *edges: str) -> None:
        for edge in edges:
            self.redis.execute("SET", f"edge:{edge}", "{}")

    async def hours(self, hours: float) -> None:
        for _ in range(int(hours * 60)):
            await trio.sleep(60)
            try:
                await self.janitor.sweep()
            except PartError:
                continue

    @property
    def left(self) -> set[str]:
        return {t.removeprefix(TOPICS.edge_prefix) for t in self.kafka.topics}


async def test_an_edge_that_has_gone_for_good(autojump_clock: MockClock) -> None:
    world = World()
    await world.hours(HOURS - 0.1)
    assert world.left == {"here", "away"}
    await world.hours(0.2)
    assert world.left == {"here"}


async def test_one_that_comes_back_is_counted_anew(autojump_clock: MockClock) -> None:
    world = World()
    await world.hours(HOURS - 0.1)
    world.lease("away")
    await world.hours(0.1)
    world.redis.execute("DEL", "edge:away")
    await world.hours(HOURS - 0.1)
    assert world.left == {"here", "away"}


async def test_hours_without_redis_do_not_count(autojump_clock: MockClock) -> None:
    """Redis comes back without its keys, and the first look is before the edges have written them again."""
    world = World()
    await world.hours(0.1)
    world.redis.away = True
    await world.hours(2 * HOURS)
    world.redis.restart(lose=True)
    world.redis.away = False
    await world.janitor.sweep()
    assert world.left == {"here", "away"}
    world.lease("here", "away")
    await world.hours(1)
    assert world.left == {"here", "away"}


async def test_an_empty_redis_says_nothing_of_edges(autojump_clock: MockClock) -> None:
    world = World()
    world.redis.restart(lose=True)
    await world.hours(3 * HOURS)
    assert world.left == {"here", "away"}


async def test_a_janitor_that_was_frozen_has_not_watched(autojump_clock: MockClock) -> None:
    world = World()
    await world.hours(0.1)
    await trio.sleep(10 * HOURS * 3_600)
    await world.janitor.sweep()
    assert world.left == {"here", "away"}
