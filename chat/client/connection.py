"""One TCP connection to an edge, directly or through nginx: opening, requests and their answers, heartbeats, its end.

    connection = await Connection.open("127.0.0.1:7000", on_events, nursery)     # welcomed
    logged_in = await connection.log_in(Login(...))
    answer = await connection.request(Friends())
    connection.post(Send(...))                                                   # no answer: in the order posted
    ended = await connection.wait_ended()                                        # says when to come back

What is no answer to a request goes to `on_events`, a list for each read from the socket, in the order received. It must not
wait; where the program cannot keep up, `gate` is awaited between two reads, and the edge feels it as a full TCP window.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import trio

from chat import protocol
from chat.errors import ChatError, Goodbye, ProtocolError
from chat.protocol import AnyEvent, AnyRequest

OPEN_TIMEOUT: Final = 10.0  # seconds for TCP, and again for `welcome`
REQUEST_TIMEOUT: Final = 10.0
MAX_UNSENT: Final = 4 << 20  # bytes waiting for the socket; above, the connection is given up
MAX_REQUESTS: Final = 64  # under way at a time; more wait
READ_SIZE: Final = 65_536

_HEARTBEAT: Final = protocol.frame(protocol.encode(protocol.Heartbeat()))

Reply = TypeVar("Reply", bound=protocol.Frame)


@dataclass(frozen=True)
class Ended:
    """Why a connection is over. `code` is that of the edge's `goodbye`, None when it came without one."""

    code: int | None
    reason: str
    retry_after: float = 0.0  # seconds

    @property
    def stay_away(self) -> bool:
        """The edge asked not to come back by oneself."""
        return self.code is not None and 1000 <= self.code < 2000

    def __str__(self) -> str:
        return self.reason if self.code is None else f"{self.code} {self.reason}"


