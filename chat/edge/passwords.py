"""Passwords: argon2id, in worker threads, a few at a time, with a bounded waiting room.

Parameters: 19 MiB, 2 passes, 1 lane, the smallest of OWASP's recommended settings (Password Storage Cheat Sheet), since
here every log-in by password costs the edge a thread; about 25 ms each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chat.errors import ChatError

T = TypeVar("T")

WAITING_EACH = 64  # who may wait, per hasher


class Passwords:
    def __init__(self, hashers: int, *, time_cost: int = 2, memory_kib: int = 19_456) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._limit = trio.CapacityLimiter(hashers)
        self._room = hashers * (1 + WAITING_EACH)
        self._inside = 0
        #: Checked where there is no such user, so that the time does not tell.
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """A PHC string. Raises rate_limited when too many wait."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Does `password` fit the PHC string? With None it works as long and says no. Raises rate_limited."""

        def check() -> bool:
            try:
                return self._hasher.verify(stored if stored is not None else self._nobody, password) and stored is not None
            except (VerificationError, InvalidHashError):
                return False

        return await self._in_thread(check)

    def outdated(self, stored: str) -> bool:
        """Was it made with other parameters?"""
        return self._hasher.check_needs_rehash(stored)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._inside >= self._room:
            raise ChatError("rate_limited", "too many log-ins at once", retry_after_ms=2_000)
        self._inside += 1
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limit)
        finally:
            self._inside -= 1
