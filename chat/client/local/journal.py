"""What comes on its way to the disk: batches in order, written together in a thread, then handed on.

    journal.put(batch)          from anywhere; never waits
    await journal.run()         for as long as the client runs

Whatever gathers while a group is written is the next: one write and one fsync for each file that it touches. `committed`
gets the batches of a group when they are on the disk, in the order of `put`. A disk that refuses (full, broken) is told by
`trouble` and tried again with a growing pause: nothing is acknowledged meanwhile, and `full` tells who reads to stop.
"""

from __future__ import annotations

import random
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import trio

from chat.client.local.history import LocalHistory
from chat.protocol import Message

PENDING_MAX: Final = 2_000  # messages waiting for the disk, above which nothing more is read
GROUP_MAX: Final = 2_000  # messages written at once
RETRY_FIRST, RETRY_MAX = 0.5, 15.0  # seconds, ±25 %

T = TypeVar("T")


class Batch(Protocol):
    """What one read from the socket brought. `items`: conversations and messages. `started_over`: timelines."""

    @property
    def items(self) -> Sequence[tuple[str, Message]]: ...

    @property
    def started_over(self) -> Sequence[str]: ...


class Shelf:
    """A history, used off the loop: one call at a time, in the order of asking."""

    def __init__(self, history: LocalHistory) -> None:
        self.history = history
        self._limiter = trio.CapacityLimiter(1)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Cancelling waits for the call under way. Raises what `function` raises."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


class Journal:
    def __init__(self, shelf: Shelf, committed: Callable[[Sequence[Any]], None], trouble: Callable[[str], None]) -> None:
        self._shelf, self._committed, self._trouble = shelf, committed, trouble
        self._waiting: deque[Batch] = deque()
        self._messages = 0
        self._came, self._moved = trio.Event(), trio.Event()
        self._writing = False

    @property
    def idle(self) -> bool:
        """Everything put has been handed on."""
        return not self._waiting and not self._writing

    @property
    def full(self) -> bool:
        return self._messages > PENDING_MAX

    def put(self, batch: Batch) -> None:
        self._waiting.append(batch)
        self._messages += len(batch.items)
        self._came.set()

    async def wait_room(self) -> None:
        while self.full:
            await self._moved.wait()

    async def wait_idle(self) -> None:
        while not self.idle:
            await self._moved.wait()

    async def run(self) -> None:
        """Until cancelled: what is not handed on by then is neither acknowledged nor shown."""
        while True:
            while not self._waiting:
                self._came = trio.Event()
                await self._came.wait()
            group = self._group()
            self._writing = True
            await self._write(group)
            self._writing = False
            self._committed(group)
            self._moved.set()
            self._moved = trio.Event()

    def _group(self) -> list[Batch]:
        group: list[Batch] = []
        messages = 0
        while self._waiting and (not group or messages + len(self._waiting[0].items) <= GROUP_MAX):
            group.append(self._waiting.popleft())
            messages += len(group[-1].items)
        return group

    async def _write(self, group: Sequence[Batch]) -> None:
        items = [item for batch in group for item in batch.items]
        started_over = [timeline for batch in group for timeline in batch.started_over]
        pause = RETRY_FIRST
        while items or started_over:
            try:
                await self._shelf.call(self._shelf.history.append, items, started_over)
                break
            except (OSError, sqlite3.Error) as error:
                self._trouble(f"what comes in cannot be written to {self._shelf.history.folder}: {error}; trying again")
            await trio.sleep(pause * (0.75 + random.random() / 2))
            pause = min(pause * 2, RETRY_MAX)
        self._messages -= len(items)
