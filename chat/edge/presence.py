"""The presence topic: what edges tell each other. Every edge reads all of it, from its end at start on.

A log-in elsewhere replaces the session of the same device here, but only one that is *later in the topic* than our own
session's log-in: the topic's order decides which of two is the newer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import structlog
import trio

from chat.backoff import Backoff
from chat.edge.connection import Connection
from chat.edge.hub import ANNOUNCE_MS, EdgeHub
from chat.errors import Goodbye, PartError
from chat.ports import LogAdmin, LogReader, OutOfRange
from chat.records import PresenceEvent, TopicPartition, decode_presence

POLL_S: Final = 1.0
RECORDS: Final = 1_000

_log = structlog.get_logger()


class PresenceFeed:
    """`heard(event)` is called for every event, after the hub has heeded it (`watch`)."""

    def __init__(
        self, topic: str, reader: LogReader, log: LogAdmin, hub: EdgeHub, heard: Callable[[PresenceEvent], None]
    ) -> None:
        self._place = TopicPartition(topic, 0)
        self._reader = reader
        self._log = log
        self._hub = hub
        self._heard = heard

    async def start(self) -> None:
        """Resolve where to read from. Raises PartError."""
        await self._reader.assign(await self._log.end_offsets([self._place]))

    async def run(self) -> None:
        """Heed events until cancelled."""
        backoff = Backoff(0.1, 2.0)
        lost = False
        while True:
            try:
                if lost:
                    await self.start()
                    lost = False
                batches = await self._reader.poll(POLL_S, RECORDS)
                backoff.reset()
            except OutOfRange as error:
                _log.warning("presence events were missed", error=error.message)
                lost = True
                continue
            except PartError as error:
                _log.warning("presence not read", error=error.message)
                await trio.sleep(backoff.next())
                continue
            for records in batches.values():
                for record in records:
                    try:
                        event = decode_presence(record.value)
                    except msgspec.DecodeError as error:
                        _log.error("a presence event cannot be read", offset=record.offset, error=str(error))
                        continue
                    self.heed(event)
                    self._heard(event)

    def heed(self, event: PresenceEvent) -> None:
        hub = self._hub
        if event.event in ("end_sessions", "blocked", "unblocked"):
            hub.remember(event)
        entry = hub.users.get(event.user)
        if entry is None:
            return
        if event.event == "login":
            for session in list(entry.sessions):
                if session.session == event.session:
                    session.announced = True
                elif session.device == event.device and _older(session, event):
                    hub.replace(session)
        elif event.event == "end_sessions":
            code = next((code for code in Goodbye if code == event.code), Goodbye.LOGGED_OUT)
            for session in list(entry.sessions):
                if session.session != event.session:
                    session.close(code, "the session was ended")
        elif event.event in ("blocked", "unblocked"):
            hub.set_blocked(event.user, event.by, event.event == "blocked")


def _older(session: Connection, event: PresenceEvent) -> bool:
    """Our session's own log-in came before this one. Where its event got lost, the clock has to do."""
    return session.announced or event.at > session.opened_at + ANNOUNCE_MS
