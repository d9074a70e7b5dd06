"""Where are they? One pipeline to Redis per cycle, after the fetch; a second one only where an edge is heard of for the
first time.

    loc:<user>            hash   session → "<edge> <incarnation> <device>"
    group:<group>:edges   hash   edge → incarnation
    edge:<edge>           string the lease: JSON with `incarnation`
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
import trio
from prometheus_client import Gauge

from chat.backoff import Backoff
from chat.errors import PartError
from chat.ports import Command
from chat.ports import Memory as Redis
from chat.router.plan import Location

log = structlog.get_logger()

#: Names of edges kept; above it those without a lease are forgotten.
MAX_NAMES: Final = 256


class Lease(msgspec.Struct):
    """What a router reads of a lease."""

    incarnation: int


_lease = msgspec.json.Decoder(Lease).decode


class Answer(NamedTuple):
    """`found`: timeline → locations, dead ones too. `leased`: edge → incarnation."""

    found: dict[str, list[Location]]
    leased: dict[str, int]


class Lookup:
    """Remembers the names of edges between cycles, and nothing else: what is asked for is asked for each time."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._edges: dict[str, None] = {}

    async def find(self, timelines: Collection[str]) -> Answer:
        """Raises PartError. Cancelling it does no harm."""
        order = list(timelines)
        commands: list[Command] = [("HGETALL", self._key(t)) for t in order]
        known = list(self._edges)
        if known:
            commands.append(self._leases(known))
        replies = await self._redis.pipeline(commands)
        leased = _leased(known, _checked(replies.pop())) if known else {}
        found = {t: _locations(t, _checked(reply)) for t, reply in zip(order, replies, strict=True)}
        new = list({loc.edge: None for locations in found.values() for loc in locations if loc.edge not in self._edges})
        if new:
            (reply,) = await self._redis.pipeline([self._leases(new)])
            leased |= _leased(new, _checked(reply))
        self._edges |= dict.fromkeys(new)
        if len(self._edges) > MAX_NAMES:
            self._edges = dict.fromkeys(leased)
        return Answer(found, leased)

    def _key(self, timeline: str) -> str:
        number = timeline[1:]
        return f"{self._prefix}loc:{number}" if timeline[0] == "u" else f"{self._prefix}group:{number}:edges"

    def _leases(self, edges: Sequence[str]) -> Command:
        return ("MGET", *(f"{self._prefix}edge:{edge}" for edge in edges))


def _checked(reply: Any) -> Any:
    if isinstance(reply, PartError):
        raise reply
    return reply


def _leased(edges: Sequence[str], values: Sequence[bytes | None]) -> dict[str, int]:
    leased = {}
    for edge, value in zip(edges, values, strict=True):
        if value is None:
            continue
        try:
            leased[edge] = _lease(value).incarnation
        except msgspec.DecodeError as error:
            log.error("a lease cannot be read", edge=edge, error=str(error))
    return leased


def _locations(timeline: str, reply: Sequence[bytes]) -> list[Location]:
    """From the reply of HGETALL: field, value, field, value …"""
    locations = []
    for at in range(0, len(reply), 2):
        words = reply[at + 1].split(b" ", 2)
        try:
            if timeline[0] == "u":
                locations.append(Location(words[0].decode(), int(words[1])))
            else:
                locations.append(Location(reply[at].decode(), int(words[0])))
        except (ValueError, IndexError):
            log.error("a location cannot be read", timeline=timeline)
    return locations


class Breaker:
    """Open while Redis is away, so that no cycle waits for its time-out; `run` asks in the background whether it is back."""

    def __init__(self, redis: Redis, gauge: Gauge) -> None:
        self._redis = redis
        self._gauge = gauge
        self._tripped = trio.Event()

    @property
    def open(self) -> bool:
        return self._tripped.is_set()

    def trip(self) -> None:
        self._gauge.set(1)
        self._tripped.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._tripped.wait()
            backoff = Backoff()
            while self.open:
                await trio.sleep(backoff.next())
                try:
                    for reply in await self._redis.pipeline([("PING",)]):
                        _checked(reply)
                except PartError:
                    continue
                self._tripped = trio.Event()
                self._gauge.set(0)
                log.info("Redis is back: locations are asked for again")
