from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from chat.edge.batcher import Batcher
from chat.errors import ChatError, PartAway, Unavailable


class Work:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.seconds = 1.0
        self.error: Exception | None = None

    async def __call__(self, batch: Sequence[int]) -> Sequence[str | Exception]:
        self.batches.append(list(batch))
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [ChatError("exists", "odd") if n % 2 else f"<{n}>" for n in batch]


def batcher(work: Work, room: int = 100) -> Batcher[int, str]:
    return Batcher(work, size=4, room=room, workers=1, seconds=3.0, part="mysql")


async def test_what_gathers_is_one_batch(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    work, answers = Work(), dict[int, str]()
    asked = batcher(work)
    await nursery.start(asked.run)

    async def ask(n: int) -> None:
        answers[n] = await asked.ask(n)

    async with trio.open_nursery() as asking:
        for n in (0, 2, 4, 6, 8, 10):
            asking.start_soon(ask, n)
            await trio.sleep(0.01)
    assert work.batches == [[0], [2, 4, 6, 8], [10]]
    assert answers == {n: f"<{n}>" for n in (0, 2, 4, 6, 8, 10)}


async def test_each_gets_his_own_error(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    work = Work()
    asked = batcher(work)
    await nursery.start(asked.run)
    with pytest.raises(ChatError, match="odd"):
        await asked.ask(1)
    work.error = PartAway("mysql", "away")
    for n in (1, 2):
        with pytest.raises(PartAway):
            await asked.ask(n)
    work.error = None
    assert await asked.ask(2) == "<2>"


async def test_the_room_and_the_patience_are_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    work = Work()
    work.seconds = 100.0
    asked = batcher(work, room=1)
    await nursery.start(asked.run)

    async def ask() -> None:
        with pytest.raises(Unavailable):
            await asked.ask(2)

    async with trio.open_nursery() as asking:
        for _ in range(3):
            asking.start_soon(ask)
            await trio.sleep(0.1)
    assert trio.current_time() < 10


async def test_who_is_gone_does_not_disturb(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    work = Work()
    asked = batcher(work)
    await nursery.start(asked.run)
    with trio.move_on_after(0.5):
        await asked.ask(2)
    assert await asked.ask(4) == "<4>"
