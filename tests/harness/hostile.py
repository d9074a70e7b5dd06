"""A network that breaks: a TCP proxy that stalls, dribbles, cuts in the middle of a frame, and resets.

proxy = HostileProxy("127.0.0.1:7000", Random(seed))
await nursery.start(proxy.run)
…CheckOptions(servers=[proxy.address])…
proxy.calm = True                       # from here on it only passes on
"""

from __future__ import annotations

import socket
import struct
from functools import partial
from random import Random
from typing import Final

import trio

_CHUNK: Final = 16_384
_CALM_S: Final = (0.5, 5.0)  # a connection is left alone for so long before each blow
_SHORT_STALL_S: Final = (0.1, 3.0)  # below what heartbeats forgive
_LONG_STALL_S: Final = 8.0  # above it
_DRIBBLE_S: Final = 1.0


class HostileProxy:
    """Passes connections on to `target` (host:port), and does one of its blows to each of them now and then."""

    def __init__(self, target: str, random: Random, calm: bool = False) -> None:
        self.target = target
        self.random = random
        self.calm = calm
        self.address = ""
        self.blows: dict[str, int] = {}
        self._links: set[_Link] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen on a free port until cancelled."""
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(serve)
            self.address = "127.0.0.1:{1}".format(*listeners[0].socket.getsockname())
            task_status.started()

    def cut_all(self) -> None:
        """Every connection, in the middle of whatever it does."""
        for link in list(self._links):
            link.end(reset=True)

    async def stall_all(self, seconds: float) -> None:
        """Nothing gets through, either way, and nobody is told."""
        async with trio.open_nursery() as nursery:
            for link in list(self._links):
                nursery.start_soon(link.stall, seconds, "both")

    async def _serve(self, client: trio.SocketStream) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            edge = await trio.open_tcp_stream(host, int(port))
        except OSError:
            _reset(client)
            await client.aclose()
            return
        async with client, edge:
            link = _Link(client, edge)
            self._links.add(link)
            try:
                with link.scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(link.pass_on, client, edge)
                        nursery.start_soon(link.pass_on, edge, client)
                        nursery.start_soon(self._torment, link)
            finally:
                self._links.discard(link)

    async def _torment(self, link: _Link) -> None:
        while True:
            await trio.sleep(self.random.uniform(*_CALM_S))
            if self.calm:
                return
            blow = self.random.choice(("stall", "stall", "long stall", "dribble", "cut", "cut in a frame", "reset"))
            self.blows[blow] = self.blows.get(blow, 0) + 1
            match blow:
                case "stall":
                    await link.stall(self.random.uniform(*_SHORT_STALL_S), self.random.choice(("up", "down", "both")))
                case "long stall":
                    await link.stall(_LONG_STALL_S, self.random.choice(("up", "down", "both")))
                case "dribble":
                    link.dribble = True
                    await trio.sleep(_DRIBBLE_S)
                    link.dribble = False
                case "cut in a frame":
                    link.cut_after = self.random.randrange(1, 40)
                case _:
                    link.end(reset=blow == "reset")


class _Link:
    """A client's connection and its other half."""

    def __init__(self, client: trio.SocketStream, edge: trio.SocketStream) -> None:
        self.client, self.edge = client, edge
        self.scope = trio.CancelScope()
        self.dribble = False
        self.cut_after: int | None = None  # so many bytes go through, in one direction, and then none
        self._open = {client: trio.Event(), edge: trio.Event()}
        for event in self._open.values():
            event.set()

    def end(self, reset: bool) -> None:
        if reset:
            for stream in (self.client, self.edge):
                _reset(stream)
        self.scope.cancel()

    async def stall(self, seconds: float, direction: str) -> None:
        """Nothing of what comes is read: what is written at the other end piles up in the kernel."""
        held = {"up": [self.client], "down": [self.edge], "both": [self.client, self.edge]}[direction]
        for stream in held:
            self._open[stream] = trio.Event()
        await trio.sleep(seconds)
        for stream in held:
            self._open[stream].set()

    async def pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(_CHUNK):
                await self._open[source].wait()
                if self.cut_after is not None:
                    await sink.send_all(data[: self.cut_after])
                    break
                if self.dribble:
                    for at in range(len(data)):
                        await sink.send_all(data[at : at + 1])
                else:
                    await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Closing it says RST, and forgets what was on the way."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
