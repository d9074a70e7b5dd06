"""A database that is away is found away once, not by everyone who asks.

`Guard` passes calls on. When one fails with PartAway, or takes longer than it may, the guard is open: calls fail at once,
and a task of its own probes until the database answers. A single refusal (a deadlock) costs no more than one probe.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from chat.errors import PartAway, PartError
from chat.ports import Database, Lock, Result, Statement

log = structlog.get_logger()

PROBE_FIRST_S = 0.05
PROBE_MOST_S = 2.0

Call = Callable[[Sequence[Statement]], Awaitable[list[Result]]]


class Guard:
    """A `Database`. `seconds`: the longest that a read is waited for; its driver may go on behind it (reads only, at most
    `behind` at a time: a write is waited for to its end, so that nobody is told less than is known)."""

    def __init__(self, database: Database, *, seconds: float, behind: int = 16) -> None:
        self._database = database
        self._seconds = seconds
        self._behind = trio.CapacityLimiter(behind)
        self._nursery: trio.Nursery | None = None
        self._opened = trio.Event()
        self._mended = trio.Event()
        self._mended.set()

    @property
    def away(self) -> bool:
        return not self._mended.is_set()

    async def wait_mended(self) -> None:
        """Until the database answers (at once where it is not known to be away)."""
        await self._mended.wait()

    async def wait_opened(self) -> None:
        """Until the database is found to be away."""
        while not self.away:
            await self._opened.wait()

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        return await self._bounded(self._database.read, statements)

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        return await self._bounded(self._database.snapshot, statements)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        self._refuse_if_away()
        try:
            return await self._database.write(statements)
        except PartAway:
            self._trip()
            raise

    async def script(self, sql: Sequence[str]) -> None:
        await self._database.script(sql)

    def lock(self, name: str) -> Lock:
        return self._database.lock(name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Before it runs, calls raise PartAway."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await self._opened.wait()
                    await self._probe()
                    self._opened = trio.Event()
                    self._mended.set()
            finally:
                self._nursery = None

    async def _bounded(self, call: Call, statements: Sequence[Statement]) -> list[Result]:
        self._refuse_if_away()
        outcome: list[list[Result] | Exception] = []
        done = trio.Event()

        async def carry() -> None:
            async with self._behind:
                try:
                    outcome.append(await call(statements))
                except PartError as error:
                    outcome.append(error)
                finally:
                    done.set()

        assert self._nursery is not None
        self._nursery.start_soon(carry)
        with trio.move_on_after(self._seconds):
            await done.wait()
        if not outcome:
            self._trip()
            raise PartAway("mysql", f"no answer within {self._seconds} s")
        if isinstance(outcome[0], PartAway):
            self._trip()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _refuse_if_away(self) -> None:
        if self._nursery is None or self.away:
            raise PartAway("mysql", "away")

    def _trip(self) -> None:
        if not self.away:
            self._mended = trio.Event()
            self._opened.set()

    async def _probe(self) -> None:
        pause, said = PROBE_FIRST_S, False
        while True:
            try:
                await self._database.read([Statement("SELECT 1")])
            except PartError as error:
                if not said:
                    log.warning("mysql_away", why=error.message)
                    said = True
                await trio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, PROBE_MOST_S)
            else:
                if said:
                    log.info("mysql_back")
                return