class ConnectionLost(Exception):
    """The connection is over, or never was; `ended` says why. The outcome of what was under way is unknown."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


class RequestTimeout(Exception):
    """No answer in time. The connection may go on; the outcome is unknown."""


class _Waiting:
    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: AnyEvent | None = None


class Connection:
    """See the module. Made by `open`; all its tasks live in the nursery given there and end with the connection."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        on_events: Callable[[Sequence[AnyEvent]], None],
        gate: Callable[[], Awaitable[None]] | None,
        client: str,
    ) -> None:
        self.welcome: protocol.Welcome
        self.ended: Ended | None = None
        self._stream = stream
        self._on_events = on_events
        self._gate = gate
        self._client = client
        self._unsent = bytearray()
        self._wake = trio.Event()
        self._over = trio.Event()
        self._scope = trio.CancelScope()
        self._welcomed = trio.Event()
        self._requests: dict[int, _Waiting] = {}
        self._slots = trio.Semaphore(MAX_REQUESTS)
        self._next_rid = 1
        self._heard = self._spoke = trio.current_time()
        self._paused = False
        self._leave_at = float("inf")

    @classmethod
    async def open(
        cls,
        address: str,
        on_events: Callable[[Sequence[AnyEvent]], None],
        nursery: trio.Nursery,
        *,
        gate: Callable[[], Awaitable[None]] | None = None,
        client: str = "chat-cluster/0.1",
        within: float | None = None,
    ) -> Connection:
        """Connect to `address` (host:port) and exchange `hello` and `welcome`, each `within` seconds (OPEN_TIMEOUT). Raises
        ConnectionLost. Cancelling is safe."""
        host, _, port = address.rpartition(":")
        within = OPEN_TIMEOUT if within is None else within
        try:
            with trio.fail_after(within):
                stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
        except (OSError, trio.TooSlowError) as error:
            raise ConnectionLost(Ended(None, f"no connection to {address}: {error or 'timed out'}")) from None
        _tune(stream.socket)
        connection = cls(stream, on_events, gate, client)
        nursery.start_soon(connection._run)
        try:
            with trio.move_on_after(within) as scope:
                await connection._welcomed.wait()
        except BaseException:
            connection.abort("cancelled")
            raise
        if scope.cancelled_caught:
            connection.abort(f"no welcome from {address}")
        if connection.ended:
            raise ConnectionLost(connection.ended)
        return connection

    # -------------------------------------------------------------- use

    async def log_in(self, request: protocol.Login | protocol.Resume, within: float = 30.0) -> protocol.LoggedIn:
        """Raises what `request` raises: ChatError `bad_credentials` or `token_expired` when it is refused."""
        return await self.ask(request, protocol.LoggedIn, within)

    async def ask(self, request: AnyRequest, reply: type[Reply], within: float = REQUEST_TIMEOUT) -> Reply:
        """`request`, whose answer must be a `reply`."""
        answer = await self.request(request, within)
        if not isinstance(answer, reply):
            raise ChatError("bad_reply", f"{type(request).__name__} was answered by {type(answer).__name__}")
        return answer

    async def request(self, request: AnyRequest, within: float = REQUEST_TIMEOUT) -> AnyEvent:
        """Send `request` and return its answer. Raises ChatError (refused), RequestTimeout, ConnectionLost.
        Cancelling is safe; the outcome is then unknown, and a late answer is dropped."""
        async with self._slots:
            rid = self._next_rid
            self._next_rid += 1
            waiting = self._requests[rid] = _Waiting()
            try:
                self.post(msgspec.structs.replace(request, rid=rid))
                with trio.move_on_after(within):
                    await waiting.event.wait()
            finally:
                del self._requests[rid]
        if waiting.answer is None:
            if self.ended:
                raise ConnectionLost(self.ended)
            raise RequestTimeout(f"{type(request).__name__}: no answer within {within:g} s")
        if isinstance(waiting.answer, protocol.Error):
            raise refusal(waiting.answer)
        return waiting.answer

    def post(self, request: AnyRequest) -> None:
        """Queue a frame to be written. Raises ConnectionLost when the connection is over or reads nothing any more,
        ChatError `too_long` when the frame is above what the edge takes."""
        if self.ended:
            raise ConnectionLost(self.ended)
        body = protocol.encode(request)
        if self._welcomed.is_set() and len(body) > self.welcome.max_frame:
            raise ChatError("too_long", f"{len(body)} bytes; the edge takes at most {self.welcome.max_frame}")
        if len(self._unsent) > MAX_UNSENT:
            raise ConnectionLost(self._end(Ended(None, "the edge reads nothing")))
        self._unsent += protocol.frame(body)
        self._wake.set()

    async def wait_ended(self) -> Ended:
        await self._over.wait()
        assert self.ended
        return self.ended

    async def leave(self, within: float = 3.0) -> None:
        """Say goodbye and wait until the edge has closed, at most `within` seconds."""
        if not self.ended:
            self.post(protocol.LeaveNow())
            with trio.move_on_after(within):
                await self._over.wait()
        self.abort("left")

    def abort(self, reason: str) -> None:
        """End it here and now, without goodbye."""
        self._end(Ended(None, reason))

    # -------------------------------------------------------------- tasks

    async def _run(self) -> None:
        hello = protocol.Hello(version=protocol.VERSION, client=self._client)
        self._unsent += protocol.frame(protocol.encode(hello))
        try:
            with self._scope:
                async with self._stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._read)
                    await self._welcomed.wait()
                    nursery.start_soon(self._watch)
        finally:
            self._end(Ended(None, "cancelled"))

    async def _write(self) -> None:
        while True:
            while not self._unsent:
                self._wake = trio.Event()
                await self._wake.wait()
            data, self._unsent = self._unsent, bytearray()
            self._spoke = trio.current_time()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self._read_out()
                self._end(Ended(None, "the connection broke"))
                return

    async def _read_out(self) -> None:
        """The edge has closed; its goodbye may still be on the way to the reader."""
        with trio.move_on_after(1.0):
            await self._over.wait()

    async def _read(self) -> None:
        cutter = protocol.FrameCutter(protocol.MAX_FRAME_FROM_EDGE)
        while True:
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(Ended(None, f"the connection broke: {error.__cause__ or 'closed'}"))
                return
            if not data:
                self._end(Ended(None, "the edge closed the connection"))
                return
            self._heard = trio.current_time()
            cutter.feed(bytes(data))
            try:
                self._take([event for body in cutter if (event := _decode(body)) is not None])
            except (msgspec.DecodeError, ProtocolError) as error:
                self._end(Ended(None, f"what came is no frame: {error}"))
                return
            if self._gate:
                self._paused = True
                await self._gate()
                self._paused = False
                self._heard = max(self._heard, trio.current_time())

    def _take(self, events: Sequence[AnyEvent]) -> None:
        others = [event for event in events if not self._answered(event)]
        if others:
            self._on_events(others)
        for event in others:
            if isinstance(event, protocol.GoodbyeFrame):
                self._end(Ended(event.code, event.reason, (event.retry_after_ms or 0) / 1000))
            elif isinstance(event, protocol.Moved):
                self._leave_at = trio.current_time() + event.retry_after_ms / 1000

    def _answered(self, event: AnyEvent) -> bool:
        """True if `event` is an answer; the one whose question was given up is dropped."""
        if isinstance(event, protocol.HeartbeatReply):
            return True
        if isinstance(event, protocol.Welcome):
            self.welcome = event
            self._welcomed.set()
            return True
        rid = getattr(event, "rid", None)
        if type(rid) is not int:
            return False
        waiting = self._requests.get(rid)
        if waiting and waiting.answer is None:
            waiting.answer = event
            waiting.event.set()
        return True

    async def _watch(self) -> None:
        """Heartbeats both ways, and the end that `moved` sets."""
        interval = self.welcome.heartbeat_ms / 1000
        patience = interval * self.welcome.heartbeat_misses
        while True:
            now = trio.current_time()
            if now >= self._leave_at:
                self._end(Ended(Goodbye.MOVED, "moved"))
            elif now - self._heard > patience and not self._paused:
                self._end(Ended(None, f"nothing from the edge for {patience:g} s"))
            if self.ended:
                return
            # Also after silence of the edge: it answers heartbeats, so what is only slow to speak shows itself.
            if now - min(self._spoke, self._heard) >= interval * 0.99:
                self._spoke = now
                self._unsent += _HEARTBEAT
                self._wake.set()
            due = min(self._spoke + interval, self._leave_at)
            await trio.sleep(max(due - now, interval / 20))

    def _end(self, ended: Ended) -> Ended:
        if self.ended is None:
            self.ended = ended
            self._over.set()
            self._welcomed.set()
            for waiting in self._requests.values():
                waiting.event.set()
            self._scope.cancel()
        return self.ended


def refusal(error: protocol.Error) -> ChatError:
    """An `error` frame as the exception it stands for."""
    fields = {"retry_after_ms": error.retry_after_ms, "part": error.part}
    return ChatError(error.code, error.message, **{k: v for k, v in fields.items() if v is not None})


def _decode(body: bytes) -> AnyEvent | None:
    """None for a type that this version does not know: one may be added later."""
    try:
        return protocol.decode_event(body)
    except msgspec.ValidationError as error:
        if "at `$.type`" in str(error):
            return None
        raise


def _tune(sock: trio.socket.SocketType) -> None:
    """Find a dead peer even where heartbeats do not (a suspended program), as the edge does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
