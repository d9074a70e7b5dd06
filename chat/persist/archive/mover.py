"""Moving rows out of the table `messages`: read → write and verify → index and delete, three slices at a time, one in each.

A slice's end is one transaction: the slice, its index, and exactly the rows that were copied, or nothing. It locks the
rows that it deletes and no gap (READ COMMITTED), so persist's inserts never wait for it. Where another number of rows went
than was copied (persist has stored an old message meanwhile), all is rolled back and the slice is made again.

**A crash** before the transaction leaves a file that the table `archive_files` knows; after it, nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from chat.backoff import Backoff
from chat.errors import Conflict, PartAway, PartError, SetupError
from chat.metrics import ArchiveMetrics
from chat.persist.archive.folder import Folder
from chat.persist.archive.plan import FIRST, LAST, Range, is_full, window_rows
from chat.persist.archive.rows import Cut, Window, boundary, read_window, received
from chat.persist.archive.slices import Made, make_of, verify
from chat.persist.archive.tables import FENCE, file_begun, file_given_up, is_slice, rows_go, slice_comes
from chat.persist.queries import text
from chat.ports import Database, Statement

log = structlog.get_logger()

#: Times that a slice is begun again, and that its transaction is tried again.
TRIES: Final = 8

Clock = Callable[[], int]


class Gathered(NamedTuple):
    """Rows of a stretch of the table: all of its windows that have any."""

    range: Range
    windows: Sequence[Window]


class Written(NamedTuple):
    gathered: Gathered
    file: str
    made: Made


@dataclass
class Progress:
    """Of a run; counts on while it is under way."""

    rows: int = 0
    slices: int = 0
    bytes: int = 0  # of files
    scanned: int = 0


class LockLost(PartAway):
    """Another archiver has begun: it took this one for dead."""

    def __init__(self) -> None:
        super().__init__("mysql", "another archiver has taken over; this one ends its run")


class Mover:
    """`step` is called at each step of a slice with its name (tests end the process there)."""

    def __init__(
        self,
        database: Database,
        folder: Folder,
        metrics: ArchiveMetrics,
        *,
        slice_rows: int,
        now: Clock,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._database = database
        self._folder = folder
        self._metrics = metrics
        self._slice_rows = slice_rows
        self._now = now
        self._step = step
        self._cpu = trio.CapacityLimiter(1)

    async def move(self, before: int, progress: Progress, stop: trio.Event | None = None) -> None:
        """All rows with sent_at < before; until `stop` is set, then the slices under way are finished. Raises PartError,
        SetupError. Cancelled or failed: what was moved is moved, the rest is as it was."""
        to_write, gathered = trio.open_memory_channel[Gathered](0)
        to_commit, written = trio.open_memory_channel[Written](0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, before, progress, stop, to_write)
                nursery.start_soon(self._write, gathered, to_commit)
                async with written:
                    async for one in written:
                        await self._commit(one, before, progress)
        except BaseExceptionGroup as group:
            known, other = group.split((PartError, SetupError))
            if known is None or other is not None:
                raise
            raise known.exceptions[0] from group  # one stage's error has ended the others

    # ---------------------------------------------------------------- the three stages

    async def _read(
        self, before: int, progress: Progress, stop: trio.Event | None, send: trio.MemorySendChannel[Gathered]
    ) -> None:
        async with send:
            after = FIRST
            while after != LAST and not (stop is not None and stop.is_set()):
                found = await self._gather(Range(after, LAST), before, progress, stop)
                after = found.range.upto
                if found.windows:
                    self._step("read")
                    await send.send(found)

    async def _write(self, gathered: trio.MemoryReceiveChannel[Gathered], send: trio.MemorySendChannel[Written]) -> None:
        async with gathered, send:
            async for one in gathered:
                await send.send(await self.write(one))

    async def _commit(self, one: Written, before: int, progress: Progress) -> None:
        for _ in range(TRIES):
            if await self._committed(one, before):
                progress.rows += one.made.rows
                progress.slices += 1
                progress.bytes += len(one.made.data)
                self._metrics.rows.inc(one.made.rows)
                self._metrics.bytes.inc(len(one.made.data))
                self._metrics.slices.inc()
                return
            log.info("rows came meanwhile: the slice is made again", file=one.file)
            self._metrics.again.inc()
            await self._database.write([file_given_up(one.file, self._now())])
            again = await self._gather(one.gathered.range, before, Progress(), None, whole=True)
            if not again.windows:
                return
            one = await self.write(again)
        log.warning("rows keep coming: left for the next run", stretch=one.gathered.range)
        await self._database.write([file_given_up(one.file, self._now())])

    # ---------------------------------------------------------------- their work

    async def _gather(
        self, rows: Range, before: int, progress: Progress, stop: trio.Event | None, *, whole: bool = False
    ) -> Gathered:
        """Windows from the begin of `rows` on, until they make a slice (`whole`: until the end) or `stop` is set."""
        windows: list[Window] = []
        after, count, size = rows.after, 0, 0
        most = window_rows(0, 0, self._slice_rows, self._slice_rows)
        while after < rows.upto and (whole or not is_full(count, size, self._slice_rows)):
            if stop is not None and stop.is_set():
                break
            (found,) = await self._database.read([boundary(after, most)])
            upto = min(rows.upto, (text(found.rows[0][0]), found.rows[0][1])) if found.rows else rows.upto
            window = await self._window(Range(after, upto), before)
            if window is None:
                if most == 1:
                    raise SetupError(
                        f"the row behind {after} is larger than MySQL's max_allowed_packet lets through: raise it to 32M"
                    )
                most = max(1, most // 2)
                continue
            if window.rows:
                windows.append(window)
                count += window.rows
                size += window.size
                most = window_rows(window.rows, window.size, self._slice_rows - count, self._slice_rows)
            progress.scanned += most
            after = upto
        return Gathered(Range(rows.after, after), windows)

    async def _window(self, rows: Range, before: int) -> Window | None:
        """None: too large."""
        *_, found = await self._database.read(read_window(rows, before))
        try:
            return received(rows, found.rows[0])
        except Cut:
            return None

    async def write(self, gathered: Gathered) -> Written:
        """A file with these rows, on disk, read back and verified; not yet a slice."""
        file = new_name(self._now())
        await self._database.write([file_begun(file, self._now())])
        self._step("begun")
        made = await trio.to_thread.run_sync(make_of, gathered.windows, limiter=self._cpu)
        await self._folder.write(file, made.data)
        self._step("written")
        data = await self._folder.read(file)
        await trio.to_thread.run_sync(verify, data, made, gathered.windows, limiter=self._cpu)
        self._step("verified")
        return Written(gathered, file, made)

    async def _committed(self, one: Written, before: int) -> bool:
        """False: another number of rows is there now."""
        statements = [
            *slice_comes(one.file, one.made, self._now()),
            *(rows_go(w.range, before, w.rows) for w in one.gathered.windows),
        ]
        done = await commit(self._database, one.file, statements)
        self._step("committed")
        return done


async def commit(database: Database, file: str, statements: Sequence[Statement]) -> bool:
    """The transaction that makes `file` a slice; the first statement is the fence. Tried again where the outcome is not
    known. False: a later statement changed another number of rows, and all is rolled back. Raises LockLost, PartAway."""
    backoff = Backoff(0.2, 5.0)
    for left in reversed(range(TRIES)):
        try:
            await database.write(statements)
        except Conflict as conflict:
            if conflict.index != FENCE:
                return False
            if not await is_slice(database, file):
                raise LockLost from conflict
        except PartAway as error:
            if not left:
                raise
            log.warning("the slice's transaction is tried again", error=error.message)
            await trio.sleep(backoff.next())
            continue
        return True
    raise AssertionError  # the last try returns or raises


def new_name(now: int) -> str:
    """Never had before."""
    return f"slice-{now:013d}-{secrets.token_hex(8)}.parquet"
