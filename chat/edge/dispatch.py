"""From a frame to its handler, and from what the handler returns or raises to the answer: timing, metrics, errors.

FAST handlers run at once, in the reactor, and never wait. The others are tasks; how many run at a time is bounded per
connection and in all. A connection whose next frame cannot start yet is blocked: the frame waits at the head of its queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from chat.edge.connection import CLOSING, HEARTBEAT, HEARTBEAT_BODY, HELD, HELLO, LOGIN, OPEN, RUNNING, Connection
from chat.edge.context import Context, Handler, Handlers, Order
from chat.edge.limits import AddressTable, is_loopback
from chat.errors import ChatError, Goodbye, PartError, ProtocolError, Unavailable
from chat.metrics import EdgeMetrics
from chat.protocol import AnyRequest, ChangePassword, Error, Frame, Hello, Login, Register, Resume, Send, decode_request

READS: Final = 8  # READ tasks of one connection at a time
TASKS: Final = 2_000  # tasks in all, log-ins left out
OPENINGS: Final = 1_000  # log-ins: syncs that wait for persist do not keep them waiting
WAITS: Final = 3  # things that a FAST handler may have to wait for, one after the other
UNPARK: Final = 8  # connections that try again when a task ends: not all of theirs may need a place
OPENING_TYPES: Final = (Hello, Register, Login, Resume)
#: Requests that try a password or a token.
TRIES: Final = (Login, Resume, ChangePassword)
#: Requests that cost nothing worth a token: an `ack` is a dict entry.
UNLIMITED: Final = frozenset({"send", "ack", "heartbeat", "goodbye"})
#: Codes that do not count as bad requests before log-in.
PARDONED: Final = frozenset({"bad_credentials", "token_expired", "rate_limited", "unavailable"})

_log = structlog.get_logger()


class Later(Exception):
    """Raised by a FAST handler before it has changed anything: run it again when `wait` has returned. What is behind it on
    the connection waits. `wait` raises what the client is to be told."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self.wait = wait


