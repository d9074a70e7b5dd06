"""Redis follows the hub: where each session is, which groups have members here, and the lease that makes both count.

    loc:<user>            hash session → "<edge> <incarnation> <device>"
    group:<group>:edges   hash edge → incarnation
    edge:<edge>           JSON {incarnation, address, weight}, for `lease_ms`
    edges                 set of the names of edges that ever leased

One task writes, and it writes what the hub says *when the command is built*: a change only marks its session or group. So
the last state wins, an add and a remove cannot overtake each other, and what waits while Redis is away is bounded by what
is on line. A location that may have been missing (lease lapsed, another Redis run id, written late, found missing by the
sweep) is followed by `resync`, after it is written.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import structlog
import trio

from chat.backoff import Backoff
from chat.config import EdgeConfig
from chat.edge.connection import Connection
from chat.errors import PartAway, PartError, SetupError
from chat.metrics import EdgeMetrics
from chat.ports import Command, Memory

CHUNK: Final = 1_000  # sessions or groups in one pipeline
PROBES: Final = 64  # of each are looked for at each renewal: a Redis that has lost keys is found within seconds
DEAD_S: Final = 7 * 86_400  # a user's locations are forgotten when none was asserted for so long

#: KEYS: the lease. ARGV: its value, incarnation, ms, "take" (at start: also another's). 1 held, 0 was gone, -1 another's.
RENEW: Final = """
local there = redis.call('GET', KEYS[1])
local result = 0
if there then
  local ok, lease = pcall(cjson.decode, there)
  if ok and string.format('%.0f', lease.incarnation) == ARGV[2] then result = 1
  elseif ARGV[4] ~= 'take' then return -1 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return result
"""
#: Only what is mine. ARGV: incarnation.
GIVE_UP: Final = """
local there = redis.call('GET', KEYS[1])
if there then
  local ok, lease = pcall(cjson.decode, there)
  if ok and string.format('%.0f', lease.incarnation) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
