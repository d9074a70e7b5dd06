"""The edge's I/O core: one epoll descriptor that holds all client sockets, inside trio. No task per connection.

A **turn** serves every ready socket with one non-blocking recv, runs the frames that came, and writes what they and
others queued: one send per connection. Each connection gets a bounded share of a turn; what is left comes in the **spill**,
a second task that takes turns with the first. While busy, a turn does not begin sooner than `TURN_S` after the one before:
thousands of heartbeats then share the cost of a wake-up. Up to some hundred turns a second, a frame waits for nothing.

Once a heartbeat a **tick** looks at every connection: missed heartbeats, deadlines (12,000 connections: 1 ms).
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
import trio

from chat.config import EdgeConfig
from chat.edge.connection import CLOSED, CLOSING, HEARTBEAT, HELLO, LINGER, OPEN, PROXY, Connection
from chat.edge.dispatch import Dispatch
from chat.edge.limits import Counts, is_loopback
from chat.errors import Goodbye
from chat.metrics import EdgeMetrics
from chat.protocol import GoodbyeFrame, encode, frame

TURN_S: Final = 0.002  # between turns, on average
TURNS_AT_ONCE: Final = 16  # may come sooner, where there were few before
EVENTS: Final = 512  # a turn
ACCEPTS: Final = 128  # a turn and listener
SPILL: Final = 256  # connections
ACCEPT_PAUSE_S: Final = 0.5  # no descriptors left
RETRY_MS: Final = 5_000  # of those turned away

_log = structlog.get_logger()


class Reactor:
    """`on_end(connection)` is called once for each connection that closes or begins to, before its socket is closed."""

    def __init__(
        self, config: EdgeConfig, dispatch: Dispatch, metrics: EdgeMetrics, on_end: Callable[[Connection], None]
    ) -> None:
        self.config = config
        self.dispatch = dispatch
        self.metrics = metrics
        self.connections: dict[int, Connection] = {}
        self.received_bytes = self.sent_bytes = self.heartbeats = 0
        self._on_end = on_end
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, int]] = {}  # fd → socket, first state of its connections
        self._listening = False
        self._closed = False
        self._accept_again = 0.0
        self._addresses = Counts()
        self._dirty: list[Connection] = []
        self._again: deque[Connection] = deque()
        self._held = 0  # inside a turn or a batch, whose end flushes
        self._wake = trio.Event()
        self._turns = 0

    # ------------------------------------------------------------------ life

    def listen(self, sock: socket.socket, *, proxied: bool) -> None:
        """Serve a listening socket; `proxied`: its connections begin with a PROXY header."""
        sock.setblocking(False)
        self._listeners[sock.fileno()] = (sock, PROXY if proxied else HELLO)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then close every socket."""
        try:
            self._accepting(True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._spill)
                nursery.start_soon(self._tick)
                task_status.started()
                await self._poll()
        finally:
            self.stop_accepting()
            for conn in list(self.connections.values()):
                conn.drop("the edge stops")
            self._epoll.close()

    def stop_accepting(self) -> None:
        """Close the listeners: the port refuses from now on."""
        self._closed = True
        self._accepting(False)
        for sock, _ in self._listeners.values():
            sock.close()
        self._listeners.clear()

    async def _poll(self) -> None:
        fd, credit, counted = self._epoll.fileno(), float(TURNS_AT_ONCE), trio.current_time()
        while True:
            await trio.lowlevel.wait_readable(fd)
            now = trio.current_time()
            credit, counted = min(TURNS_AT_ONCE, credit + (now - counted) / TURN_S), now
            if credit >= 1:
                credit -= 1
                self._turn()
                continue
            busy = True
            while busy:  # asking epoll costs less than waiting for it
                begun = trio.current_time()
                busy = self._turn()
                await trio.sleep_until(begun + TURN_S)
            counted = trio.current_time()

    async def _spill(self) -> None:
        """What turns left over, and what was queued outside of them."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._held += 1
            for _ in range(min(SPILL, len(self._again))):
                conn = self._again.popleft()
                conn.more = False
                if conn.state < CLOSING:
                    conn.serve()
            self.release()

    # ------------------------------------------------------------------ a turn

    def now(self) -> float:
        return trio.current_time()

    def hold(self) -> None:
        """What is queued from now on is written by `release`: around a batch, without a checkpoint between."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        if not self._held:
            self.flush()
            if self._again:
                self._wake.set()

    def _turn(self) -> bool:
        """False where nothing was ready."""
        events = self._epoll.poll(0, EVENTS)
        if not events:
            return False
        self._turns += 1
        self._held += 1
        connections = self.connections
        for fd, mask in events:
            conn = connections.get(fd)
            if conn is None:
                if fd in self._listeners:
                    self._accept(*self._listeners[fd])
                continue
            if mask & select.EPOLLOUT:
                conn.writable()
            if mask & select.EPOLLIN:
                if conn.state not in (CLOSING, CLOSED):
                    conn.readable()
            elif mask & (select.EPOLLERR | select.EPOLLHUP):
                conn.drop("the client is gone")
        self.release()
        return True

    def flush(self) -> None:
        """Write every outbox that has gained something."""
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for conn in dirty:
                conn.flush()

    def dirtied(self, conn: Connection) -> None:
        self._dirty.append(conn)
        if not self._held:
            self._wake.set()

    def again(self, conn: Connection) -> None:
        """Serve it again soon, though its socket may have nothing new."""
        if not conn.more:
            conn.more = True
            self._again.append(conn)
            if not self._held:
                self._wake.set()

    def interest(self, conn: Connection) -> None:
        """Tell epoll what the connection waits for."""
        if conn.state == CLOSED:
            return
        mask = select.EPOLLIN if conn.state == LINGER or (conn.state < CLOSING and not conn.paused) else 0
        if conn.stuck:
            mask |= select.EPOLLOUT
        if mask != conn.mask:
            conn.mask = mask
            self._epoll.modify(conn.fd, mask)

    # ------------------------------------------------------------------ connections come and go

    def _accepting(self, on: bool) -> None:
        if on != self._listening and not (on and self._closed):
            self._listening = on
            for fd in self._listeners:
                if on:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)

    def _accept(self, listener: socket.socket, state: int) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors or memory: those who wait stay in the backlog
                _log.warning("cannot accept", error=str(error), connections=len(self.connections))
                self._accept_again = self.now() + ACCEPT_PAUSE_S
                self._accepting(False)
                return
            try:
                self._take(sock, str(peer[0]) if peer else "", state)  # a Unix peer has no address
            except OSError as error:  # gone already, or more than epoll may watch
                _log.warning("a connection cannot be served", error=str(error))
                self.connections.pop(sock.fileno(), None)
                sock.close()

    def _take(self, sock: socket.socket, address: str, state: int) -> None:
        sock.setblocking(False)
        if len(self.connections) >= self.config.max_connections:
            self._turn_away(sock)
            return
        tune(sock)
        conn = Connection(self, sock, address, state, self.now())
        self.connections[conn.fd] = conn
        self._epoll.register(conn.fd, select.EPOLLIN)
        self.metrics.opened.inc()
        if state != PROXY:
            self.admit(conn, address)

    def _turn_away(self, sock: socket.socket) -> None:
        bye = GoodbyeFrame(
            code=int(Goodbye.TOO_MANY_CONNECTIONS),
            reason="this edge has all the connections it may have",
            retry_after_ms=RETRY_MS,
        )
        try:
            sock.send(frame(encode(bye)))
        except OSError as error:
            _log.debug("turned away", error=str(error))
        finally:
            sock.close()

    def admit(self, conn: Connection, address: str) -> bool:
        """The client's address is known: may it have one more connection?"""
        conn.address = address
        _log.debug("connection opened", address=address)
        if is_loopback(address) and not self.config.limit_loopback:
            return True
        conn.counted = True
        if self._addresses.add(address) > self.config.connections_per_address:
            conn.close(Goodbye.TOO_MANY_CONNECTIONS, "too many connections from your address", RETRY_MS)
            return False
        return True

    def ended(self, conn: Connection, code: int) -> None:
        if conn.counted:
            conn.counted = False
            self._addresses.remove(conn.address)
        self.metrics.closed.labels(code).inc()
        self._on_end(conn)

    def forget(self, conn: Connection) -> None:
        self._epoll.unregister(conn.fd)
        del self.connections[conn.fd]
        conn.sock.close()

    # ------------------------------------------------------------------ the tick

    async def _tick(self) -> None:
        period = self.config.heartbeat_ms / 1_000
        at = self.now()
        while True:
            at = max(at + period, self.now())
            await trio.sleep_until(at)
            self._held += 1
            self._look(self.now())
            self.dispatch.tick()
            self.release()
            if not self._listening and self._accept_again and self.now() >= self._accept_again:
                self._accept_again = 0.0
                self._accepting(True)
            self._tell()

    def _look(self, now: float) -> None:
        most = self.config.heartbeat_misses
        held = 0
        for conn in list(self.connections.values()):
            held += conn.queued
            if conn.ending is not None and conn.state < CLOSING:
                if now >= conn.deadline:
                    conn.settled(late=True)
            elif conn.state == OPEN:
                if conn.paused or conn.more:
                    conn.write(HEARTBEAT)  # we do not read, so we cannot answer; his are not counted as missed
                    if not conn.stuck:
                        continue
                conn.missed += 1
                if conn.missed > most:
                    conn.close(Goodbye.HEARTBEAT_MISSED, f"nothing heard for {most} heartbeats")
            elif now >= conn.deadline:
                if conn.state >= CLOSING:
                    conn.drop("the client does not close")
                elif not conn.blocked:  # else its log-in waits for us
                    conn.close(Goodbye.PROTOCOL, "no log-in in time")

        if held > self.config.outboxes_bytes:
            self._relieve(held)

    def _relieve(self, held: int) -> None:
        """Each outbox is bounded, and all together are: those with the most in theirs are closed."""
        for conn in sorted(self.connections.values(), key=lambda conn: conn.queued, reverse=True):
            if held <= self.config.outboxes_bytes:
                return
            held -= conn.queued
            conn.shed()

    def _tell(self) -> None:
        metrics = self.metrics
        metrics.connections.set(len(self.connections))
        metrics.heartbeats.inc(self.heartbeats)
        metrics.received.inc(self.received_bytes)
        metrics.sent.inc(self.sent_bytes)
        metrics.turns.inc(self._turns)
        self.heartbeats = self.received_bytes = self.sent_bytes = self._turns = 0


def tune(sock: socket.socket) -> None:
    """A chat's frames are small and go at once; the kernel's own 7200/75/9 finds a dead peer too late."""
    if sock.family == socket.AF_UNIX:
        return  # it does neither wait nor lose its peer
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
