"""Reads the edge's topic and writes what comes to the sessions it is for. A pipe: it neither orders nor filters, and what
it loses or repeats, the clients' chains notice. A text is passed on as bytes; only notices that this edge must heed itself,
and messages whose sender wants a receipt, are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from chat.edge.clock import EdgeClock
from chat.edge.directory import Directory
from chat.edge.hub import EdgeHub
from chat.edge.reactor import Reactor
from chat.edge.tail import Tail
from chat.metrics import EdgeMetrics
from chat.ports import LogAdmin, LogReader
from chat.protocol import decode_message, frame
from chat.records import Consumed, Delivery, unpack_deliveries

RECORDS: Final = 500
#: `edge` of kafka/topics.toml, for a topic that each edge makes for itself.
TOPIC_SETTINGS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "3600000",
    "retention.bytes": "1073741824",
    "segment.bytes": "67108864",
    "segment.ms": "600000",
    "max.message.bytes": "1048588",
}
_HEEDED: Final = frozenset({"group_joined", "group_left", "group_removed", "friend_removed"})

_log = structlog.get_logger()


class Deliveries:
    def __init__(
        self,
        topic: str,
        *,
        incarnation: int,
        reader: LogReader,
        log: LogAdmin,
        hub: EdgeHub,
        reactor: Reactor,
        clock: EdgeClock,
        directory: Directory,
        check_later: Callable[[int], None],
        metrics: EdgeMetrics,
    ) -> None:
        """`check_later(user)`: his groups have changed here, by what may be late or repeated: look them up."""
        self._topic = topic
        self._incarnation = incarnation
        self._log = log
        self._hub = hub
        self._reactor = reactor
        self._clock = clock
        self._directory = directory
        self._check_later = check_later
        self._metrics = metrics
        self._replication = 1
        self._fanned_out = 0  # of this batch
        self._tail = Tail(
            topic, reader, log, records=RECORDS, take=self._take, cut_off=lambda _: hub.resync_all("topic"), make=self._make
        )

    async def start(self, replication: int) -> None:
        """Make the topic where it is missing, and resolve where to read from: before the first log-in. Raises PartError."""
        self._replication = replication
        await self._tail.start()

    async def run(self) -> None:
        """Pass deliveries on until cancelled. After a jump every session is to sync."""
        await self._tail.run()

    async def _make(self) -> None:
        if await self._log.create_topic(self._topic, 1, self._replication, TOPIC_SETTINGS):
            _log.info("the edge's topic was made", topic=self._topic)

    def _take(self, records: Sequence[Consumed]) -> None:
        self._reactor.hold()
        try:
            self._pass_on(records)
        finally:
            self._reactor.release()

    def _pass_on(self, records: Sequence[Consumed]) -> None:
        count, oldest, missed = 0, 0, False
        for record in records:
            try:
                batch = unpack_deliveries(record.value)
            except msgspec.DecodeError as error:
                _log.error("a delivery cannot be read", offset=record.offset, error=str(error))
                continue
            if batch.incarnation is None or batch.incarnation == self._incarnation:
                for delivery in batch.deliveries:
                    self.deliver(delivery)
                count += len(batch.deliveries)
                if batch.deliveries:
                    at = batch.deliveries[0].sent_at
                    oldest = at if not oldest else min(oldest, at)
                else:
                    missed = True
        if missed:  # a router that gave this topic up for a while says so
            self._hub.resync_all("missed")
        if count:
            self._metrics.fanned_out.inc(self._fanned_out)
            self._fanned_out = 0
            self._metrics.deliveries.inc(count)
            self._metrics.delay.observe(max(0, self._clock.now() - oldest) / 1_000)

    def deliver(self, delivery: Delivery) -> None:
        """To every session of its timeline."""
        timeline, pos, sent_at, kind, receipt, payload = delivery
        sessions = self._hub.timelines.get(timeline)
        if not sessions:
            return
        chunk = frame(payload)
        if self._clock.is_ahead(sent_at):  # rare: of all others the clock need not know
            self._clock.shown({session.user for session in sessions}, sent_at)
        self._fanned_out += len(sessions)
        for session in tuple(sessions):  # one that overflows leaves
            session.deliver(chunk)
        if receipt or (kind is not None and kind in _HEEDED):
            self._heed(timeline, pos, kind, payload)

    def _heed(self, timeline: str, pos: int, kind: str | None, payload: bytes) -> None:
        try:
            message = decode_message(payload)
        except msgspec.DecodeError as error:
            _log.error("a message cannot be read", timeline=timeline, pos=pos, error=str(error))
            return
        if kind is None:
            if message.stream is not msgspec.UNSET and message.seq is not msgspec.UNSET:
                entry = (pos, message.sender, int(message.stream), int(message.seq))
                for session in self._hub.timelines.get(timeline, ()):
                    session.note_receipts(timeline, [entry])
        elif kind == "friend_removed":
            if message.to is not None:
                self._directory.unfriended(message.sender, message.to)
        elif message.extra is not msgspec.UNSET:
            self._membership(timeline, kind, message.extra)

    def _membership(self, timeline: str, kind: str, extra: Mapping[str, Any]) -> None:
        user, group = extra.get("user"), extra.get("group")
        if timeline[0] == "u":
            user = int(timeline[1:])
        else:
            group = int(timeline[1:])
        if not isinstance(user, int) or not isinstance(group, int):
            _log.error("a membership notice names nobody", timeline=timeline, kind=kind)
            return
        before = self._hub.changes_of(user)
        if kind == "group_joined":
            self._hub.joined(user, group)
        else:
            self._hub.left(user, group)
        if self._hub.changes_of(user) != before:
            self._check_later(user)
