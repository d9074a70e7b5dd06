"""Cases, and how they are measured."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple


async def nothing() -> None:
    pass


class Job(NamedTuple):
    """A case, set up. `run` handles `messages` messages and is measured; `settle`, after it, is not."""

    messages: int
    run: Callable[[], Awaitable[None]]
    settle: Callable[[], Awaitable[None]] = nothing


class Case(NamedTuple):
    """`open` yields None where what it needs is not there."""

    name: str
    about: str
    open: Callable[[], AbstractAsyncContextManager[Job | None]]


class Measured(NamedTuple):
    """Microseconds of CPU a message: median, least and most of the repetitions."""

    name: str
    about: str
    median_us: float
    least_us: float
    most_us: float
    messages: int
    repetitions: int


async def measure(case: Case, repetitions: int) -> Measured | None:
    """The first round is a warm-up. None: it cannot be run here."""
    found: list[float] = []
    async with case.open() as job:
        if job is None:
            return None
        for _ in range(repetitions + 1):
            gc.collect()
            begun = time.process_time_ns()
            await job.run()
            found.append((time.process_time_ns() - begun) / 1_000 / job.messages)
            await job.settle()
    found = found[1:]
    return Measured(
        case.name, case.about, round(statistics.median(found), 2), round(min(found), 2), round(max(found), 2),
        job.messages, repetitions,
    )  # fmt: skip
