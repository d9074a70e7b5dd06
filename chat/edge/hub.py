"""Who is on line at this edge. The tables of memory; `locations.py` makes Redis follow them.

    users        user → his sessions, groups, who has blocked him
    timelines    "u42", "g7" → the sessions that get what is delivered for it

A session is known here from `open` until its connection begins to close.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import trio

from chat.config import EdgeConfig
from chat.edge.clock import EdgeClock
from chat.edge.connection import CLOSING, Connection
from chat.edge.context import Opened, Session
from chat.edge.limits import TokenBucket
from chat.edge.locations import Locations
from chat.errors import Goodbye, Unavailable
from chat.metrics import EdgeMetrics
from chat.protocol import Replaced, Resync, encode, frame
from chat.records import PresenceEvent

OPEN_WAIT_S = 1.0  # for the location to be written
ANNOUNCE_MS = 5_000  # a session whose own event has not come by then counts as announced

HEED_S = 1.0  # for an event to come back by the log
RECENT = 10_000  # events that one who logs in may have missed

_NOBODY: frozenset[int] = frozenset()
RESYNC_ALL = frame(encode(Resync()))


class User:
    """A user with a session here."""

    __slots__ = ("blocked_by", "bucket", "changes", "groups", "sessions")

    def __init__(self, now: float, burst: float) -> None:
        self.sessions: list[Connection] = []
        self.groups: frozenset[int] = frozenset()
        self.changes = 0  # of his groups
        self.blocked_by: frozenset[int] = frozenset()
        self.bucket = TokenBucket(now, burst)


class EdgeHub:
    """See context.Hub."""

    def __init__(
        self,
        config: EdgeConfig,
        *,
        incarnation: int,
        locations: Locations,
        clock: EdgeClock,
        tell: Callable[[list[PresenceEvent]], None],
        metrics: EdgeMetrics,
    ) -> None:
        self._config = config
        self._incarnation = incarnation
        self._locations = locations
        self._clock = clock
        self._tell = tell
        self._metrics = metrics
        self._count = 0
        self._news = trio.Event()
        self._recent: deque[tuple[float, PresenceEvent]] = deque(maxlen=RECENT)
        self.users: dict[int, User] = {}
        self.timelines: dict[str, set[Connection]] = {}
        locations.follow(self)

    # ------------------------------------------------------------------ sessions

    async def open(self, session: Session, opened: Opened) -> None:
        """See context.Hub. Cancelling leaves the session known; its connection's end removes it."""
        assert isinstance(session, Connection)
        if session.state >= CLOSING:
            return  # the client left while he logged in
        news = self._heard_since(opened.user, opened.asked_at)
        if any(event.event == "end_sessions" for event in news):
            raise Unavailable("edge", "sessions were ended at this moment; try again")
        entry = self.users.get(opened.user)
        if entry is None:
            entry = self.users[opened.user] = User(trio.current_time(), self._config.messages_burst)
        for other in list(entry.sessions):
            if other.device == opened.device:
                self.replace(other)
        if opened.user not in self.users:  # the one that was replaced was his last
            self.users[opened.user] = entry
        session.user, session.name, session.device = opened.user, opened.name, opened.device
        session.session, session.token_hash, session.cursors = opened.session, opened.token_hash, opened.cursors
        session.opened_at = self._clock.now()
        entry.sessions.append(session)
        entry.blocked_by = opened.blocked_by
        for event in news:
            self.set_blocked(event.user, event.by, event.event == "blocked")
        self.timelines.setdefault(f"u{session.user}", set()).add(session)
        for group in entry.groups:
            self.timelines.setdefault(f"g{group}", set()).add(session)
        for group in opened.groups - entry.groups:
            self._add_group(session.user, entry, group)
        self._count += 1
        self._metrics.sessions.set(self._count)
        self._tell([self._event("login", session)])
        written = self._locations.session_changed(session)
        with trio.move_on_after(0 if self._locations.away else OPEN_WAIT_S):
            await written.wait()
        if not session.registered:
            session.resync_when_written = True

    def closed(self, session: Connection) -> None:
        """Its connection closes: forget the session."""
        entry = self.users.get(session.user)
        if entry is None or session not in entry.sessions:
            return
        entry.sessions.remove(session)
        self._leave_timeline(f"u{session.user}", session)
        for group in entry.groups:
            if self._leave_timeline(f"g{group}", session):
                self._locations.group_changed(group)
        if not entry.sessions:
            del self.users[session.user]
        self._count -= 1
        self._metrics.sessions.set(self._count)
        self._locations.session_changed(session)
        self._tell([self._event("logout", session)])

    def _event(self, what: Literal["login", "logout"], session: Connection) -> PresenceEvent:
        return PresenceEvent(
            event=what, user=session.user, at=self._clock.now(), edge=self._config.name, incarnation=self._incarnation,
            session=session.session, device=session.device,
        )  # fmt: skip

    @staticmethod
    def replace(session: Connection) -> None:
        session.send(Replaced())
        session.close(Goodbye.REPLACED, "this device has logged in elsewhere")

    def _leave_timeline(self, timeline: str, session: Connection) -> bool:
        """True where nobody is left."""
        there = self.timelines.get(timeline)
        if there is None:
            return False
        there.discard(session)
        if not there:
            del self.timelines[timeline]
        return not there

    # ------------------------------------------------------------------ groups

    def _add_group(self, user: int, entry: User, group: int) -> bool:
        """True where it is new for him."""
        if group in entry.groups:
            return False
        entry.groups |= {group}
        entry.changes += 1
        timeline = f"g{group}"
        new_here = timeline not in self.timelines
        self.timelines.setdefault(timeline, set()).update(entry.sessions)
        if new_here:
            self._locations.group_changed(group)
        return True

    def joined(self, user: int, group: int, *, tell: bool = True) -> None:
        """See `join`; does not wait for the registration: `resync` follows it."""
        entry = self.users.get(user)
        if entry is None or not self._add_group(user, entry, group) or not tell:
            return
        timeline = f"g{group}"
        self._metrics.resyncs.labels("joined").inc()
        if self._locations.group_written(group):
            self.resync(entry.sessions, [timeline])
        else:
            self._locations.hint_group(group)

    async def join(self, user: int, group: int, *, tell: bool = True) -> None:
        self.joined(user, group, tell=tell)

    def left(self, user: int, group: int) -> None:
        entry = self.users.get(user)
        if entry is None or group not in entry.groups:
            return
        entry.groups -= {group}
        entry.changes += 1
        gone = [self._leave_timeline(f"g{group}", session) for session in entry.sessions]
        if any(gone):
            self._locations.group_changed(group)

    async def leave(self, user: int, group: int) -> None:
        self.left(user, group)

    def groups_of(self, user: int) -> frozenset[int]:
        entry = self.users.get(user)
        return _NOBODY if entry is None else entry.groups

    def changes_of(self, user: int) -> int:
        entry = self.users.get(user)
        return 0 if entry is None else entry.changes

    # ------------------------------------------------------------------ what others ask

    def sessions_of(self, user: int) -> Collection[Session]:
        entry = self.users.get(user)
        return () if entry is None else tuple(entry.sessions)

    def all_sessions(self) -> list[Connection]:
        return [session for entry in self.users.values() for session in entry.sessions]

    def all_groups(self) -> list[int]:
        return [int(timeline[1:]) for timeline in self.timelines if timeline[0] == "g"]

    def members_here(self, group: int) -> Collection[Connection]:
        return self.timelines.get(f"g{group}", ())

    def blocked_by(self, user: int) -> frozenset[int]:
        entry = self.users.get(user)
        return _NOBODY if entry is None else entry.blocked_by

    def set_blocked(self, user: int, by: int, blocked: bool) -> None:
        entry = self.users.get(user)
        if entry is not None:
            entry.blocked_by = entry.blocked_by | {by} if blocked else entry.blocked_by - {by}

    def set_blockers(self, user: int, blocked_by: frozenset[int], since: float) -> None:
        """These, as read at trio's time `since`: what was heard after that is newer."""
        entry = self.users.get(user)
        if entry is not None:
            entry.blocked_by = blocked_by
            for event in self._heard_since(user, since):
                self.set_blocked(user, event.by, event.event == "blocked")

    def remember(self, event: PresenceEvent) -> None:
        """For those who are logging in: they have read what holds, and are not here yet to hear of its change."""
        self._recent.append((trio.current_time(), event))
        news, self._news = self._news, trio.Event()
        news.set()

    async def heeded(self, event: PresenceEvent, since: float) -> None:
        """See context.Hub. Where it is not heard in a bounded time, it is applied all the same."""
        with trio.move_on_after(HEED_S):
            while event not in self._heard_since(event.user, since):
                await self._news.wait()
            return
        self.set_blocked(event.user, event.by, event.event == "blocked")

    def _heard_since(self, user: int, since: float) -> list[PresenceEvent]:
        found: list[PresenceEvent] = []
        for at, event in reversed(self._recent):
            if at < since:
                break
            if event.user == user:
                found.append(event)
        return found[::-1]

    def take_token(self, user: int, now: float) -> float:
        """0, or seconds until the user may send the next message."""
        entry = self.users.get(user)
        if entry is None:
            return 0.0
        return entry.bucket.take(now, self._config.messages_per_second, self._config.messages_burst)

    # ------------------------------------------------------------------ hints

    def resync(self, sessions: Iterable[Connection], timelines: list[str] | None = None) -> None:
        chunk = RESYNC_ALL if timelines is None else frame(encode(Resync(timelines=timelines)))
        for session in list(sessions):
            session.deliver(chunk)

    def resync_all(self, why: str) -> None:
        self._metrics.resyncs.labels(why).inc(self._count)
        self.resync(self.all_sessions())
