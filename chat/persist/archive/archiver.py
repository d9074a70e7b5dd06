"""The archiver: looks now and then whether something is to be moved, rewritten or removed. One at a time, by a named lock.

A **look** removes files that nothing refers to any more, deletes what is too old to be kept, and begins a **run** where one
is due: by age at most every `run_hours`, so that a conversation's old messages lie in few and long stretches, or by the
number of rows. A run has a limit in time that is fixed when it begins.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import structlog
import trio

from chat.backoff import Backoff
from chat.config import ArchiveConfig
from chat.errors import PartAway, PartError
from chat.metrics import ArchiveMetrics
from chat.persist.archive.expiry import Expiry
from chat.persist.archive.folder import Folder
from chat.persist.archive.mover import Clock, Mover, Progress
from chat.persist.archive.plan import Bin, Past, due
from chat.persist.archive.rewrite import Rewriter
from chat.persist.archive.tables import GIVE_UP
from chat.persist.queries import text
from chat.ports import Database, Lock, Statement

log = structlog.get_logger()

LOCK: Final = "chat-archiver"
#: Files looked at for removal, at a time.
_FILES: Final = 500
#: Width of the histogram's bins.
_BIN_MS: Final = 3_600_000
#: The server's estimate of its rows may be wrong by so much; nearer to the limit they are counted.
_DOUBT: Final = 0.6


def now_ms() -> int:
    return int(time.time() * 1000)


class Outcome(NamedTuple):
    """Of a look. `why` is empty where no run was due."""

    why: str
    before: int
    progress: Progress
    expired: int
    removed: int


class Archiver:
    """`lock` must be held while `look` and `run` go on; see `holding`."""

    def __init__(
        self,
        config: ArchiveConfig,
        *,
        database: Database,
        folder: Folder,
        metrics: ArchiveMetrics,
        now: Clock = now_ms,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._config = config
        self.database = database
        self.folder = folder
        self._metrics = metrics
        self._now = now
        self._step = step
        self.mover = Mover(database, folder, metrics, slice_rows=config.slice_rows, now=now, step=step)
        self.rewriter = Rewriter(database, folder, now=now, step=step)
        self.expiry = Expiry(database, self.rewriter, metrics, now=now)
        self.progress = Progress()

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[bool]:
        """The lock, or False: another archiver has it. A lock that is lost meanwhile does no harm (see `tables`)."""
        lock: Lock = self.database.lock(LOCK)
        async with lock as held:
            yield held

    @asynccontextmanager
    async def held_soon(self, patience_s: float = 120.0) -> AsyncIterator[None]:
        """The lock, waited for. Raises PartAway: another archiver is at work for longer."""
        backoff, deadline = Backoff(0.1, 1.0), trio.current_time() + patience_s
        while True:
            async with self.holding() as held:
                if held:
                    yield
                    return
            if trio.current_time() > deadline:
                raise PartAway("mysql", "another archiver is at work; try again when `chat archive status` shows its end")
            await trio.sleep(backoff.next())

    # ---------------------------------------------------------------- for ever

    async def serve(self, stop: trio.Event) -> None:
        """Look every `every_s` until `stop` is set. What fails is tried again."""
        backoff = Backoff(1.0, 300.0)
        while not stop.is_set():
            try:
                async with self.holding() as held:
                    if held:
                        await self.look(stop)
                    else:
                        log.info("another archiver is at work")
            except PartError as error:
                self._metrics.failures.labels(error.part).inc()
                log.warning("the archiver could not go on", part=error.part, error=error.message)
                await backoff.wait(stop)
                continue
            backoff.reset()
            with trio.move_on_after(self._config.every_s):
                await stop.wait()

    async def look(self, stop: trio.Event | None = None) -> Outcome:
        """Once. Raises PartError, SetupError; cancelling it leaves the rest to the next look."""
        removed = await self.sweep()
        past = await self.past()
        if past.began_at is not None:
            self._metrics.ran.set(past.began_at / 1000)
        found = due(self._config, self._now(), past, await self._bins(past))
        expired = 0
        if found.expire:
            expired = await self.expiry.expire(found.expire_before, self._config.retention_days, stop)
        if found.why:
            await self.run(found.before, found.why, stop)
        return Outcome(found.why, found.before, self.progress, expired, removed)

    async def run(self, before: int, why: str, stop: trio.Event | None = None) -> Progress:
        """Move what was sent before `before` (ms). Raises PartError, SetupError."""
        began = time.monotonic()
        self.progress = progress = Progress()
        run = await self._begun(before, why)
        self._metrics.running.set(1)
        try:
            await self.mover.move(before, progress, stop)
        finally:
            self._metrics.running.set(0)
        if not (stop is not None and stop.is_set()):
            await self._ended(run, progress)
        seconds = time.monotonic() - began
        log.info(
            "archived",
            why=why,
            before=before,
            rows=progress.rows,
            slices=progress.slices,
            bytes=progress.bytes,
            seconds=round(seconds, 3),
        )
        return progress

    # ---------------------------------------------------------------- what is known

    async def past(self) -> Past:
        """What the tables say of runs before, and about how many rows there are."""
        ended, estimate = await self.database.read(
            [
                Statement("SELECT MAX(began_at) FROM archive_runs WHERE ended_at IS NOT NULL AND why <> 'asked'"),
                Statement(
                    "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE()"
                    " AND table_name = 'messages'"
                ),
            ]
        )
        return Past(ended.rows[0][0], int(estimate.rows[0][0] or 0))

    async def histogram(self) -> list[Bin]:
        """Rows by hour, in order. Reads an index as long as the table."""
        (result,) = await self.database.read(
            [
                Statement(
                    f"SELECT sent_at DIV {_BIN_MS}, COUNT(*) FROM messages FORCE INDEX (by_conversation)"
                    f" GROUP BY sent_at DIV {_BIN_MS} ORDER BY 1"
                )
            ]
        )
        return [Bin(int(hour) * _BIN_MS, int(rows)) for hour, rows in result.rows]

    async def _bins(self, past: Past) -> list[Bin]:
        return await self.histogram() if past.rows > _DOUBT * self._config.max_rows else []

    # ---------------------------------------------------------------- files

    async def sweep(self) -> int:
        """Remove files whose time is over; how many. Those that were begun and never became slices are given up: whoever
        began them is dead, or cannot make them slices any more."""
        now = self._now()
        await self.database.write([Statement(GIVE_UP, (now,))])
        removed = 0
        while True:
            (found,) = await self.database.read(
                [
                    Statement(
                        "SELECT file FROM archive_files WHERE state = 'gone' AND since <= %s ORDER BY since LIMIT %s",
                        (now - int(self._config.grace_s * 1000), _FILES),
                    )
                ]
            )
            for (file,) in found.rows:
                await self.folder.remove(text(file))
                self._step("removed")
                await self.database.write([Statement("DELETE FROM archive_files WHERE file = %s", (text(file),))])
                removed += 1
            if len(found.rows) < _FILES:
                break
        self._metrics.removed.inc(removed)
        return removed

    # ---------------------------------------------------------------- runs

    async def _begun(self, before: int, why: str) -> int:
        (done,) = await self.database.write(
            [
                Statement(
                    "INSERT INTO archive_runs (why, before_ms, began_at) VALUES (%s, %s, %s)", (why, before, self._now())
                )
            ]
        )
        return done.last_id

    async def _ended(self, run: int, progress: Progress) -> None:
        now = self._now()
        self._metrics.ran.set(now / 1000)
        await self.database.write(
            [
                Statement(
                    "UPDATE archive_runs SET ended_at = %s, row_count = %s, slice_count = %s WHERE id = %s",
                    (now, progress.rows, progress.slices, run),
                )
            ]
        )
