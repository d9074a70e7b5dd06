"""The hybrid logical clock of an edge.

`sent_at` never falls behind the wall clock, behind what this edge has shown to the user or taken from him, or behind what
he says he has seen (a claim cut to a few seconds ahead). What lies below the wall clock needs no memory: so the table
holds only users whose last time is ahead of it, and a delivery costs one comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

_PRUNE_AT = 20_000


class EdgeClock:
    """`wall` gives milliseconds since 1970; where it steps back, the clock stands still until it is reached again."""

    def __init__(self, seen_ahead_ms: int, wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._wall = wall
        self._ahead = seen_ahead_ms
        self._last = 0
        self._users: dict[int, int] = {}  # user → sent_at that his next record must be above
        self._prune_at = _PRUNE_AT

    def now(self) -> int:
        now = self._wall()
        if now < self._last:
            return self._last
        self._last = now
        return now

    def sent_at(self, user: int, seen: int | None = None) -> int:
        """See the module. What `user` sends next may have the same time (positions keep the order then), never an earlier
        one."""
        now = at = self.now()
        above = self._users.get(user)
        if above is not None and above > at:
            at = above
        if seen is not None and seen >= at:
            at = max(at, min(seen, now + self._ahead) + 1)
        if at > now:
            self._keep(user, at)
        return at

    def is_ahead(self, sent_at: int) -> bool:
        """Must `shown` be told of it? What lies behind the wall clock is forgotten anyway."""
        return sent_at >= self._last

    def shown(self, users: Iterable[int], sent_at: int) -> None:
        """A message of this time was shown to these users: what they send next is above it."""
        if not self.is_ahead(sent_at):
            return
        for user in users:
            if self._users.get(user, 0) <= sent_at:
                self._keep(user, sent_at + 1)

    def _keep(self, user: int, at: int) -> None:
        users = self._users
        users[user] = at
        if len(users) > self._prune_at:
            now = self._last
            self._users = {u: t for u, t in users.items() if t > now}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._users))
