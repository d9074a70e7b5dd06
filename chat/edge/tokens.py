"""Tokens: 32 random bytes for the client, their SHA-256 for MySQL and Redis.

MySQL is the truth. `session:<hash>` in Redis holds the same and what a log-in found, so that a client can resume while
MySQL is away; a token that was ended leaves the tombstone `gone` there, which a slow reader's write-back (SET NX) cannot
overwrite.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec
import structlog
import trio
from msgspec import Struct

from chat.errors import PartAway, PartError
from chat.persist.queries import places
from chat.ports import Command, Memory, Statement

log = structlog.get_logger()

GONE: Final = "gone"
DAY_MS: Final = 86_400_000
PURGED_AT_ONCE: Final = 1_000
AWAY_S: Final = 1.0  # Redis is left alone for reads after one that failed
TOMBSTONE_MS: Final = DAY_MS  # longer than any reader can be between MySQL and its write-back

#: KEYS: the entry. ARGV: what was read, what it becomes, its life in ms. Only what was read is replaced.
_REPLACE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 0"


class Entry(Struct, frozen=True, kw_only=True):
    """What Redis keeps of a token. `at`: when it was written, ms."""

    user: int
    name: str
    device: str
    expires_at: int
    groups: list[int] = []
    blocked_by: list[int] = []
    cursors: dict[str, int] = {}
    at: int = 0


class Read(Struct, frozen=True):
    """An entry as it was found, with its bytes for the exchange."""

    entry: Entry
    raw: bytes


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


def new_token() -> str:
    """43 characters of base64url."""
    return secrets.token_urlsafe(32)


def hash_of(token: str) -> bytes:
    return sha256(token.encode()).digest()


class Tokens:
    def __init__(self, memory: Memory, prefix: str, days: int) -> None:
        self._memory = memory
        self._prefix = f"{prefix}session:"
        self.life_ms = days * DAY_MS
        self._away_until = 0.0  # trio's time: not everyone has to wait for a Redis that hangs

    def _key(self, token_hash: bytes) -> str:
        return self._prefix + token_hash.hex()

    def needs_extending(self, expires_at: int, now: int) -> bool:
        """Not at every resume: when a day of its life is used (an hour, where it lives for a day)."""
        return expires_at - now < self.life_ms - min(DAY_MS, self.life_ms // 24)

    async def cached(self, hashes: Sequence[bytes]) -> list[Read | Literal["gone"] | None]:
        """What Redis knows of each. Raises PartError."""
        if trio.current_time() < self._away_until:
            raise PartAway("redis", "away a moment ago")
        try:
            replies = await self._memory.pipeline([("GET", self._key(h)) for h in hashes])
        except PartAway:
            self._away_until = trio.current_time() + AWAY_S
            raise
        found: list[Read | Literal["gone"] | None] = []
        for reply in replies:
            if not isinstance(reply, bytes):
                found.append(None)
            elif reply == b"gone":
                found.append("gone")
            else:
                try:
                    found.append(Read(_decode(reply), reply))
                except msgspec.DecodeError:
                    found.append(None)  # another version wrote it; MySQL knows
        return found

    async def keep(self, entries: Mapping[bytes, tuple[Read | None, Entry]]) -> None:
        """Write entries: new ones where there is none (a tombstone stays), others in exchange for what was read. Best
        effort: it is not the only copy."""
        if trio.current_time() < self._away_until:
            return
        commands: list[Command] = []
        for token_hash, (before, entry) in entries.items():
            key, life = self._key(token_hash), entry.expires_at - entry.at
            if life <= 0:
                continue
            if before is None:
                commands.append(("SET", key, _encode(entry), "NX", "PX", life))
            else:
                commands.append(("EVAL", _REPLACE, 1, key, before.raw, _encode(entry), life))
        await self._try(commands, "token_not_cached")

    async def bury(self, hashes: Collection[bytes], life_ms: int = TOMBSTONE_MS) -> bool:
        """Leave tombstones. False where Redis did not take them."""
        return await self._try([("SET", self._key(h), GONE, "PX", life_ms) for h in hashes], "token_not_buried")

    async def _try(self, commands: Sequence[Command], event: str) -> bool:
        if not commands:
            return True
        try:
            replies = await self._memory.pipeline(commands)
        except PartError as error:
            log.warning(event, why=error.message)
            return False
        for reply in replies:
            if isinstance(reply, PartError):
                log.warning(event, why=reply.message)
                return False
        return True


# ------------------------------------------------------------------ MySQL


def insert_if(token_hash: bytes, *, user: int, device: str, now: int, expires_at: int, password: str) -> Statement:
    """The new token, if the password is still the one that was checked: a change of it under way is waited for (the lock),
    so that no token of the old password outlives it. Changes one row or raises Conflict."""
    return Statement(
        "INSERT INTO tokens (hash, user, device, created_at, expires_at) SELECT %s, id, %s, %s, %s FROM users"
        " WHERE id = %s AND password = %s AND banned_at IS NULL LOCK IN SHARE MODE",
        (token_hash, device, now, expires_at, user, password),
        changes=1,
    )


def select(hashes: Collection[bytes]) -> Statement:
    """(hash, user, device, expires_at) of those that exist."""
    return Statement(f"SELECT hash, user, device, expires_at FROM tokens WHERE hash IN ({places(hashes)})", tuple(hashes))


def select_others(user: int, but: bytes) -> Statement:
    return Statement("SELECT hash FROM tokens WHERE user = %s AND hash <> %s", (user, but))


def delete_others(user: int, but: bytes) -> Statement:
    return Statement("DELETE FROM tokens WHERE user = %s AND hash <> %s", (user, but))


def delete(token_hash: bytes) -> Statement:
    return Statement("DELETE FROM tokens WHERE hash = %s", (token_hash,))


def extend(hashes: Collection[bytes], expires_at: int) -> Statement:
    return Statement(
        f"UPDATE tokens SET expires_at = %s WHERE hash IN ({places(hashes)}) AND expires_at < %s",
        (expires_at, *hashes, expires_at),
    )


def purge(now: int) -> Statement:
    """Some of those that have expired."""
    return Statement("DELETE FROM tokens WHERE expires_at < %s LIMIT %s", (now, PURGED_AT_ONCE))
