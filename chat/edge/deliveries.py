"""Reads the edge's topic and writes what comes to the sessions it is for. A pipe: it neither orders nor filters, and what
it loses or repeats, the clients' chains notice. A text is passed on as bytes; only notices that this edge must heed itself,
and messages whose sender wants a receipt, are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
import trio

from chat.backoff import Backoff
from chat.edge.clock import EdgeClock
from chat.edge.directory import Directory
from chat.edge.hub import EdgeHub
from chat.edge.reactor import Reactor
from chat.errors import PartError
from chat.metrics import EdgeMetrics
from chat.ports import LogAdmin, LogReader, OutOfRange
from chat.protocol import decode_message, frame
from chat.records import Consumed, Delivery, TopicPartition, unpack_deliveries

POLL_S: Final = 1.0
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
        self._place = TopicPartition(topic, 0)
        self._incarnation = incarnation
        self._reader = reader
        self._log = log
        self._hub = hub
        self._reactor = reactor
        self._clock = clock
        self._directory = directory
        self._check_later = check_later
        self._metrics = metrics

    async def start(self, replication: int) -> None:
        """Make the topic where it is missing, and resolve where to read from: before the first log-in. Raises PartError."""
        await self._log.create_topic(self._place.topic, 1, replication, TOPIC_SETTINGS)
        await self._to_end()

    async def _to_end(self) -> None:
        ends = await self._log.end_offsets([self._place])
        await self._reader.assign(ends)

    async def run(self) -> None:
        """Pass deliveries on until cancelled."""
        backoff = Backoff(0.1, 2.0)
        lost = False
        while True:
            try:
                if lost:
                    await self._to_end()
                    lost = False
                    self._hub.resync_all("topic")
                batches = await self._reader.poll(POLL_S, RECORDS)
                backoff.reset()
            except OutOfRange as error:
                _log.warning("the edge's topic was cut off before us", error=error.message)
                lost = True
                continue
            except PartError as error:
                _log.warning("deliveries not read", error=error.message)
                await trio.sleep(backoff.next())
                continue
            for records in batches.values():
                self._reactor.hold()
                try:
                    self._take(records)
                finally:
                    self._reactor.release()
                await trio.lowlevel.checkpoint()

    def _take(self, records: Sequence[Consumed]) -> None:
        count, oldest = 0, 0
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
        if count:
            self._metrics.deliveries.inc(count)
            self._metrics.delay.observe(max(0, self._clock.now() - oldest) / 1_000)

    def deliver(self, delivery: Delivery) -> None:
        """To every session of its timeline."""
        timeline, pos, sent_at, kind, receipt, payload = delivery
        sessions = self._hub.timelines.get(timeline)
        if not sessions:
            return
        chunk = frame(payload)
        for session in sessions.copy() if len(sessions) > 1 else tuple(sessions):
            session.deliver(chunk)
        self._metrics.fanned_out.inc(len(sessions))
        self._clock.shown({session.user for session in sessions}, sent_at)
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
