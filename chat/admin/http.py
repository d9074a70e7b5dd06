"""`/metrics`, `/healthz` and `/readyz` for every role: a GET, one answer, the connection is closed.

await nursery.start(serve_http, "127.0.0.1:9100", registry, ready)
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_MAX_HEAD = 8_192
_PATIENCE_S = 5.0
_AT_A_TIME = 16


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


async def serve_http(
    address: str,
    registry: CollectorRegistry,
    ready: Callable[[], str],
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; starts with the port. `ready` says why the role is not ready; empty: it is."""
    host, port = split_address(address)
    listeners = await trio.open_tcp_listeners(port, host=host)
    limit = trio.CapacityLimiter(_AT_A_TIME)

    async def handle(stream: trio.SocketStream) -> None:
        with trio.move_on_after(_PATIENCE_S):
            async with stream, limit:
                try:
                    await stream.send_all(_answer(await _head(stream), registry, ready))
                except trio.BrokenResourceError:
                    return  # whoever asked has gone

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


async def _head(stream: trio.SocketStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
        data = await stream.receive_some(4_096)
        if not data:
            break
        head += data
    return head


def _answer(head: bytes, registry: CollectorRegistry, ready: Callable[[], str]) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    kind = "text/plain; charset=utf-8"
    if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b"GET only\n"
    elif words[1] == b"/metrics":
        status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
    elif words[1] == b"/healthz":
        status, body = "200 OK", b"ok\n"
    elif words[1] == b"/readyz":
        why = ready()
        status, body = ("503 Service Unavailable", why.encode() + b"\n") if why else ("200 OK", b"ready\n")
    else:
        status, body = "404 Not Found", b"/metrics /healthz /readyz\n"
    top = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return top.encode() + (b"" if words[0] == b"HEAD" else body)
