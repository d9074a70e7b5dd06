"""Asking a supervisor: one JSON object a line, one answer.

    {"do": "scale", "edges": 3}            any of edges, routers, persists
    {"do": "restart", "names": ["edge-1"]} one after the other, each ready before the next is stopped
    {"do": "stop", "now": false}           now: the services are not given the time to drain
    answer: {"ok": true} or {"error": "why not"}

Status needs no asking: it is in the state folder.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from chat.tools.state import State

log = structlog.get_logger()

Request = dict[str, Any]
SECONDS: Final = 5.0
MAX_LINE: Final = 65_536


async def ask(state: State, request: Request) -> Request | None:
    """None: nobody answers in a few seconds."""
    with trio.move_on_after(SECONDS):
        try:
            with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                await sock.connect(state.control_address())
                stream = trio.SocketStream(sock)
                await stream.send_all(json.dumps(request).encode() + b"\n")
                line = await _line(stream)
            return dict(json.loads(line)) if line else None
        except (OSError, trio.BrokenResourceError):
            return None
    return None


async def serve_control(state: State, handle: Callable[[Request], Request]) -> None:
    """Answer until cancelled. Only the same user and root are heard: an abstract address has no permissions."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        await listener.bind(state.control_address())
        listener.listen(16)
        while True:
            connection, _ = await listener.accept()
            async with trio.SocketStream(connection) as stream:
                with trio.move_on_after(SECONDS):
                    if _peer(connection) in (0, os.geteuid()):
                        await _answer(stream, handle)


async def _answer(stream: trio.SocketStream, handle: Callable[[Request], Request]) -> None:
    try:
        request = json.loads(await _line(stream))
        await stream.send_all(json.dumps(handle(request)).encode() + b"\n")
    except (ValueError, trio.BrokenResourceError) as error:
        log.warning("control_request", error=repr(error))


def _peer(connection: trio.socket.SocketType) -> int:
    """The user at the other end; see unix(7), SO_PEERCRED."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


async def _line(stream: trio.SocketStream) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE and (more := await stream.receive_some()):
        line += more
    return line
