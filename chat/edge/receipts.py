"""Acknowledgements of devices: coalesced, checked against the log's end, written as receipts; `delivered` to senders.

Every `receipts_ms` what gathered is checked, and one `delivered` notice per (sender, recipient, stream) is told, with the
highest number. With it one receipts record per (user, device) is written; but of a session that goes on, none within
`cursors_ms` of the one before: a cursor is for the device's next log-in, so nobody waits for it. Nothing here is the only
copy: a device acknowledges again after its next log-in, and `delivered` for what was acknowledged without being seen by this
edge is looked up at a session's first ack.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.config import EdgeConfig
from chat.edge.clock import EdgeClock
from chat.edge.connection import CLOSING, Connection
from chat.edge.progress import EdgeProgress
from chat.edge.publisher import EdgePublisher
from chat.errors import ChatError, PartError
from chat.metrics import EdgeMetrics
from chat.persist.history import History, Mark, Passed
from chat.positions import position
from chat.protocol import Ack, Error
from chat.records import Receipts, Topics, message_records, notice, receipts_record

LOOKUPS: Final = 50  # sessions in one crossing
LOOKUP_ROWS: Final = 1_000  # the newest, looked at per session
ARCHIVED_MOST_S: Final = 60.0  # between two tries, while the archive is away
PENDING: Final = 100_000  # (connection, timeline) pairs

_log = structlog.get_logger()


class ReceiptsLog:
    def __init__(
        self,
        config: EdgeConfig,
        *,
        topics: Topics,
        publisher: EdgePublisher,
        progress: EdgeProgress,
        clock: EdgeClock,
        history: History,
        metrics: EdgeMetrics,
    ) -> None:
        self._period = config.receipts_ms / 1_000
        self._cursors_period = config.cursors_ms / 1_000
        self._topics = topics
        self._publisher = publisher
        self._progress = progress
        self._clock = clock
        self._history = history
        self._metrics = metrics
        self._acks: dict[tuple[Connection, str], Ack] = {}
        self._cursors: dict[Connection, dict[str, int]] = {}  # checked, to be written: positions by timeline
        self._wrote: dict[Connection, float] = {}  # when a cursor of it was written, within the last `cursors_ms`
        self._lookups: list[Passed] = []
        self._archived: deque[Passed] = deque()  # of those, the ones that the archive has rows of
        self._marks: dict[tuple[int, int, int], int] = {}  # (recipient, sender, stream) → seq

    def ack(self, conn: Connection, ack: Ack) -> None:
        """The device says that it has everything up to there. The timeline is one of its user's."""
        key = (conn, ack.timeline)
        before = self._acks.get(key)
        if before is None and len(self._acks) >= PENDING:
            raise ChatError("unavailable", "too many acknowledgements wait", part="kafka")
        if before is None or before.pos < ack.pos:
            self._acks[key] = ack

    async def run(self) -> None:
        """Work off what gathers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_up_archived)
            while True:
                await trio.sleep(self._period)
                try:
                    await self._work_off()
                except (ChatError, PartError) as error:
                    _log.warning("receipts wait", error=str(error))
                    await trio.sleep(random.uniform(0.2, 1.0))

    async def flush(self) -> None:
        """Write all that has gathered. Raises as `_work_off` does."""
        self._wrote.clear()
        await self._work_off()

    async def _work_off(self) -> None:
        """What is due. Raises PartError or ChatError where the log's end is not known: then all is kept."""
        if self._acks:
            acks, self._acks = self._acks, {}
            try:
                ends = await self._ends(acks.items())
            except (ChatError, PartError):
                for (conn, _), ack in acks.items():
                    self.ack(conn, ack)
                raise
            self._metrics.acks.inc(len(acks))
            self._take(acks, ends)
        self._write()
        if self._lookups:
            await self._look_up()
        if self._marks:
            marks, self._marks = self._marks, {}
            for (recipient, sender, stream), seq in marks.items():
                extra = {"to": recipient, "stream": stream, "seq": seq}
                now = self._clock.now()
                message = notice("delivered", sender=recipient, to=sender, sent_at=now, extra=extra)
                self._publisher.offer(message_records(message, [f"u{sender}"]), None)

    async def _ends(self, acks: Iterable[tuple[tuple[Connection, str], Ack]]) -> dict[str, int]:
        """The end of each timeline, from memory where that is enough to allow the acknowledgement."""
        ends, unsure = {}, set()
        for (_, timeline), ack in acks:
            place = self._publisher.partition(timeline)
            end = position(self._publisher.generation, self._publisher.ends.get(place, 0))
            ends[timeline] = end
            if ack.pos >= end:
                unsure.add(timeline)
        if unsure:
            ends.update(await self._progress.end(unsure))
        return ends

    def _take(self, acks: dict[tuple[Connection, str], Ack], ends: dict[str, int]) -> None:
        for (conn, timeline), ack in acks.items():
            if ack.pos >= ends[timeline]:
                conn.send(Error(code="bad_request", message="ack: beyond the end", retriable=False, rid=ack.rid))
            elif ack.pos:
                passed = self._cursors.setdefault(conn, {})
                passed[timeline] = max(ack.pos, passed.get(timeline, 0))
                if timeline[0] == "u":
                    self._passed(conn, ack.pos)

    def _write(self) -> None:
        """The cursors that are due."""
        now = trio.current_time()
        self._wrote = {conn: at for conn, at in self._wrote.items() if now < at + self._cursors_period}
        due = {conn: acks for conn, acks in self._cursors.items() if conn not in self._wrote or conn.state >= CLOSING}
        for conn in due:
            del self._cursors[conn]
            self._wrote[conn] = now
        if not due:
            return
        receipts: dict[tuple[int, str], dict[str, int]] = {}
        for conn, acks in due.items():
            passed = receipts.setdefault((conn.user, conn.device), {})
            for timeline, pos in acks.items():
                passed[timeline] = max(pos, passed.get(timeline, 0))
        at = self._clock.now()
        records = [receipts_record(Receipts(user, device, acks), at) for (user, device), acks in receipts.items()]
        self._publisher.put_keyed(self._topics.receipts, records)

    def _passed(self, conn: Connection, pos: int) -> None:
        """What the device has of its user's own timeline: tell the senders who asked."""
        if not conn.verified:
            conn.verified = True
            after = conn.cursors.get(f"u{conn.user}", 0)
            if pos > after:
                self._lookups.append(Passed(conn.user, after, pos))
        waiting = conn.receipts
        while waiting and waiting[0][0] <= pos:
            _, sender, stream, seq = waiting.popleft()
            self._mark(conn.user, sender, stream, seq)

    def _mark(self, recipient: int, sender: int, stream: int, seq: int) -> None:
        key = (recipient, sender, stream)
        if self._marks.get(key, -1) < seq:
            self._marks[key] = seq

    async def _look_up(self) -> None:
        lookups, self._lookups = self._lookups[:LOOKUPS], self._lookups[LOOKUPS:]
        try:
            found = await self._history.receipts(lookups, LOOKUP_ROWS)
        except PartError:
            if len(self._lookups) < PENDING:
                self._lookups += lookups
            raise
        for one, marks in zip(lookups, found, strict=True):
            if marks is not None:
                self._looked_up(one, marks)
            elif len(self._archived) < PENDING:
                self._archived.append(one)

    def _looked_up(self, one: Passed, marks: Iterable[Mark]) -> None:
        for sender, stream, seq in marks:
            if sender != one.user:
                self._mark(one.user, sender, stream, seq)

    async def _look_up_archived(self) -> None:
        """In a task of its own: an archive that does not answer keeps no other waiting."""
        backoff = Backoff(self._period, ARCHIVED_MOST_S)
        while True:
            await trio.sleep(backoff.next() if self._archived else self._period)
            while self._archived:
                one = self._archived[0]
                try:
                    marks = await self._history.receipts_whole(one, LOOKUP_ROWS)
                except PartError as error:
                    _log.info("archived receipts wait", error=error.message)
                    break
                self._archived.popleft()
                self._looked_up(one, marks)
            else:
                backoff.reset()