class Places:
    """A bounded number of tasks, and the connections whose next request waits for a place."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.parked: deque[Connection] = deque()

    def unpark(self) -> None:
        """Some of those who wait try again: no more than there are places for, and none that is gone."""
        left = min(UNPARK, self.most - self.taken)
        while left > 0 and self.parked:
            conn = self.parked.popleft()
            if conn.state < CLOSING and conn.blocked & HELD:
                conn.unblock(HELD)
                left -= 1


class Dispatch:
    def __init__(self, handlers: Handlers, metrics: EdgeMetrics, login_tries_per_minute: int) -> None:
        self._handlers = handlers
        self._metrics = metrics
        self._timers = {t: metrics.requests.labels(h_name(t)) for t in handlers}
        self._free = frozenset(t for t in handlers if h_name(t) in UNLIMITED)  # these cost no token
        self._tries = AddressTable(login_tries_per_minute)
        self._places = Places(TASKS)
        self._openings = Places(OPENINGS)
        self._nursery: trio.Nursery | None = None
        self._context: Context | None = None

    async def run(self, context: Context, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of slow requests until cancelled."""
        self._context = context
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @property
    def tasks(self) -> int:
        return self._places.taken + self._openings.taken

    def tick(self) -> None:
        """Once a heartbeat: who waits for a place is tried again, should no task have ended."""
        self._places.unpark()
        self._openings.unpark()

    # ------------------------------------------------------------------ one frame

    def frame(self, conn: Connection, body: bytes) -> None:
        """Run a whole frame of the connection, or start it, or hold it. Never raises for what a client sent."""
        conn.missed = 0
        if body == HEARTBEAT_BODY and conn.state >= LOGIN:
            conn.reactor.heartbeats += 1
            conn.write(HEARTBEAT)
            return
        try:
            request = decode_request(body)
        except ProtocolError as error:
            conn.fail(error, self.error_frame(error))
            return
        except ChatError as error:
            if conn.state == OPEN and "seq" in error.fields:
                self._ctx.intake.pin(conn, error.fields)
            self._refuse(conn, None, error)
            return
        handler = self._handlers.get(type(request))
        if handler is None:
            self._refuse(conn, request, ChatError("bad_request", "not offered by this edge"))
            return
        try:
            if conn.state != OPEN or type(request) in OPENING_TYPES:
                self._allowed(conn, request, handler)
            fast = handler.order is Order.FAST
            if not fast and not self._may_start(conn, handler, body):
                return
            if type(request) not in self._free:
                self._take_token(conn)
            if fast:
                reply = handler.run(self._ctx, conn, request)
                if reply is not None:
                    self._reply(conn, request, reply)  # type: ignore[arg-type]  # FAST: nothing to await
            else:
                self._start(conn, handler, request, None)
        except Later as later:
            self._start(conn, handler, request, later.wait)
        except ChatError as error:
            self._refuse(conn, request, error)
        except Exception:  # noqa: BLE001  # a fault of ours: the others are served on, and here nothing is sure any more
            _log.exception("request failed", type=h_name(type(request)))
            conn.close(Goodbye.OUTCOME_UNKNOWN, "the server has failed")

    @property
    def _ctx(self) -> Context:
        if self._context is None:
            raise RuntimeError("the dispatch does not run yet")
        return self._context

    def _allowed(self, conn: Connection, request: AnyRequest, handler: Handler) -> None:
        state = conn.state
        if state != OPEN:
            if state == HELLO:
                if type(request) is not Hello:
                    raise ChatError("bad_request", "hello comes first")
            elif type(request) is Hello:
                raise ChatError("bad_request", "a second hello")
            elif not handler.before_login:
                raise ChatError("not_logged_in", "log in first")
            if type(request) in OPENING_TYPES and not self._exempt(conn):
                wait = self._tries.wait(conn.address, conn.reactor.now())
                if wait:
                    raise ChatError("rate_limited", "too many tries from your address", retry_after_ms=int(wait * 1_000) + 1)
        else:
            raise ChatError("bad_request", "already logged in")

    @staticmethod
    def _take_token(conn: Connection) -> None:
        config = conn.reactor.config
        wait = conn.requests.take(conn.reactor.now(), config.requests_per_second, config.requests_burst)
        if wait:
            raise ChatError("rate_limited", "too many requests", retry_after_ms=int(wait * 1_000) + 1)

    @staticmethod
    def _exempt(conn: Connection) -> bool:
        return is_loopback(conn.address) and not conn.reactor.config.limit_loopback

    # ------------------------------------------------------------------ tasks

    def _may_start(self, conn: Connection, handler: Handler, body: bytes) -> bool:
        places = self._places_of(handler)
        if places.taken >= places.most:
            conn.hold(body)
            places.parked.append(conn)
            return False
        if handler.order is Order.READ and conn.reads >= READS:
            conn.hold(body)
            return False
        return True

    def _places_of(self, handler: Handler) -> Places:
        return self._openings if handler.order is Order.OPENING else self._places

    def _start(
        self, conn: Connection, handler: Handler, request: AnyRequest, wait: Callable[[], Awaitable[None]] | None
    ) -> None:
        if self._nursery is None:
            raise RuntimeError("the dispatch does not run yet")
        self._places_of(handler).taken += 1
        self._metrics.tasks.set(self.tasks)
        if handler.order is Order.READ:
            conn.reads += 1
        else:
            conn.blocked |= RUNNING
        self._nursery.start_soon(self._task, conn, handler, request, wait)

    async def _task(
        self, conn: Connection, handler: Handler, request: AnyRequest, wait: Callable[[], Awaitable[None]] | None
    ) -> None:
        begun = trio.current_time()
        try:
            self._reply(conn, request, await self._run(conn, handler, request, wait))
        except ChatError as error:
            self._refuse(conn, request, error)
        except PartError as error:
            self._refuse(conn, request, Unavailable(error.part))
        except Exception:  # noqa: BLE001  # a fault of ours in one request: told in full, and the other connections are served on
            _log.exception("request failed", type=h_name(type(request)))
            self._refuse(conn, request, Unavailable("edge", "the server has failed at this request"))
        finally:
            self._places_of(handler).taken -= 1
            self._timers[type(request)].observe(trio.current_time() - begun)
            self._metrics.tasks.set(self.tasks)
            self._done(conn, handler)

    async def _run(
        self, conn: Connection, handler: Handler, request: AnyRequest, wait: Callable[[], Awaitable[None]] | None
    ) -> Frame | bytes | None:
        for _ in range(WAITS):
            if wait is not None:
                await wait()
            try:
                reply = handler.run(self._ctx, conn, request)
                return await reply if isinstance(reply, Awaitable) else reply
            except Later as later:
                wait = later.wait
        raise Unavailable("edge")

    def _done(self, conn: Connection, handler: Handler) -> None:
        if handler.order is Order.READ:
            conn.reads -= 1
            conn.unblock(HELD)
        else:
            conn.unblock(RUNNING)
        conn.settled()
        self._places_of(handler).unpark()

    # ------------------------------------------------------------------ answers

    def _reply(self, conn: Connection, request: AnyRequest, reply: Frame | bytes | None) -> None:
        if reply is None:
            return
        if isinstance(reply, Frame) and request.rid is not None:
            reply.rid = request.rid  # type: ignore[attr-defined]  # every Reply has one
        conn.send(reply)
        if type(request) is Register:  # it has cost a hash, and a row
            self._tries.count(conn.address, conn.reactor.now())
        if conn.user and conn.state == LOGIN:
            conn.state = OPEN
            conn.cutter.limit = conn.reactor.config.max_frame

    def _refuse(self, conn: Connection, request: AnyRequest | None, error: ChatError) -> None:
        self._metrics.errors.labels(error.code).inc()
        frame = self.error_frame(error)
        if request is not None:
            frame.rid = request.rid
            if type(request) is Send:
                frame.to, frame.group, frame.stream, frame.seq = request.to, request.group, request.stream, request.seq
        if isinstance(error, ProtocolError):
            conn.fail(error, frame)
            return
        conn.send(frame)
        if type(request) is Register and error.code == "exists":  # else names are found by asking
            self._tries.count(conn.address, conn.reactor.now())
        if type(request) in TRIES and error.code in ("bad_credentials", "token_expired"):
            if error.code == "bad_credentials":  # a token is not to be guessed
                self._tries.count(conn.address, conn.reactor.now())
            conn.tries += 1
            if conn.tries >= conn.reactor.config.login_tries:
                conn.close(Goodbye.RATE, "too many tries to log in", 10_000)
        elif conn.state < OPEN and error.code not in PARDONED:
            conn.bad += 1
            if conn.bad >= conn.reactor.config.bad_before_login:
                conn.close(Goodbye.PROTOCOL, "too many bad requests")

    @staticmethod
    def error_frame(error: ChatError) -> Error:
        return Error(code=error.code, message=error.message, retriable=error.retriable, **error.fields)


def h_name(request: type[Frame]) -> str:
    """The `type` of a request's frames."""
    return str(request.__struct_config__.tag)
