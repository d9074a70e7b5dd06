"""The busier the machine, the longer a cycle waits for company."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chat.busy import EVERY, Busy
from chat.linger import FULL, ROOM, Linger

SHARES = st.floats(0.0, 1.0)


def after(share: float, *, least: float = 0.0005, most: float = 0.015) -> float:
    linger = Linger(least, most)
    for _ in range(100):
        linger.told(share)
    return linger.seconds


def test_where_there_is_room_nobody_waits_for_company() -> None:
    assert after(0.0) == after(ROOM) == 0.0005


def test_a_full_machine_waits_the_most() -> None:
    assert after(FULL) == pytest.approx(0.015)


def test_it_grows_by_the_same_factor_for_each_step() -> None:
    middle = after((ROOM + FULL) / 2)
    assert middle == pytest.approx((0.0005 * 0.015) ** 0.5, rel=0.01)


def test_one_busy_moment_is_not_believed_and_room_is_seen_again() -> None:
    linger = Linger(0.0005, 0.015)
    linger.told(1.0)
    assert linger.seconds == 0.0005
    for _ in range(20):
        linger.told(1.0)
    assert linger.seconds > 0.0145
    for _ in range(4):
        linger.told(0.1)
    assert linger.seconds == 0.0005


def test_no_pause_where_none_is_allowed() -> None:
    assert after(1.0, least=0.0, most=0.0) == 0.0
    assert after(0.8, least=0.004, most=0.004) == 0.004


@given(st.lists(SHARES), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_always_between_its_bounds(shares: list[float], least: float, most: float) -> None:
    linger = Linger(least, most)
    for share in shares:
        linger.told(share)
        assert least <= linger.seconds <= max(least, most)


@given(SHARES, SHARES, st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_never_shorter_on_a_fuller_machine(one: float, other: float, least: float, most: float) -> None:
    assert after(min(one, other), least=least, most=most) <= after(max(one, other), least=least, most=most)


class Told(Linger):
    def __init__(self) -> None:
        super().__init__(0.0, 0.0)
        self.shares: list[float] = []

    def told(self, busy: float) -> None:
        self.shares.append(busy)


async def test_the_machine_is_looked_at_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    ticks = [(100.0, 50.0), (200.0, 125.0), (300.0, 125.0)]
    busy, linger = Busy(lambda: ticks.pop(0)), Told()
    busy.tell(linger)
    assert linger.shares == []
    for _ in range(2):
        await trio.sleep(EVERY)
        busy.tell(linger)
        busy.tell(linger)
    assert linger.shares[0] == 0.75
    assert linger.shares[1] < 0.5  # what this thread used, since no core was


async def test_a_thread_that_fills_its_core_is_busy_where_the_machine_is_not() -> None:
    busy, linger = Busy(lambda: (0.0, 0.0)), Told()
    end = trio.current_time() + 4 * EVERY
    while trio.current_time() < end and not linger.shares:
        sum(range(10_000))
        busy.tell(linger)
    assert linger.shares
    assert 0.05 < linger.shares[0] <= 1.0


async def test_this_machine_can_be_read() -> None:
    busy, linger = Busy(), Told()
    await trio.sleep(EVERY)
    busy.tell(linger)
    assert len(linger.shares) == 1
    assert 0.0 <= linger.shares[0] <= 1.0
