"""A TCP or Unix connection for requests and replies, as cheap as trio allows: what can be sent or received at once is, and
only a wait goes through the scheduler (trio's own streams go through it at every call)."""

from __future__ import annotations

import math
import socket
import struct
from typing import Final

import trio

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing drops what is unsent


class turn:
    """`async with lock`, without a turn through the scheduler where it is free."""

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock | trio.Semaphore) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class Link:
    """One task at a time sends, one at a time receives. Raises OSError, or trio.ClosedResourceError once closed.

    Cancelling `receive` loses nothing. A cancelled `send` may have sent a part: close the link.
    """

    __slots__ = ("_socket", "closed")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.closed = False

    @classmethod
    async def tcp(cls, host: str, port: int) -> Link:
        stream = await trio.open_tcp_stream(host, port)
        found = socket.socket(fileno=stream.socket.detach())
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(found)

    @classmethod
    async def unix(cls, path: str) -> Link:
        stream = await trio.open_unix_socket(path)
        return cls(socket.socket(fileno=stream.socket.detach()))

    async def send(self, data: bytes, seconds: float = math.inf) -> None:
        """Raises trio.TooSlowError where it does not all go out within `seconds`."""
        sent = self._try_send(data)
        if sent == len(data):
            return
        with trio.fail_after(seconds):
            rest = memoryview(data)[sent:]
            while rest:
                await trio.lowlevel.wait_writable(self._socket)
                rest = rest[self._try_send(rest) :]

    def _try_send(self, data: bytes | memoryview) -> int:
        if self.closed:
            raise trio.ClosedResourceError
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def receive(self, most: int) -> bytes:
        """Between one and `most` bytes. Raises ConnectionResetError at the end."""
        while True:
            if self.closed:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(most)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                raise ConnectionResetError("closed by the other side")
            return data

    def stale(self) -> bool:
        """While no reply is due: the other side has closed it, or has said something that nobody asked for."""
        if self.closed:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """At once, without waiting; what is unsent is dropped. Wakes those who wait, with ClosedResourceError."""
        if not self.closed:
            self.closed = True
            if self._socket.family != socket.AF_UNIX:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
