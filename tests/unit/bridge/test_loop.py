from __future__ import annotations

import asyncio

import pytest
import trio

from chat.bridge.loop import Background, call


async def test_the_result_comes_back(bridge: None) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert await call(1.0, double, 21) == 42


async def test_an_error_comes_back(bridge: None) -> None:
    async def fail() -> None:
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await call(1.0, fail)


async def test_a_cancelled_call_ends_what_it_began(bridge: None) -> None:
    done = False

    async def work() -> int:
        nonlocal done
        await asyncio.sleep(0.05)
        done = True
        return 1

    with trio.move_on_after(0.01) as scope:
        assert await call(5.0, work) == 1
        await trio.lowlevel.checkpoint()
    assert done
    assert scope.cancelled_caught


async def test_a_call_that_is_cancelled_before_it_begins(bridge: None) -> None:
    async def never() -> None:
        raise AssertionError

    with trio.CancelScope() as scope:
        scope.cancel()
        await call(1.0, never)
    assert scope.cancelled_caught


async def test_the_time_limit_ends_the_driver(bridge: None) -> None:
    cancelled = False

    async def hang() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    with trio.fail_after(5), pytest.raises(TimeoutError):
        await call(0.05, hang)
    assert cancelled


async def test_a_driver_that_cancels_itself(bridge: None) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError):
        await call(1.0, give_up)


async def test_what_is_closed_in_the_background_is_bounded(bridge: None) -> None:
    background = Background(seconds=0.05)
    closed: list[str] = []

    async def quick() -> None:
        closed.append("quick")

    async def broken() -> None:
        closed.append("broken")
        raise OSError

    async def hangs() -> None:
        closed.append("hangs")
        await asyncio.Event().wait()

    for close in (quick, broken, hangs):
        background.start(close)
    with trio.fail_after(5):
        await background.finish()
    assert sorted(closed) == ["broken", "hangs", "quick"]
