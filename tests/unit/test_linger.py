"""The busier the machine, the longer a cycle waits for company."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat.linger import Linger

TIMES = st.floats(1e-5, 20.0)


def test_alike_cycles_wait_the_least() -> None:
    linger = Linger(0.0005, 0.015)
    for _ in range(500):
        linger.took(0.001)
        assert linger.seconds < 0.00051


def test_cycles_that_take_longer_wait_longer_and_come_back() -> None:
    linger = Linger(0.0005, 0.015)
    for _ in range(50):
        linger.took(0.001)
    for _ in range(50):
        linger.took(0.004)
    assert 0.0015 < linger.seconds < 0.0025
    for _ in range(100):
        linger.took(0.001)
    assert linger.seconds < 0.0006


def test_a_network_that_has_become_slower_is_got_used_to() -> None:
    linger = Linger(0.0005, 0.015)
    linger.took(0.001)
    for _ in range(20_000):
        linger.took(0.010)
    assert linger.seconds < 0.0013


@given(st.lists(TIMES), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_always_between_its_bounds(times: list[float], least: float, most: float) -> None:
    linger = Linger(least, most)
    for time in times:
        linger.took(time)
        assert least <= linger.seconds <= max(least, most)
