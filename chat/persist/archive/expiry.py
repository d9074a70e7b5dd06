"""Deleting what is too old to be kept, hot and cold.

Hot rows go in bounded batches. A slice that is older as a whole goes with its index; one that is older in part is written
anew without those rows, but not before they are too old by some slack (see `plan.slack`).
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import structlog
import trio

from chat.errors import SetupError
from chat.metrics import ArchiveMetrics
from chat.persist.archive.mover import Clock
from chat.persist.archive.plan import FIRST, LAST, WINDOW_ROWS, Fate, Range, fate, slack
from chat.persist.archive.rewrite import Rewriter
from chat.persist.archive.rows import boundary
from chat.persist.archive.tables import Slice, rows_go, slice_goes, slices
from chat.persist.queries import text
from chat.ports import Database

log = structlog.get_logger()

#: Rows deleted in one transaction.
_BATCH: Final = WINDOW_ROWS


class Expiry:
    def __init__(self, database: Database, rewriter: Rewriter, metrics: ArchiveMetrics, *, now: Clock) -> None:
        self._database = database
        self._metrics = metrics
        self._now = now
        self._rewriter = rewriter

    async def expire(self, before: int, days: float, stop: trio.Event | None = None) -> int:
        """Delete what was sent before `before`; how many rows. Raises PartError. Cancelled: the rest is left."""
        gone = await self._cold(before, slack(days), stop) + await self._hot(before, stop)
        self._metrics.expired.inc(gone)
        if gone:
            log.info("too old, deleted", rows=gone, before=before)
        return gone

    async def _cold(self, before: int, slack_ms: int, stop: trio.Event | None) -> int:
        gone = 0
        for one in await slices(self._database, "min_sent_at < %s", before):
            if stop is not None and stop.is_set():
                break
            match fate(one.min_sent_at, one.max_sent_at, before, slack_ms):
                case Fate.DROP:
                    await self._database.write(slice_goes(one, self._now()))
                    gone += one.rows
                case Fate.REWRITE:
                    try:
                        gone += await self._without(one, before)
                    except SetupError as error:  # it holds up no other
                        self._metrics.failures.labels("archive").inc()
                        log.error("a slice cannot be written anew", slice=one.id, error=str(error))
                case Fate.KEEP:
                    pass
        return gone

    async def _without(self, one: Slice, before: int) -> int:
        def younger(table: pa.Table) -> pa.Table:
            return table.filter(pc.greater_equal(table["sent_at"], before))

        return await self._rewriter.rewrite(one, younger)

    async def _hot(self, before: int, stop: trio.Event | None) -> int:
        after, gone = FIRST, 0
        while after != LAST and not (stop is not None and stop.is_set()):
            (found,) = await self._database.read([boundary(after, _BATCH)])
            upto = (text(found.rows[0][0]), found.rows[0][1]) if found.rows else LAST
            (done,) = await self._database.write([rows_go(Range(after, upto), before, None)])
            gone += done.changed
            after = upto
        return gone
