"""The tail of a topic: what comes, jumps, and a topic that goes or is made anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from chat.edge.tail import Tail
from chat.records import Consumed, Record, TopicPartition
from tests.fakes.kafka import FakeKafka, FakeLogAdmin, FakeLogReader

TOPIC = "t"
PLACE = TopicPartition(TOPIC, 0)


class World:
    def __init__(self) -> None:
        self.kafka = FakeKafka()
        self.kafka.create(TOPIC)
        self.came: list[bytes] = []
        self.cuts: list[str] = []

    def write(self, *values: bytes) -> None:
        self.kafka.log(PLACE).append([Record(None, value, 0) for value in values])
        self.kafka.tell()

    def _take(self, records: Sequence[Consumed]) -> None:
        self.came += [r.value for r in records]

    async def _make(self) -> None:
        await FakeLogAdmin(self.kafka).create_topic(TOPIC, 1, 1, {})

    @asynccontextmanager
    async def reading(self, *, whole: bool = False, makes: bool = False) -> AsyncIterator[None]:
        tail = Tail(
            TOPIC, FakeLogReader(self.kafka), FakeLogAdmin(self.kafka), records=100, take=self._take,
            cut_off=self.cuts.append, whole=whole, make=self._make if makes else None,
        )  # fmt: skip
        await tail.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tail.run)
            yield
            nursery.cancel_scope.cancel()


async def until(true: Callable[[], object], seconds: float = 60) -> None:
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_reads_from_the_end_at_start_on(autojump_clock: MockClock) -> None:
    world = World()
    world.write(b"before")
    async with world.reading():
        world.write(b"a")
        world.write(b"b", b"c")
        await until(lambda: world.came == [b"a", b"b", b"c"])
    assert not world.cuts


@pytest.mark.parametrize(("whole", "comes"), [(False, [b"new"]), (True, [b"left", b"new"])])
async def test_trimmed_before_it_was_read(autojump_clock: MockClock, whole: bool, comes: list[bytes]) -> None:
    world = World()
    async with world.reading(whole=whole):
        world.kafka.away = True
        await trio.sleep(2)
        world.write(b"gone", b"gone", b"left")
        world.kafka.log(PLACE).trim(2)
        world.kafka.away = False
        await until(lambda: world.cuts)
        world.write(b"new")
        await until(lambda: world.came == comes)
    assert len(world.cuts) == 1


async def test_an_edge_makes_its_topic_again_when_somebody_has_deleted_it(autojump_clock: MockClock) -> None:
    world = World()
    async with world.reading(makes=True):
        world.write(b"a")
        await until(lambda: world.came)
        await FakeLogAdmin(world.kafka).delete_topics([TOPIC])
        await until(lambda: TOPIC in world.kafka.topics, 10)
        await until(lambda: world.cuts)
        world.write(b"b")
        await until(lambda: world.came == [b"a", b"b"])
    assert world.cuts == ["the topic is gone"]


async def test_a_topic_made_anew_that_holds_our_place_again_is_noticed(autojump_clock: MockClock) -> None:
    world = World()
    async with world.reading(whole=True):
        world.write(b"a")
        await until(lambda: world.came)
        world.kafka.create(TOPIC)
        world.write(b"x", b"y", b"z")  # our place, 1, is in it
        await until(lambda: world.cuts, 10)
        await until(lambda: world.came[-3:] == [b"x", b"y", b"z"])
    assert world.cuts == ["the topic was made anew"]


async def test_a_topic_that_is_not_made_again_is_waited_for(autojump_clock: MockClock) -> None:
    world = World()
    async with world.reading(whole=True):
        await FakeLogAdmin(world.kafka).delete_topics([TOPIC])
        await trio.sleep(60)
        assert not world.cuts
        world.kafka.create(TOPIC)
        world.write(b"a")
        await until(lambda: world.came == [b"a"])
    assert len(world.cuts) == 1


async def test_a_log_that_has_lost_records_is_read_from_its_end(autojump_clock: MockClock) -> None:
    """What lies in it was heard before: heard again, an old log-in would end a newer session."""
    world = World()
    world.write(*[b"heard"] * 5)
    async with world.reading(whole=True):
        world.write(b"a")
        await until(lambda: world.came)
        del world.kafka.log(PLACE).records[2:]
        await until(lambda: world.cuts)
        world.write(b"b")
        await until(lambda: world.came == [b"a", b"b"])


async def test_pauses_grow_while_kafka_is_away(autojump_clock: MockClock) -> None:
    world = World()
    async with world.reading():
        world.kafka.away = True
        await trio.sleep(60)
        world.kafka.away = False
        world.write(b"a")
        await until(lambda: world.came, 3)
    assert not world.cuts