end
return 0
"""

#: A location whose incarnation does not hold the lease, looked at once more as it is removed: the edge may have taken its
#: lease again, and written this, since we asked. KEYS: locations, the lease. ARGV: session, what is there, incarnation.
BURY: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local there = redis.call('GET', KEYS[2])
if there then
  local ok, lease = pcall(cjson.decode, there)
  if ok and string.format('%.0f', lease.incarnation) == ARGV[3] then return 0 end
end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

T = TypeVar("T")

_log = structlog.get_logger()


class Tables(Protocol):
    """What the hub shows."""

    def members_here(self, group: int) -> Collection[Connection]: ...
    def all_sessions(self) -> Collection[Connection]: ...
    def all_groups(self) -> Collection[int]: ...
    def resync(self, sessions: Collection[Connection], timelines: list[str] | None = None) -> None: ...


class Locations:
    def __init__(
        self, config: EdgeConfig, *, incarnation: int, address: str, memory: Memory, prefix: str, metrics: EdgeMetrics
    ) -> None:
        self._config = config
        self._incarnation = incarnation
        self._memory = memory
        self._metrics = metrics
        self._address = address
        self._lease_key = f"{prefix}edge:{config.name}"
        self._edges_key = f"{prefix}edges"
        self._prefix = prefix
        self._tables: Tables | None = None
        self._sessions: dict[str, Connection] = {}  # changed, by their id
        self._waits: dict[str, trio.Event] = {}
        self._there: set[str] = set()  # sessions that Redis may know
        self._groups: dict[int, None] = {}  # changed
        self._written: set[int] = set()  # groups that are registered
        self._hints: set[int] = set()  # groups whose members get a resync when it is written
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._held = False  # the lease was ours
        self._draining = False
        self.away = False  # the last write failed
        self._run_id = ""
        self._renewed_at = 0.0  # when the last renewal that we know of was asked for
        self._unsure = False  # one since then had no answer: it may have found the lease gone

    def follow(self, tables: Tables) -> None:
        self._tables = tables

    @property
    def _hub(self) -> Tables:
        if self._tables is None:
            raise RuntimeError("no hub to follow")
        return self._tables

    @property
    def held(self) -> bool:
        """The lease is ours, as far as we know."""
        return self._held

    # ------------------------------------------------------------------ changes

    def session_changed(self, session: Connection) -> trio.Event:
        """It has come or gone. Returns what is set when Redis knows."""
        if session.ended and session.session not in self._there:  # nothing to remove: it waits for Redis no longer
            self._sessions.pop(session.session, None)
            known = self._waits.pop(session.session, trio.Event())
            known.set()
            return known
        self._sessions[session.session] = session
        self._changed()
        return self._waits.setdefault(session.session, trio.Event())

    def group_changed(self, group: int) -> None:
        """It has got its first member here, or lost its last."""
        self._groups[group] = None
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    def group_written(self, group: int) -> bool:
        return group in self._written and group not in self._groups

    def hint_group(self, group: int) -> None:
        self._hints.add(group)

    # ------------------------------------------------------------------ the writer

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write, hold the lease, sweep; until cancelled. Raises SetupError when another process takes the edge's name."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_changes)
            nursery.start_soon(self._hold_lease)
            nursery.start_soon(self._sweep)
            task_status.started()

    async def _write_changes(self) -> None:
        backoff = Backoff(0.1, 2.0)
        while True:
            if not self._sessions and not self._groups:
                self._idle.set()
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                await self._write_some()
                backoff.reset()
                self.away = False
            except PartError as error:
                self.away = True
                _log.warning("locations not written", error=error.message, waiting=len(self._sessions) + len(self._groups))
                await trio.sleep(backoff.next())
            self._metrics.unregistered.set(len(self._sessions) + len(self._groups))

    async def _write_some(self) -> None:
        most = 1 if self.away else CHUNK  # what is tried in vain is not sure any more
        groups = list(islice(self._groups, most))
        sessions = [] if len(groups) == most else list(islice(self._sessions.values(), most))
        for group in groups:
            del self._groups[group]
        for session in sessions:
            del self._sessions[session.session]
            self._there.add(session.session)
        there = [bool(self._hub.members_here(group)) for group in groups]
        live = [not session.ended for session in sessions]
        commands: list[Command] = []  # one for each group and session, then what has no effect on anyone's state
        for group, here in zip(groups, there, strict=True):
            key = f"{self._prefix}group:{group}:edges"
            name, value = self._config.name, str(self._incarnation)
            commands.append(("HSET", key, name, value) if here else ("HDEL", key, name))
        for session, here in zip(sessions, live, strict=True):
            key = f"{self._prefix}loc:{session.user}"
            value = f"{self._config.name} {self._incarnation} {session.device}"
            commands.append(("HSET", key, session.session, value) if here else ("HDEL", key, session.session))
        commands += [
            ("EXPIRE", f"{self._prefix}loc:{s.user}", DEAD_S) for s, here in zip(sessions, live, strict=True) if here
        ]
        try:
            replies = await self._memory.pipeline(commands)
            for reply in replies:
                if isinstance(reply, PartAway):
                    raise reply
                if isinstance(reply, PartError):  # somebody wrote something else under this key: the others go on
                    _log.error("a location cannot be written", error=reply.message)
        except PartError:
            # It may have been done, and have put back what was lost: that will not be seen again.
            self._groups.update(dict.fromkeys(groups))
            self._hints.update(self._written.intersection(groups))
            for session in sessions:
                self._sessions.setdefault(session.session, session)
                session.resync_when_written = session.resync_when_written or session.registered
            raise
        for group, here, reply in zip(groups, there, replies, strict=False):
            self._group_written(group, here, reply)
        for session, here, reply in zip(sessions, live, replies[len(groups) :], strict=False):
            self._session_written(session, here, reply)
        await self._bury([s for s, here in zip(sessions, live, strict=True) if here])

    async def _bury(self, sessions: Sequence[Connection]) -> None:
        """Remove what killed edges have left behind of these users: locations whose incarnation holds no lease. An edge
        whose lease has only lapsed writes all of its own again when it renews. So a user has no more dead locations than
        sessions that ended within a sweep (or, where none is left, within DEAD_S)."""
        users = list({session.user for session in sessions})
        tables = await self._memory.pipeline([("HGETALL", f"{self._prefix}loc:{user}") for user in users]) if users else []
        others: list[tuple[int, bytes, bytes, str, str]] = []  # user, session, value, edge, incarnation
        for user, table in zip(users, tables, strict=True):
            for at in range(0, 0 if isinstance(table, PartError) else len(table), 2):
                words = table[at + 1].decode(errors="replace").split(" ")
                if len(words) < 2 or words[:2] != [self._config.name, str(self._incarnation)]:
                    others.append((user, table[at], table[at + 1], words[0], words[1] if len(words) > 1 else ""))
        edges = list({edge for *_, edge, _ in others})
        if not edges:
            return
        (leases,) = await self._memory.pipeline([("MGET", *(f"{self._prefix}edge:{edge}" for edge in edges))])
        if isinstance(leases, PartError):
            raise leases
        live = {edge: _incarnation_of(lease) for edge, lease in zip(edges, leases, strict=True)}
        dead: list[Command] = [
            ("EVAL", BURY, 2, f"{self._prefix}loc:{user}", f"{self._prefix}edge:{edge}", session, value, incarnation)
            for user, session, value, edge, incarnation in others
            if not incarnation or live[edge] != incarnation
        ]
        if dead:
            await self._memory.pipeline(dead)

    def _group_written(self, group: int, here: bool, reply: Any) -> None:
        lost = here and group in self._written and reply == 1
        if here:
            self._written.add(group)
        else:
            self._written.discard(group)
        if lost or group in self._hints:
            self._hints.discard(group)
            self._hub.resync(self._hub.members_here(group), [f"g{group}"])

    def _session_written(self, session: Connection, here: bool, reply: Any) -> None:
        if not here:
            self._there.discard(session.session)
        waits = self._waits.pop(session.session, None) if session.session not in self._sessions else None
        if waits is not None:
            waits.set()
        if not here or session.ended:
            return
        lost = session.registered and reply == 1
        session.registered = True
        if lost or session.resync_when_written:
            session.resync_when_written = False
            self._metrics.resyncs.labels("lost" if lost else "late").inc()
            self._hub.resync([session])

    # ------------------------------------------------------------------ the lease

    def _lease(self) -> str:
        lease: dict[str, Any] = {
            "incarnation": self._incarnation, "address": self._address, "weight": self._config.weight,
        }  # fmt: skip
        if self._draining:
            lease["draining"] = True
        return json.dumps(lease)

    async def _hold_lease(self) -> None:
        backoff = Backoff(0.1, self._config.lease_ms / 4_000)
        while True:
            try:
                await self.renew()
                backoff.reset()
                await trio.sleep(self._config.lease_ms / 4_000)
            except PartError as error:
                _log.warning("lease not renewed", error=error.message)
                await trio.sleep(backoff.next())

    async def renew(self) -> None:
        """Take or renew the lease; register everything anew where it had lapsed or Redis is another run. Raises PartError;
        SetupError where another process has it."""
        take = "" if self._held else "take"
        argv = (self._lease(), str(self._incarnation), self._config.lease_ms, take)
        asked, unsure, self._unsure = trio.current_time(), self._unsure, True
        reply, listed = await self._memory.pipeline(
            [("EVAL", RENEW, 1, self._lease_key, *argv), ("SADD", self._edges_key, self._config.name)]
        )
        for error in (reply, listed):
            if isinstance(error, PartError):
                raise error
        if reply == -1:
            raise SetupError(
                f"another process runs as edge {self._config.name!r} now: every edge needs a name of its own; this one exits"
            )
        # What the renewal found is heeded before anything else may fail: the next one will not find it.
        lapsed = reply == 0 or (unsure and trio.current_time() - self._renewed_at >= self._config.lease_ms / 1_000)
        first, self._held, self._renewed_at, self._unsure = not self._held, True, asked, False
        if first and self._hub.all_sessions():
            self._again("first")
        elif lapsed and not first:
            self._again("lapsed")
        before, self._run_id = self._run_id, await self._memory.run_id()
        if before not in ("", self._run_id):
            self._again("run_id")
        elif await self._keys_missing():
            self._again("keys")

    async def _keys_missing(self) -> bool:
        """Has Redis lost something of ours without a word (evicted, deleted by hand)? The sweep finds what these miss."""
        sessions = [s for s in _some(self._hub.all_sessions()) if self._settled(s)]
        groups = [group for group in _some(self._written) if self._group_settled(group)]
        probes: list[Command] = [("HEXISTS", f"{self._prefix}loc:{s.user}", s.session) for s in sessions]
        probes += [("HEXISTS", f"{self._prefix}group:{group}:edges", self._config.name) for group in groups]
        replies = await self._memory.pipeline(probes) if probes else []
        still = [*map(self._settled, sessions), *map(self._group_settled, groups)]
        return any(reply == 0 and settled for reply, settled in zip(replies, still, strict=True))

    def _settled(self, session: Connection) -> bool:
        return session.registered and not session.ended and session.session not in self._sessions

    def _group_settled(self, group: int) -> bool:
        return self.group_written(group) and bool(self._hub.members_here(group))

    def _again(self, why: str) -> None:
        """Nothing in Redis is sure any more: write all of it, and let every session sync after that."""
        _log.warning("registering everything anew", why=why)
        self._metrics.lease_losses.labels(why).inc()
        for session in self._hub.all_sessions():
            session.registered = False
            session.resync_when_written = True
            self._sessions[session.session] = session
        self._groups.update(dict.fromkeys(self._hub.all_groups()))
        self._groups.update(dict.fromkeys(self._written))
        self._changed()

    async def _sweep(self) -> None:
        """Assert every session and group again over `sweep_s`, a slice at a time."""
        slices = max(1, self._config.sweep_s)
        while True:
            sessions, groups = list(self._hub.all_sessions()), list(self._hub.all_groups())
            for i in range(slices):
                await trio.sleep(self._config.sweep_s / slices)
                for session in sessions[i::slices]:
                    if not session.ended:
                        self._sessions.setdefault(session.session, session)
                self._groups.update(dict.fromkeys(groups[i::slices]))
                if self._sessions or self._groups:
                    self._changed()

    # ------------------------------------------------------------------ leaving

    async def drain(self) -> None:
        """No new clients, please: nginx drops this edge; deliveries still come."""
        self._draining = True
        await self.renew()

    async def leave(self) -> None:
        """When the sessions are closed: wait until that is written, then give the lease up. Raises PartError."""
        await self._idle.wait()
        (reply,) = await self._memory.pipeline([("EVAL", GIVE_UP, 1, self._lease_key, str(self._incarnation))])
        if isinstance(reply, PartError):
            raise reply


def _some(of: Collection[T]) -> list[T]:
    return random.sample(list(of), min(len(of), PROBES))


def _incarnation_of(lease: bytes | None) -> str:
    """Empty where there is no lease, or none that can be read."""
    if lease is None:
        return ""
    try:
        return str(json.loads(lease)["incarnation"])
    except (ValueError, KeyError, TypeError):
        return ""
