"""Who holds which connections, from Redis; and what edges are told to do about it, over the presence topic.

Telling is not enough: every verb here looks until what it asked for is so, or says that it is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import trio

from chat.errors import Goodbye, PartAway, PartError, SetupError
from chat.ports import LogAdmin, Memory, Producer
from chat.records import PresenceEvent, TopicPartition, Topics, partition_of, presence_record

PATIENCE_S: Final = 10.0
LOOK_S: Final = 0.2  # between two looks
#: A log-in that was under way when an account was closed has its location written by then.
SETTLED_S: Final = 1.5
SCANNED: Final = 1_000


class Lease(NamedTuple):
    edge: str
    incarnation: int
    address: str
    weight: int
    draining: bool


class Sitting(NamedTuple):
    """A session where Redis says it is. `live`: that incarnation of the edge holds its lease."""

    user: int
    session: str
    edge: str
    incarnation: str
    device: str
    live: bool


class Online:
    """All methods raise PartError."""

    def __init__(self, memory: Memory, prefix: str) -> None:
        self._memory = memory
        self._prefix = prefix

    async def edges(self) -> dict[str, Lease | None]:
        """Every edge that ever leased, with its lease; None: it has none now. The leases themselves are looked for too: the
        set of names may be lost while an edge holds on."""
        known = {_text(name) for name in await self._ask(("SMEMBERS", f"{self._prefix}edges"))}
        names = sorted(known | await self._scan("edge:"))
        if not names:
            return {}
        leases = await self._ask(("MGET", *(f"{self._prefix}edge:{name}" for name in names)))
        return {name: _lease(name, raw) for name, raw in zip(names, leases, strict=True)}

    async def leases(self) -> dict[str, Lease]:
        return {name: lease for name, lease in (await self.edges()).items() if lease is not None}

    async def sessions(self, users: Sequence[int]) -> list[Sitting]:
        if not users:
            return []
        leases = await self.leases()
        tables = await self._memory.pipeline([("HGETALL", f"{self._prefix}loc:{user}") for user in users])
        found = []
        for user, table in zip(users, tables, strict=True):
            if isinstance(table, PartError):
                raise table
            for at in range(0, len(table), 2):
                edge, incarnation, device = [*_text(table[at + 1]).split(" "), "", ""][:3]
                lease = leases.get(edge)
                live = lease is not None and str(lease.incarnation) == incarnation
                found.append(Sitting(user, _text(table[at]), edge, incarnation, device, live))
        return found

    async def everyone(self) -> list[Sitting]:
        """All sessions of all users: it looks at every location."""
        found = []
        every = sorted(int(user) for user in await self._scan("loc:") if user.isdigit())
        for at in range(0, len(every), SCANNED):
            found += await self.sessions(every[at : at + SCANNED])
        return found

    async def _scan(self, kind: str) -> set[str]:
        """What stands behind `kind` in the keys of this cluster."""
        start, found = self._prefix + kind, set[str]()
        cursor: Any = 0
        while True:
            cursor, keys = await self._ask(("SCAN", cursor, "MATCH", f"{_escaped(start)}*", "COUNT", SCANNED))
            found.update(_text(key).removeprefix(start) for key in keys)
            if int(cursor) == 0:
                return found

    async def _ask(self, command: tuple[Any, ...]) -> Any:
        (reply,) = await self._memory.pipeline([command])
        if isinstance(reply, PartError):
            raise reply
        return reply


class Control:
    """Telling all edges. All methods raise PartError."""

    def __init__(self, topics: Topics, producer: Producer, log: LogAdmin, online: Online, now: Callable[[], int]) -> None:
        self._topic = topics.presence
        self._producer = producer
        self._log = log
        self._online = online
        self._now = now

    async def tell(self, event: PresenceEvent) -> None:
        """Returns when Kafka has it."""
        record = presence_record(event)
        count = await self._log.partitions(self._topic)
        if not count:
            raise SetupError(f"Kafka has no topic {self._topic}: create the topics with `chat topics create`")
        place = TopicPartition(self._topic, partition_of((record.key or b"").decode(), count))
        outcome = (await self._producer.produce({place: [record]}))[place]
        if isinstance(outcome, PartError):
            raise outcome

    async def end_sessions(self, user: int, code: Goodbye, *, closed: bool) -> int:
        """End the sessions that the user has; how many were seen. `closed`: he cannot log in any more, so that none may be
        left at all; otherwise those that come meanwhile are left alone. Raises SetupError where one stays."""
        event = PresenceEvent(event="end_sessions", user=user, at=self._now(), code=code)
        try:
            before = {s.session for s in await self._live(user)}
        except PartAway as error:
            await self.tell(event)
            raise PartAway(error.part, f"the edges were told, but what came of it is not seen: {error.message}") from error
        await self.tell(event)
        seen = set(before)
        with trio.move_on_after(PATIENCE_S):
            while True:
                left = await self._left(user, before, closed)
                if not left:
                    if not closed:
                        return len(seen)
                    await trio.sleep(SETTLED_S)
                    left = await self._left(user, before, closed)
                    if not left:
                        return len(seen)
                if not left <= seen:
                    await self.tell(event)
                seen |= left
                await trio.sleep(LOOK_S)
        where = sorted({s.edge for s in await self._live(user)})
        raise SetupError(
            f"sessions of user {user} are still open at {', '.join(where)} after {PATIENCE_S:.0f} s: run it again"
        )

    async def _live(self, user: int) -> list[Sitting]:
        return [s for s in await self._online.sessions([user]) if s.live]

    async def _left(self, user: int, before: Collection[str], closed: bool) -> set[str]:
        return {s.session for s in await self._live(user) if closed or s.session in before}

    async def drain(self, edge: str, seconds: float) -> None:
        """Tell an edge to drain, and wait until its lease is given up. Raises SetupError."""
        lease = (await self._online.leases()).get(edge)
        if lease is None:
            known = ", ".join(sorted(await self._online.leases())) or "none"
            raise SetupError(f"no edge {edge!r} holds a lease; those that do: {known}")
        await self.tell(PresenceEvent(event="drain", user=0, at=self._now(), edge=edge, incarnation=lease.incarnation))
        with trio.move_on_after(seconds):
            while (now := (await self._online.leases()).get(edge)) and now.incarnation == lease.incarnation:  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
            return
        raise SetupError(f"{edge} still holds its lease after {seconds:.0f} s: see its log")


def _lease(name: str, raw: bytes | None) -> Lease | None:
    if raw is None:
        return None
    try:
        said = json.loads(raw)
        return Lease(
            name, int(said["incarnation"]), str(said["address"]), int(said.get("weight", 1)), bool(said.get("draining"))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Lease(name, 0, "(not understood)", 0, False)  # it is held: whoever holds it counts as running


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _escaped(pattern: str) -> str:
    return "".join("\\" + c if c in "*?[]\\" else c for c in pattern)
