from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from chat.edge.guard import Guard
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
async def flaky(nursery: trio.Nursery, autojump_clock: MockClock) -> Flaky:
    return Flaky()


@pytest.fixture
async def guard(nursery: trio.Nursery, flaky: Flaky) -> Guard:
    made = Guard(flaky, seconds=1.0)
    await nursery.start(made.run)
    return made


async def test_answers_pass(guard: Guard) -> None:
    assert (await guard.read(ASK))[0].rows == ((1,),)
    assert (await guard.snapshot(ASK))[0].rows == ((1,),)
    assert (await guard.write(ASK))[0].rows == ((1,),)


async def test_one_finds_it_away_the_others_are_told(guard: Guard, flaky: Flaky) -> None:
    flaky.error = PartAway("mysql", "refused")
    with pytest.raises(PartAway, match="refused"):
        await guard.read(ASK)
    await trio.sleep(0.01)
    asked = flaky.asked.count("SELECT 2")
    for call in (guard.read, guard.snapshot, guard.write):
        with pytest.raises(PartAway):
            await call(ASK)
    assert flaky.asked.count("SELECT 2") == asked
    await trio.sleep(60)
    assert 30 < flaky.asked.count("SELECT 1") < 80  # probes, ever more slowly
    flaky.error = None
    await guard.wait_mended()
    assert await guard.read(ASK)


async def test_a_read_that_hangs_is_not_waited_for(guard: Guard, flaky: Flaky) -> None:
    flaky.seconds = 5.0
    start = trio.current_time()
    with pytest.raises(PartAway):
        await guard.read(ASK)
    assert trio.current_time() - start == pytest.approx(1.0, abs=0.01)
    assert guard.away
    await guard.wait_opened()
    await guard.wait_mended()


async def test_a_single_refusal_costs_one_probe(guard: Guard, flaky: Flaky) -> None:
    flaky.error = PartAway("mysql", "deadlock")
    with pytest.raises(PartAway):
        await guard.write(ASK)
    flaky.error = None
    await guard.wait_mended()
    assert flaky.asked == ["SELECT 2", "SELECT 1"]


async def test_refused_data_is_no_absence(guard: Guard, flaky: Flaky) -> None:
    flaky.error = BadData("mysql", "duplicate", duplicate=True)
    for call in (guard.read, guard.write):
        with pytest.raises(BadData):
            await call(ASK)
    assert not guard.away


async def test_before_it_runs_it_is_away(flaky: Flaky) -> None:
    with pytest.raises(PartAway):
        await Guard(flaky, seconds=1.0).read(ASK)


async def test_its_state_can_be_waited_for(guard: Guard, flaky: Flaky, nursery: trio.Nursery) -> None:
    seen: list[str] = []

    async def follow() -> None:
        await guard.wait_opened()
        seen.append("away")
        await guard.wait_mended()
        seen.append("back")

    nursery.start_soon(follow)
    await trio.sleep(1)
    assert seen == []
    flaky.error = PartAway("mysql", "refused")
    with pytest.raises(PartAway):
        await guard.read(ASK)
    await trio.sleep(3)
    assert seen == ["away"]
    flaky.error = None
    await trio.sleep(3)
    assert seen == ["away", "back"]
