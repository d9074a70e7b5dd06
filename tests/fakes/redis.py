"""A Redis in memory: the commands that the project uses.

    redis = FakeRedis()
    redis.away = True              # every pipeline raises PartAway
    redis.restart(lose=True)       # another run id; the data gone

Keys expire by trio's clock, so that tests with an autojump clock need not wait. Lua is not interpreted: a test registers a
Python function for the script's text: `redis.scripts[SCRIPT] = function(redis, keys, args)`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any

import trio

from chat.errors import BadData, PartAway
from chat.ports import Command

Value = bytes | dict[bytes, bytes] | set[bytes]
Script = Callable[["FakeRedis", list[bytes], list[bytes]], Any]


def _bytes(item: str | bytes | int | float) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


class FakeRedis:
    """ports.Memory."""

    def __init__(self) -> None:
        self.away = False
        self.data: dict[bytes, Value] = {}
        self.expires: dict[bytes, float] = {}  # trio's time
        self.scripts: dict[str, Script] = {}
        self.pipelines: list[list[Command]] = []  # every call
        self._run = 1

    # ---------------------------------------------------------------- for tests

    def restart(self, *, lose: bool = False) -> None:
        self._run += 1
        if lose:
            self.data.clear()
            self.expires.clear()

    # ---------------------------------------------------------------- ports.Memory

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise PartAway("redis", "away")
        self.pipelines.append(list(commands))
        return [self.execute(*command) for command in commands]

    async def run_id(self) -> str:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise PartAway("redis", "away")
        return f"run-{self._run}"

    def execute(self, name: str | bytes | int | float, *args: str | bytes | int | float) -> Any:
        """One command; a BadData in place of a reply where Redis answers an error."""
        self._sweep()
        word = _bytes(name).decode().upper()
        method = getattr(self, f"_{word.lower()}", None)
        if method is None:
            return BadData("redis", f"ERR unknown command '{word}'")
        if word == "EVAL":
            return self._eval(str(args[0]), *map(_bytes, args[1:]))
        try:
            return method(*map(_bytes, args))
        except BadData as error:
            return error
        except TypeError:
            return BadData("redis", f"ERR wrong number of arguments for '{word.lower()}' command")
        except ValueError:
            return BadData("redis", "ERR value is not an integer or out of range")

    # ---------------------------------------------------------------- inside

    def _sweep(self) -> None:
        if self.expires:
            now = trio.current_time()
            for key in [k for k, at in self.expires.items() if at <= now]:
                self._del(key)

    def _typed(self, key: bytes, kind: type, *, make: bool = False) -> Any:
        value = self.data.get(key)
        if value is None:
            value = kind()
            if make:
                self.data[key] = value
        if not isinstance(value, kind):
            raise BadData("redis", "WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _tidy(self, key: bytes) -> None:
        if not self.data.get(key, b"-"):
            self._del(key)

    # ---------------------------------------------------------------- strings and keys

    def _ping(self) -> bytes:
        return b"PONG"

    def _get(self, key: bytes) -> bytes | None:
        return self._typed(key, bytes) if key in self.data else None

    def _mget(self, *keys: bytes) -> list[bytes | None]:
        found = [self.data.get(key) for key in keys]
        return [value if isinstance(value, bytes) else None for value in found]

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        words = [o.upper() for o in options]
        if (b"NX" in words and key in self.data) or (b"XX" in words and key not in self.data):
            return None
        self.data[key] = value
        self.expires.pop(key, None)
        for unit, seconds in ((b"PX", 0.001), (b"EX", 1.0)):
            if unit in words:
                self.expires[key] = trio.current_time() + int(options[words.index(unit) + 1]) * seconds
        return b"OK"

    def _incr(self, key: bytes) -> int:
        value = int(self._get(key) or 0) + 1
        self.data[key] = b"%d" % value
        return value

    def _del(self, *keys: bytes) -> int:
        for key in keys:
            self.expires.pop(key, None)
        return sum(self.data.pop(key, None) is not None for key in keys)

    _unlink = _del

    def _exists(self, *keys: bytes) -> int:
        return sum(key in self.data for key in keys)

    def _pexpire(self, key: bytes, ms: bytes) -> int:
        if key not in self.data:
            return 0
        self.expires[key] = trio.current_time() + int(ms) / 1000
        return 1

    def _expire(self, key: bytes, seconds: bytes) -> int:
        return self._pexpire(key, b"%d" % (int(seconds) * 1000))

    def _pttl(self, key: bytes) -> int:
        if key not in self.data:
            return -2
        return int((self.expires[key] - trio.current_time()) * 1000) if key in self.expires else -1

    def _scan(self, cursor: bytes, *options: bytes) -> list[Any]:
        words = [o.upper() for o in options]
        pattern = options[words.index(b"MATCH") + 1].decode() if b"MATCH" in words else "*"
        return [b"0", [key for key in self.data if fnmatchcase(key.decode(), pattern)]]

    # ---------------------------------------------------------------- hashes

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        if not pairs or len(pairs) % 2:
            raise TypeError
        table = self._typed(key, dict, make=True)
        new = {pairs[i]: pairs[i + 1] for i in range(0, len(pairs), 2)}
        added = len(new.keys() - table.keys())
        table.update(new)
        return added

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._typed(key, dict).get(field)  # type: ignore[no-any-return]

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        table = self._typed(key, dict)
        return [table.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [item for pair in self._typed(key, dict).items() for item in pair]

    def _hkeys(self, key: bytes) -> list[bytes]:
        return list(self._typed(key, dict))

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        table = self._typed(key, dict)
        gone = sum(table.pop(field, None) is not None for field in fields)
        self._tidy(key)
        return gone

    def _hlen(self, key: bytes) -> int:
        return len(self._typed(key, dict))

    def _hexists(self, key: bytes, field: bytes) -> int:
        return int(field in self._typed(key, dict))

    # ---------------------------------------------------------------- sets

    def _sadd(self, key: bytes, *members: bytes) -> int:
        found = self._typed(key, set, make=True)
        before = len(found)
        found.update(members)
        return len(found) - before

    def _srem(self, key: bytes, *members: bytes) -> int:
        found = self._typed(key, set)
        before = len(found)
        found.difference_update(members)
        gone = before - len(found)
        self._tidy(key)
        return gone

    def _smembers(self, key: bytes) -> list[bytes]:
        return sorted(self._typed(key, set))

    def _scard(self, key: bytes) -> int:
        return len(self._typed(key, set))

    def _sismember(self, key: bytes, member: bytes) -> int:
        return int(member in self._typed(key, set))

    # ---------------------------------------------------------------- scripts

    def _eval(self, script: str, count: bytes, *rest: bytes) -> Any:
        function = self.scripts.get(script)
        if function is None:
            raise NotImplementedError("register the script's meaning: redis.scripts[script] = function")
        keys, args = list(rest[: int(count)]), list(rest[int(count) :])
        try:
            return function(self, keys, args)
        except BadData as error:
            return error


@asynccontextmanager
async def open_fake_memory() -> AsyncIterator[FakeRedis]:
    yield FakeRedis()
