"""A database that is away is found away once, not by everyone who asks; and nobody who asks much keeps the others waiting.

A `Guard` holds the breaker. When a call fails with PartAway, or takes longer than it may, the guard is open: calls fail at
once, and a task of its own probes until the database answers. A single refusal (a deadlock) costs no more than one probe.

Calls go by `Lane`s, each a Database with a bounded number of calls at a time. Waiting for one's turn in a lane says nothing
of the database: it does not open the guard.
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
TURN_S = 5.0  # for one's turn in a lane

Call = Callable[[Sequence[Statement]], Awaitable[list[Result]]]


class Guard:
    """`seconds`: the longest that a read is waited for; its driver may go on behind it, in its lane. (A write is waited for
    to its end, so that nobody is told less than is known.)"""

    def __init__(self, database: Database, *, seconds: float) -> None:
        self.database = database
        self.seconds = seconds
        self.nursery: trio.Nursery | None = None
        self._opened = trio.Event()
        self._mended = trio.Event()
        self._mended.set()

    def lane(self, width: int) -> Lane:
        return Lane(self, width)

    @property
    def away(self) -> bool:
        return not self._mended.is_set()

    async def wait_mended(self) -> None:
        """Until the database answers (at once where it is not known to be away)."""
        await self._mended.wait()

    def refuse_if_away(self) -> None:
        if self.nursery is None or self.away:
            raise PartAway("mysql", "away")

    def trip(self) -> None:
        """It has been found away."""
        if not self.away:
            self._mended = trio.Event()
            self._opened.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Before it runs, calls raise PartAway."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            task_status.started()
            try:
                while True:
                    await self._opened.wait()
                    await self._probe()
                    self._opened = trio.Event()
                    self._mended.set()
            finally:
                self.nursery = None

    async def _probe(self) -> None:
        pause, said = PROBE_FIRST_S, False
        while True:
            try:
                await self.database.read([Statement("SELECT 1")])
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


class Lane:
    """A `Database`, by way of a guard: `width` calls at a time."""

    def __init__(self, guard: Guard, width: int) -> None:
        self.guard = guard
        self._turns = trio.Semaphore(width)

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        return await self._bounded(self.guard.database.read, statements)

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        return await self._bounded(self.guard.database.snapshot, statements)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        await self._turn()
        try:
            return await self.guard.database.write(statements)
        except PartAway:
            self.guard.trip()
            raise
        finally:
            self._turns.release()

    async def script(self, sql: Sequence[str]) -> None:
        await self.guard.database.script(sql)

    def lock(self, name: str) -> Lock:
        return self.guard.database.lock(name)

    async def _turn(self) -> None:
        """Raises PartAway when it does not come, or the database is known to be away."""
        self.guard.refuse_if_away()
        with trio.move_on_after(TURN_S) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise PartAway("mysql", "too many are waiting")
        try:
            self.guard.refuse_if_away()
        except PartAway:
            self._turns.release()
            raise

    async def _bounded(self, call: Call, statements: Sequence[Statement]) -> list[Result]:
        await self._turn()
        guard = self.guard
        outcome: list[list[Result] | Exception] = []
        done = trio.Event()

        async def carry() -> None:
            try:
                outcome.append(await call(statements))
            except Exception as error:  # noqa: BLE001  # raised again in who asked, not in all that ask
                outcome.append(error)
            finally:
                self._turns.release()
                done.set()

        assert guard.nursery is not None
        guard.nursery.start_soon(carry)
        with trio.move_on_after(guard.seconds):
            await done.wait()
        if not outcome:
            guard.trip()
            raise PartAway("mysql", f"no answer within {guard.seconds:g} s")
        if isinstance(outcome[0], PartAway):
            guard.trip()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]
