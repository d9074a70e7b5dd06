"""`watch`: who of one's friends is on line, now and at each change.

Redis says it: a location whose incarnation holds its edge's lease. What is asked again: a watched user of whom a log-in or
log-out is heard, at once and once more a little later (the event may overtake the location's write); all that are on line
at an edge whose lease is gone; all, when Redis was away.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import msgspec
import structlog
import trio

from chat.edge.context import Context, Session
from chat.errors import ChatError, PartError
from chat.persist.queries import places
from chat.ports import Command, Database, Memory, Statement
from chat.protocol import Online, Presence, Watch
from chat.records import PresenceEvent

log = structlog.get_logger()

AT_ONCE: Final = 1_000  # users in one look-up
LEASES_S: Final = 3.0  # leases are checked this often
FRIENDS_S: Final = 60.0  # and whether they are friends still
AGAIN_S: Final = 1.0  # after an event
SESSIONS_AT_ONCE: Final = 50  # whose friends are looked up by one read


class Place(NamedTuple):
    edge: str
    incarnation: int


class Watches:
    """Cancel-safe. Bounded by the sessions, each of which watches at most as many as one request may name."""

    def __init__(self, memory: Memory, database: Database, prefix: str) -> None:
        self._memory = memory
        self._database = database
        self._prefix = prefix
        self._watched: dict[Session, frozenset[int]] = {}
        self._watchers: dict[int, set[Session]] = {}
        self._online: dict[int, bool] = {}  # as the watchers were told
        self._places: dict[int, frozenset[Place]] = {}
        self._dirty: set[int] = set()
        self._later: set[int] = set()
        self._wake = trio.Event()

    # ------------------------------------------------------------------ who watches whom

    async def watch(self, session: Session, users: Collection[int]) -> dict[int, bool]:
        """Replace what the session watches; who of them is on line. Raises PartError when Redis does not say."""
        wanted = frozenset(users)
        self.closed(session)
        self._watched[session] = wanted
        for user in wanted:
            self._watchers.setdefault(user, set()).add(session)
        try:
            found = await self._look_up(sorted(wanted))
        except PartError:
            self.closed(session)
            raise
        self._tell(found, but=session)
        return {user: bool(found[user]) for user in wanted}

    def closed(self, session: Session) -> None:
        """It watches no longer."""
        for user in self._watched.pop(session, ()):
            watchers = self._watchers.get(user)
            if watchers is not None:
                watchers.discard(session)
                if not watchers:
                    self._forget(user)

    def _forget(self, user: int) -> None:
        del self._watchers[user]
        self._online.pop(user, None)
        self._places.pop(user, None)

    def heard(self, event: PresenceEvent) -> None:
        if event.event in ("login", "logout") and event.user in self._watchers:
            self._dirty.add(event.user)
            self._later.add(event.user)
            self._wake.set()

    # ------------------------------------------------------------------ loops

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._look_again)
            nursery.start_soon(self._check_leases)
            nursery.start_soon(self._check_friends)

    async def _follow(self) -> None:
        """What is dirty is looked up; what gathers meanwhile is the next look-up."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            users = sorted(self._dirty & self._watchers.keys())
            self._dirty.clear()
            for n in range(0, len(users), AT_ONCE):
                try:
                    self._tell(await self._look_up(users[n : n + AT_ONCE]))
                except PartError as error:
                    log.info("presence_not_found", why=error.message)
                    self._dirty.update(users[n:])
                    await trio.sleep(LEASES_S * random.uniform(0.5, 1.0))
                    self._wake.set()
                    break

    async def _look_again(self) -> None:
        """A whole AGAIN_S after the event at least, two of them at most."""
        due: set[int] = set()
        while True:
            await trio.sleep(AGAIN_S)
            if due:
                self._dirty |= due
                self._wake.set()
            due, self._later = self._later, set()

    async def _check_leases(self) -> None:
        missed = False
        while True:
            await trio.sleep(LEASES_S * random.uniform(0.8, 1.2))
            held = {p for of_user in self._places.values() for p in of_user}
            if not held and not missed:
                continue
            try:
                alive = await self._alive({p.edge for p in held})
            except PartError:
                missed = True
                continue
            if missed:
                self._dirty |= self._watchers.keys()
            else:
                self._dirty |= {u for u, of_user in self._places.items() if not of_user <= alive}
            missed = False
            if self._dirty:
                self._wake.set()

    async def _check_friends(self) -> None:
        """Who is a friend no longer is watched no longer."""
        while True:
            await trio.sleep(FRIENDS_S * random.uniform(0.8, 1.2))
            watched = [(session, users) for session, users in self._watched.items() if users]
            for n in range(0, len(watched), SESSIONS_AT_ONCE):
                some = watched[n : n + SESSIONS_AT_ONCE]
                try:
                    found = await self._database.read([_friends_among(session.user, users) for session, users in some])
                except PartError:
                    break
                for (session, users), result in zip(some, found, strict=True):
                    self._keep(session, users, users.intersection(r[0] for r in result.rows))

    def _keep(self, session: Session, users: frozenset[int], friends: frozenset[int]) -> None:
        if self._watched.get(session) != users:
            return  # it watches others now
        for user in users - friends:
            self._watchers[user].discard(session)
            if not self._watchers[user]:
                self._forget(user)
        self._watched[session] = friends

    # ------------------------------------------------------------------ what Redis says

    async def _look_up(self, users: Collection[int]) -> dict[int, frozenset[Place]]:
        """The living locations of each."""
        replies = await self._pipeline([("HGETALL", f"{self._prefix}loc:{user}") for user in users])
        found = {user: frozenset(_places(reply[1::2])) for user, reply in zip(users, replies, strict=True)}
        alive = await self._alive({p.edge for of_user in found.values() for p in of_user})
        return {user: of_user & alive for user, of_user in found.items()}

    async def _alive(self, edges: Collection[str]) -> frozenset[Place]:
        """Those of the edges that hold their lease."""
        names = sorted(edges)
        replies = await self._pipeline([("GET", f"{self._prefix}edge:{name}") for name in names])
        return frozenset(
            Place(name, incarnation)
            for name, reply in zip(names, replies, strict=True)
            if (incarnation := _incarnation(reply)) is not None
        )

    async def _pipeline(self, commands: list[Command]) -> list[Any]:
        replies = await self._memory.pipeline(commands) if commands else []
        for reply in replies:
            if isinstance(reply, PartError):
                raise reply
        return replies

    # ------------------------------------------------------------------ telling

    def _tell(self, found: dict[int, frozenset[Place]], but: Session | None = None) -> None:
        """Tell watchers what has changed. `but` gets it as its answer."""
        changed: dict[Session, list[Online]] = {}
        for user, at in found.items():
            if user not in self._watchers:
                continue
            self._places[user] = at
            online = bool(at)
            before = self._online.get(user)
            self._online[user] = online
            if before is not None and before != online:
                for session in self._watchers[user]:
                    changed.setdefault(session, []).append(Online(user, online))
        for session, users in changed.items():
            if session is not but:
                session.send(Presence(users=users))


