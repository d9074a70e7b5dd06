"""Is a server ready? One short exchange in its own protocol; no driver, nothing kept open."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Final

import trio

#: Awaited until it says True; never raises for a server that is not there yet.
Check = Callable[[], Awaitable[bool]]

SECONDS: Final = 2.0


async def exchange(address: str, request: bytes, least: int) -> bytes:
    """Connect, send, and read at least `least` bytes; fewer where the other side closes, or is not there in time."""
    host, _, port = address.rpartition(":")
    answer = b""
    with trio.move_on_after(SECONDS):
        try:
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream:
                await stream.send_all(request)
                while len(answer) < least and (more := await stream.receive_some()):
                    answer += more
        except (OSError, trio.BrokenResourceError):
            pass
    return answer


async def kafka_ready(address: str) -> bool:
    """ApiVersions, version 0: answered by a broker that serves."""
    body = struct.pack(">hhih", 18, 0, 1, -1)  # api key, version, correlation id, no client id
    answer = await exchange(address, struct.pack(">i", len(body)) + body, 10)
    return len(answer) >= 10 and struct.unpack(">iih", answer[:10])[1:] == (1, 0)


async def redis_ready(address: str) -> bool:
    """PONG; while it loads its file it says -LOADING."""
    return (await exchange(address, b"PING\r\n", 7)).startswith(b"+PONG")


async def mysql_ready(address: str) -> bool:
    """The greeting of protocol 10; a refusal begins with 0xff."""
    answer = await exchange(address, b"", 5)
    return len(answer) >= 5 and answer[4] == 10


async def port_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with trio.move_on_after(SECONDS):
        try:
            await (await trio.open_tcp_stream(host, int(port))).aclose()
        except OSError:
            return False
        return True
    return False


async def until(check: Check, pause: float = 0.1) -> None:
    """Return when the check says True. Cancel-safe; the caller sets the limit."""
    while not await check():  # noqa: ASYNC110 - what is waited for happens in another process
        await trio.sleep(pause)
