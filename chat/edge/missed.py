"""What routers could not deliver, since the edge's topic takes nothing: they name the timelines in Redis (`missed:<edge>`),
and their sessions here are told to sync. So while a topic is broken its clients go on, a second late.

A name is removed before its sessions are told: what a router misses after that names it again.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.edge.connection import Connection
from chat.edge.hub import EdgeHub
from chat.errors import PartError
from chat.metrics import EdgeMetrics
from chat.ports import Command, Memory
from chat.records import EVERY_TIMELINE, missed_key

LOOK_S: Final = 1.0
ALL_S: Final = 10.0  # between two times that all sessions are told

_log = structlog.get_logger()


class Missed:
    def __init__(self, memory: Memory, prefix: str, edge: str, hub: EdgeHub, metrics: EdgeMetrics) -> None:
        self._memory = memory
        self._key = missed_key(prefix, edge)
        self._hub = hub
        self._metrics = metrics
        self._all_at = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        backoff = Backoff(LOOK_S, 4 * LOOK_S)
        while True:
            await trio.sleep(LOOK_S * random.uniform(0.8, 1.2))
            try:
                named = await self._ask(("SMEMBERS", self._key))
            except PartError:
                await trio.sleep(backoff.next())  # locations.py says that Redis is away
                continue
            backoff.reset()
            if named:
                await self._heed(list(named))

    async def _heed(self, named: list[bytes]) -> None:
        every = EVERY_TIMELINE.encode() in named
        if every and trio.current_time() < self._all_at:
            return  # it stays there
        try:
            await self._ask(("SREM", self._key, *named))
        except PartError as error:
            _log.info("hints may come twice", error=error.message)
        if every:
            self._all_at = trio.current_time() + ALL_S
            self._hub.resync_all("missed")
        else:
            self._tell({name.decode(errors="replace") for name in named})

    def _tell(self, timelines: Collection[str]) -> None:
        """One hint for each session, with all that concerns it."""
        of_sessions: dict[Connection, list[str]] = {}
        for timeline in timelines:
            for session in self._hub.timelines.get(timeline, ()):
                of_sessions.setdefault(session, []).append(timeline)
        if of_sessions:
            _log.warning("deliveries were missed; sessions sync", timelines=len(timelines), sessions=len(of_sessions))
        self._metrics.resyncs.labels("missed").inc(len(of_sessions))
        for session, concerned in of_sessions.items():
            self._hub.resync([session], sorted(concerned))

    async def _ask(self, command: Command) -> list[bytes]:
        (reply,) = await self._memory.pipeline([command])
        if isinstance(reply, PartError):
            raise reply
        return reply  # type: ignore[no-any-return]
