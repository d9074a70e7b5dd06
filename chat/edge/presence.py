"""The presence topic: what edges tell each other. Every edge reads all of it, from its end at start on.

A log-in elsewhere replaces the session of the same device here, but only one that is *later in the topic* than our own
session's log-in: the topic's order decides which of two is the newer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from chat.edge.connection import Connection
from chat.edge.hub import ANNOUNCE_MS, EdgeHub
from chat.edge.tail import Tail
from chat.errors import Goodbye
from chat.ports import LogAdmin, LogReader
from chat.records import Consumed, PresenceEvent, decode_presence

RECORDS: Final = 1_000

_log = structlog.get_logger()


class PresenceFeed:
    """`heard(event)` is called for every event, after the hub has heeded it (`watch`); `cut_off(why)` when some were missed
    (`recheck`)."""

    def __init__(
        self,
        topic: str,
        reader: LogReader,
        log: LogAdmin,
        hub: EdgeHub,
        *,
        heard: Callable[[PresenceEvent], None],
        cut_off: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._heard = heard
        # What is in a topic that was made anew, or behind what was trimmed, was never heard: none of it is heard twice.
        self._tail = Tail(topic, reader, log, records=RECORDS, take=self._take, cut_off=cut_off, whole=True)

    async def start(self) -> None:
        """Resolve where to read from. Raises PartError."""
        await self._tail.start()

    async def run(self) -> None:
        """Heed events until cancelled."""
        await self._tail.run()

    def _take(self, records: Sequence[Consumed]) -> None:
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
