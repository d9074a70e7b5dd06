"""Redis, in RESP2, over trio's own sockets: no asyncio, so no bridge to cross.

redis-py reads the URL, hiredis (its parser) packs the commands and parses the replies; what is left is one write and the
reads until every reply is there. A pipeline of 20 commands costs 0.12 ms of CPU; a bare connection of redis.asyncio under
trio-asyncio takes 0.45, its `Pipeline` 1.5, and the router makes one per cycle.

A connection that failed or timed out is thrown away. One that the server closed while it lay idle is noticed before it is
used. A pipeline is shielded from cancellation until its time-out: a command that is on its way while the caller goes on
could overtake the caller's next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import hiredis
import structlog
import trio
from redis.connection import UnixDomainSocketConnection, parse_url

from chat.bridge.link import Link, turn
from chat.config import RedisConfig
from chat.errors import BadData, PartAway, PartError
from chat.ports import Command

_log = structlog.get_logger(__name__)

_READ_BYTES: Final = 65_536
#: First words of error replies that say "not now" or "not here".
_AWAY: Final = frozenset(
    {
        "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "OOM", "NOREPLICAS", "MISCONF", "MOVED",
        "ASK", "NOAUTH", "WRONGPASS", "NOPERM", "EXECABORT", "UNKILLABLE",
    }
)  # fmt: skip
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]


def translate(reply: Exception) -> PartError:
    said = str(reply)
    return PartAway("redis", said) if said.split(" ", 1)[0] in _AWAY else BadData("redis", said)


@contextmanager
def redis_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, hiredis.ProtocolError) as error:
        raise PartAway("redis", str(error) or type(error).__name__) from error


class Address:
    """What a URL says, by redis-py's rules: redis://[[user]:password@]host[:port][/db], unix://[[user]:password@]/path[?db=n].
    Raises ValueError; TLS (rediss://) is not spoken here."""

    def __init__(self, url: str) -> None:
        try:
            said: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise ValueError(f"not a redis URL: {url!r}: {error}") from None
        if "connection_class" in said and not issubclass(said["connection_class"], UnixDomainSocketConnection):
            raise ValueError(f"not a redis URL that is spoken here (redis:// or unix://): {url!r}")
        self.path: str | None = said.get("path")
        self.host: str = said.get("host", "localhost")
        self.port: int = said.get("port", 6379)
        self.hello: list[Command] = []
        if "password" in said:
            user = (said["username"],) if "username" in said else ()
            self.hello.append(("AUTH", *user, said["password"]))
        if said.get("db"):
            self.hello.append(("SELECT", said["db"]))

    async def connect(self) -> Link:
        return await Link.unix(self.path) if self.path is not None else await Link.tcp(self.host, self.port)


class _Connection:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._reader = hiredis.Reader(notEnoughData=...)
        self.stale = link.stale
        self.close = link.close

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        await self._link.send(b"".join(map(_pack, commands)))
        replies: list[Any] = []
        gets = self._reader.gets
        while True:
            while (reply := gets()) is not ...:
                replies.append(reply)
            if len(replies) >= len(commands):
                return replies
            self._reader.feed(await self._link.receive(_READ_BYTES))


class RedisMemory:
    """ports.Memory. Open it with `open_memory`. Many tasks may use it. Connects when it is used."""

    def __init__(self, config: RedisConfig) -> None:
        self._address = Address(config.url)
        self._seconds = config.timeout_ms / 1000
        self._slots = trio.Semaphore(config.connections)
        self._idle: list[_Connection] = []

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            await trio.lowlevel.checkpoint()
            return []
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline = trio.current_time() + self._seconds
        with trio.CancelScope(deadline=deadline):
            async with turn(self._slots):
                with trio.CancelScope(deadline=deadline, shield=True), redis_errors():
                    return await self._run(commands)
        raise PartAway("redis", f"no answer within {self._seconds:g} s")

    async def run_id(self) -> str:
        (reply,) = await self.pipeline([("INFO", "server")])
        if isinstance(reply, PartError):
            raise reply
        for line in reply.decode().splitlines():
            if line.startswith("run_id:"):
                return str(line.removeprefix("run_id:"))
        raise BadData("redis", "INFO names no run_id")

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._take()
        try:
            replies = await connection.run(commands)
        except BaseException:
            connection.close()
            raise
        lost = False
        for index, reply in enumerate(replies):
            if isinstance(reply, Exception):
                replies[index] = error = translate(reply)
                lost = lost or str(reply).startswith(("READONLY", "NOAUTH"))  # a replica now: ask for the address anew
                _log.debug("redis_refused", command=str(commands[index][0]), error=error.message)
        if lost:
            connection.close()
        else:
            self._idle.append(connection)
        return replies

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale():
                return connection
            connection.close()
        connection = _Connection(await self._address.connect())
        try:
            for reply in await connection.run(self._address.hello) if self._address.hello else []:
                if isinstance(reply, Exception):
                    raise PartAway("redis", str(reply))
        except BaseException:
            connection.close()
            raise
        _log.debug("redis_connected")
        return connection


@asynccontextmanager
async def open_memory(config: RedisConfig) -> AsyncIterator[RedisMemory]:
    memory = RedisMemory(config)
    try:
        yield memory
    finally:
        memory.close()