def _places(values: Iterable[bytes]) -> Iterable[Place]:
    for value in values:
        edge, _, rest = value.partition(b" ")
        incarnation = rest.partition(b" ")[0]
        if incarnation.isdigit():  # what another wrote there is nowhere
            yield Place(edge.decode(errors="replace"), int(incarnation))


class _Lease(msgspec.Struct):
    incarnation: int


def _incarnation(reply: bytes | None) -> int | None:
    if reply is None:
        return None
    decode = msgspec.json.decode if reply[:1] == b"{" else msgspec.msgpack.decode
    try:
        return decode(reply, type=_Lease).incarnation
    except msgspec.DecodeError:
        return None


async def friends_among(database: Database, user: int, users: Collection[int]) -> frozenset[int]:
    """Which of `users` are friends of `user`. Raises PartError."""
    if not users:
        return frozenset()
    (result,) = await database.read([_friends_among(user, users)])
    return frozenset(r[0] for r in result.rows)


def _friends_among(user: int, users: Collection[int]) -> Statement:
    return Statement(
        f"SELECT other FROM friends WHERE user = %s AND other IN ({places(users)}) AND state = 'friend'", (user, *users)
    )


async def watch(context: Context, session: Session, request: Watch) -> Presence:
    users = list(dict.fromkeys(request.users))
    strangers = set(users) - await friends_among(context.services.store, session.user, users)
    if strangers:
        raise ChatError("forbidden", f"user {min(strangers)} is not your friend")
    watches = context.services.watches
    online = await watches.watch(session, users)
    if session not in context.hub.sessions_of(session.user):
        watches.closed(session)  # it ended meanwhile
    return Presence(users=[Online(user, online[user]) for user in users])
