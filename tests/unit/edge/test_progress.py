"""How far the log and persist are."""

from collections.abc import Mapping, Sequence

import pytest
import trio
from trio.testing import MockClock

from chat.edge.progress import EdgeProgress
from chat.errors import BadData, PartAway
from chat.ports import Result, Statement
from chat.positions import position
from chat.records import Record, TopicPartition, partition_of
from tests.fakes.kafka import FakeKafka, FakeLogAdmin
from tests.fakes.small_edge import FewUsers


class SlowAdmin(FakeLogAdmin):
    """Answers when it may."""

    def __init__(self, kafka: FakeKafka) -> None:
        super().__init__(kafka)
        self.calls = 0
        self.gate = trio.Event()

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.calls += 1
        ends = await super().end_offsets(partitions)
        await self.gate.wait()
        return ends


def make(admin: FakeLogAdmin, database: FewUsers) -> EdgeProgress:
    return EdgeProgress(
        admin,
        database,
        messages_topic="m",
        partitions=2,
        generation=0,
        partition=lambda t: TopicPartition("m", partition_of(t, 2)),
    )


async def test_an_end_is_never_older_than_the_question(nursery: trio.Nursery) -> None:
    kafka = FakeKafka()
    kafka.create("m", 2)
    admin = SlowAdmin(kafka)
    progress = make(admin, FewUsers())
    await nursery.start(progress.run)
    answers: dict[str, int] = {}

    async def ask(name: str) -> None:
        answers[name] = (await progress.end(["u1"]))["u1"]

    nursery.start_soon(ask, "first")
    await trio.testing.wait_all_tasks_blocked()
    kafka.log(TopicPartition("m", partition_of("u1", 2))).append([Record(b"u1", b"{}", 1)])
    for name in "abc":
        nursery.start_soon(ask, name)
    await trio.testing.wait_all_tasks_blocked()
    assert admin.calls == 1
    admin.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {"first": position(0, 0), "a": position(0, 1), "b": position(0, 1), "c": position(0, 1)}
    assert admin.calls == 2


async def test_kafka_away_is_told_to_all_who_wait(nursery: trio.Nursery) -> None:
    kafka = FakeKafka()
    kafka.create("m", 2)
    kafka.away = True
    progress = make(FakeLogAdmin(kafka), FewUsers())
    await nursery.start(progress.run)
    with pytest.raises(PartAway):
        await progress.end(["u1"])
    kafka.away = False
    assert await progress.end(["u1"]) == {"u1": 1}


async def test_reached_waits_for_persist_and_polls_only_meanwhile(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    database = FewUsers()
    kafka = FakeKafka()
    kafka.create("m", 2)
    progress = make(FakeLogAdmin(kafka), database)
    await nursery.start(progress.run)
    number = partition_of("u1", 2)
    database.offsets = [(number, 0, 4)]
    assert await progress.reached({"u1": position(0, 4)}, 1.0)
    asked = len(database.asked)
    await trio.sleep(10)
    assert len(database.asked) <= asked + 1
    begun = trio.current_time()
    assert not await progress.reached({"u1": position(0, 5)}, 1.0)
    assert trio.current_time() - begun == pytest.approx(1.0)
    database.away = True
    assert not await progress.reached({"u1": position(0, 5)}, 0.5)
    database.away = False
    database.offsets = [(number, 1, 0)]
    assert await progress.reached({"u1": position(0, 5)}, 2.0)


async def test_a_table_that_refuses_for_a_moment_ends_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    kafka = FakeKafka()
    kafka.create("m", 2)
    database = FewUsers()
    progress = make(FakeLogAdmin(kafka), database)
    await nursery.start(progress.run)
    real, refusals = database.read, [BadData("mysql", "1412: Table definition has changed")]

    async def read(statements: Sequence[Statement]) -> list[Result]:
        if refusals:
            raise refusals.pop()
        return await real(statements)

    database.read = read  # type: ignore[method-assign]
    database.offsets = [(0, 0, 5), (1, 0, 5)]
    assert await progress.reached({"u1": position(0, 5)}, 5)
