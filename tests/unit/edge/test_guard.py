from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from chat.edge.guard import TURN_S, Guard, Lane
from chat.errors import BadData, PartAway
from chat.ports import Lock, Result, Statement

ASK = [Statement("SELECT 2")]


class Flaky:
    """A Database that answers after `seconds`, or raises."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.seconds = 0.0
        self.asked: list[str] = []

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        self.asked.append(statements[0].sql)
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [Result(((1,),), 0, 0)]

    snapshot = write = read

    async def script(self, sql: Sequence[str]) -> None: ...

    def lock(self, name: str) -> Lock:
        raise NotImplementedError


@pytest.fixture
async def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
async def guard(nursery: trio.Nursery, flaky: Flaky) -> Guard:
    made = Guard(flaky, seconds=1.0)
    await nursery.start(made.run)
    return made


@pytest.fixture
def lane(guard: Guard) -> Lane:
    return guard.lane(2)


async def test_answers_pass(autojump_clock: MockClock, lane: Lane) -> None:
    assert (await lane.read(ASK))[0].rows == ((1,),)
    assert (await lane.snapshot(ASK))[0].rows == ((1,),)
    assert (await lane.write(ASK))[0].rows == ((1,),)


async def test_one_finds_it_away_the_others_are_told(
    autojump_clock: MockClock, guard: Guard, lane: Lane, flaky: Flaky
) -> None:
    flaky.error = PartAway("mysql", "refused")
    with pytest.raises(PartAway, match="refused"):
        await lane.read(ASK)
    await trio.sleep(0.01)
    asked = flaky.asked.count("SELECT 2")
    for call in (lane.read, lane.snapshot, lane.write, guard.lane(1).read):
        with pytest.raises(PartAway):
            await call(ASK)
    assert flaky.asked.count("SELECT 2") == asked
    await trio.sleep(60)
    assert 30 < flaky.asked.count("SELECT 1") < 80  # probes, ever more slowly
    flaky.error = None
    await guard.wait_mended()
    assert await lane.read(ASK)


async def test_a_read_that_hangs_is_not_waited_for(
    autojump_clock: MockClock, guard: Guard, lane: Lane, flaky: Flaky
) -> None:
    flaky.seconds = 5.0
    start = trio.current_time()
    with pytest.raises(PartAway):
        await lane.read(ASK)
    assert trio.current_time() - start == pytest.approx(1.0, abs=0.01)
    assert guard.away
    await guard.wait_mended()


async def test_waiting_for_a_turn_is_bounded_and_says_nothing_of_the_database(
    autojump_clock: MockClock, guard: Guard, flaky: Flaky
) -> None:
    lane = guard.lane(1)
    flaky.seconds = 0.9
    late = 0

    async def ask() -> None:
        nonlocal late
        try:
            await lane.read(ASK)
        except PartAway as error:
            assert "waiting" in error.message  # noqa: PT017
            late += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert late == 20 - int(TURN_S / 0.9) - 1
    assert not guard.away
    flaky.seconds = 0.0
    assert await lane.read(ASK)


async def test_a_turn_that_comes_when_it_is_away_is_given_back(
    autojump_clock: MockClock, guard: Guard, flaky: Flaky
) -> None:
    lane = guard.lane(1)
    flaky.seconds = 0.5
    flaky.error = PartAway("mysql", "refused")
    refused = 0

    async def ask() -> None:
        nonlocal refused
        with pytest.raises(PartAway):
            await lane.write(ASK)
        refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert (refused, flaky.asked.count("SELECT 2")) == (5, 1)
    flaky.error = None
    await guard.wait_mended()
    assert await lane.read(ASK)


async def test_a_single_refusal_costs_one_probe(autojump_clock: MockClock, guard: Guard, lane: Lane, flaky: Flaky) -> None:
    flaky.error = PartAway("mysql", "deadlock")
    with pytest.raises(PartAway):
        await lane.write(ASK)
    flaky.error = None
    await guard.wait_mended()
    assert flaky.asked == ["SELECT 2", "SELECT 1"]


async def test_refused_data_is_no_absence(autojump_clock: MockClock, guard: Guard, lane: Lane, flaky: Flaky) -> None:
    flaky.error = BadData("mysql", "duplicate", duplicate=True)
    for call in (lane.read, lane.write):
        with pytest.raises(BadData):
            await call(ASK)
    assert not guard.away


async def test_who_is_cancelled_leaves_no_turn_behind(autojump_clock: MockClock, lane: Lane, flaky: Flaky) -> None:
    flaky.seconds = 0.5
    for call in (lane.read, lane.write) * 4:
        with trio.move_on_after(0.1):
            await call(ASK)
    flaky.seconds = 0.0
    assert await lane.read(ASK)
    assert await lane.write(ASK)


async def test_before_it_runs_it_is_away(autojump_clock: MockClock, flaky: Flaky) -> None:
    with pytest.raises(PartAway):
        await Guard(flaky, seconds=1.0).lane(1).read(ASK)


async def test_a_fault_of_the_driver_is_the_askers_alone(autojump_clock: MockClock, flaky: Flaky, lane: Lane) -> None:
    flaky.error = ValueError("a fault")
    with pytest.raises(ValueError, match="a fault"):
        await lane.read(ASK)
    flaky.error = None
    assert (await lane.read(ASK))[0].rows == ((1,),)
