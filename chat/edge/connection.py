"""One client connection: its state, what it has sent and what waits to be written. No task, no timer of its own.

    PROXY ─> HELLO ─> LOGIN ─> OPEN          the reactor reads, `FrameCutter` cuts, the dispatch runs
                 any of them ─> CLOSING      goodbye is queued, nothing is read any more
                                CLOSING ─> LINGER ─> CLOSED    all is written; wait for the client's end, bounded
                 any of them ─> CLOSED       the client is gone

A connection is **blocked** while a request runs that what comes behind must wait for. Frames then gather in a bounded
queue (heartbeats are answered past it); when it is full, nothing more is read until it has emptied: back-pressure.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from chat.edge import proxy
from chat.edge.limits import TokenBucket
from chat.errors import Goodbye, ProtocolError
from chat.ordering import Window
from chat.protocol import HEADER, MAX_FRAME_BEFORE_LOGIN, Frame, FrameCutter, GoodbyeFrame, encode, frame

if TYPE_CHECKING:
    from chat.edge.reactor import Reactor

PROXY, HELLO, LOGIN, OPEN, CLOSING, LINGER, CLOSED = range(7)
RUNNING, HELD = 1, 2  # why it is blocked: a request runs that what follows depends on; there was no place for the next one

HEARTBEAT_BODY: Final = b'{"type":"heartbeat"}'
HEARTBEAT: Final = frame(HEARTBEAT_BODY)

READ_BYTES: Final = 16_384  # a turn and connection
FRAMES_PER_TURN: Final = 64
QUEUE_FRAMES: Final = 256
QUEUE_BYTES: Final = 262_144
WRITE_BYTES: Final = 262_144  # joined for one send
PAUSE_BYTES: Final = 524_288  # above this in the outbox, no more requests are read
RECEIPTS: Final = 4_096  # messages on their way whose senders want to know
FLUSH_S: Final = 5.0  # for writing what is queued, goodbye included
LINGER_S: Final = 2.0  # for the client to close, so that goodbye is not lost in a reset

_log = structlog.get_logger()


class Connection:
    """What handlers see as a Session, and what the reactor serves."""

    __slots__ = (
        "address", "announced", "bad", "blocked", "chunks", "counted", "cursors", "cutter", "deadline", "device",
        "dirty", "ended", "ending", "fd", "head", "mask", "missed", "more", "name", "opened_at", "partial", "queue",
        "queue_bytes", "queued", "reactor", "reads", "receipts", "registered", "requests", "resync_when_written",
        "session", "sock", "state", "stuck", "token_hash", "tries", "unacknowledged", "user", "verified", "window",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, sock: socket.socket, address: str, state: int, now: float) -> None:
        config = reactor.config
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.address = address
        self.state = state
        self.deadline = now + config.login_deadline_ms / 1_000
        self.mask = select.EPOLLIN
        self.counted = False  # among the connections of its address
        self.ended = False  # `on_end` was called
        self.ending: tuple[Frame | None, Goodbye, str] | None = None  # when what runs is done: a last frame, and goodbye
        # read
        self.head = b""  # of the PROXY header
        self.cutter = FrameCutter(MAX_FRAME_BEFORE_LOGIN)
        self.queue: deque[bytes] | None = None
        self.queue_bytes = 0
        self.blocked = 0  # RUNNING, HELD
        self.more = False  # in the reactor's list of those to be served again
        self.missed = 0  # seconds without a frame
        self.bad = self.tries = 0
        self.reads = 0  # READ tasks under way
        # written
        self.chunks: list[bytes] = []  # frames; of the first one only the rest where `partial`
        self.queued = 0
        self.partial = self.dirty = self.stuck = False
        # log-in
        self.user = 0
        self.name = self.device = self.session = ""
        self.token_hash = b""
        self.cursors: Mapping[str, int] = {}
        self.opened_at = 0  # ms
        self.registered = False  # the location is written
        self.resync_when_written = False
        self.announced = False  # its `login` event has come back
        # messages
        self.window: Window | None = None
        self.requests = TokenBucket(now, config.requests_burst)
        self.unacknowledged = 0  # messages that Kafka has not acknowledged
        self.receipts: deque[tuple[int, int, int, int]] | None = None
        self.verified = False  # the first ack was looked up

    # ------------------------------------------------------------------ session

    def send(self, frame_: Frame | bytes) -> None:
        """See context.Session."""
        self.write(frame(frame_ if isinstance(frame_, bytes) else encode(frame_)))

    def deliver(self, chunk: bytes) -> None:
        """A frame with its length, unasked for. Before `logged_in` is written it is left out: the client's first sync,
        which comes after, finds it."""
        if self.state == OPEN:
            self.write(chunk)

    def note_receipts(self, timeline: str, entries: Sequence[tuple[int, int, int, int]]) -> None:
        """See context.Session. What does not fit drops the oldest: they are looked up at the next log-in's first ack."""
        if self.receipts is None:
            self.receipts = deque(maxlen=RECEIPTS)
        self.receipts.extend(e for e in entries if e[1] != self.user)

    def close(self, code: Goodbye, reason: str, retry_after_ms: int | None = None) -> None:
        """See context.Session."""
        if self.state >= CLOSING:
            return
        if self.state == PROXY:
            self.drop(reason)
            return
        self.send(GoodbyeFrame(code=int(code), reason=reason, retry_after_ms=retry_after_ms))
        if self.state >= CLOSING:  # the goodbye did not fit
            return
        self._closing(code, reason)

    def finish(self, last: Frame | None, code: Goodbye, reason: str) -> None:
        """Read nothing more; when everything that came before has its answer (bounded time), send `last` and close."""
        if self.state < CLOSING and self.ending is None:
            self.ending = last, code, reason
            self.deadline = self.reactor.now() + FLUSH_S
            self.reactor.interest(self)
            self.settled()

    def fail(self, error: ProtocolError, frame_: Frame) -> None:
        """The connection cannot go on behind this frame."""
        self.queue = None
        self.finish(frame_, Goodbye.PROTOCOL, error.code)

    def settled(self, *, late: bool = False) -> None:
        """Something was done: was it the last that `finish` waits for? `late`: it waits no longer."""
        if self.ending is None or self.state >= CLOSING:
            return
        if late or not (self.reads or self.blocked or self.queue or self.unacknowledged):
            last, code, reason = self.ending
            if last is not None:
                self.send(last)
            self.close(code, reason)

    def _closing(self, code: int, reason: str) -> None:
        self.state = CLOSING
        self.deadline = self.reactor.now() + FLUSH_S
        self.queue = None
        self._end(code, reason)
        self.reactor.interest(self)

    def _end(self, code: int, reason: str) -> None:
        if not self.ended:
            self.ended = True
            _log.debug("connection closed", user=self.user, address=self.address, code=int(code), reason=reason)
            self.reactor.ended(self, int(code))

    def drop(self, reason: str) -> None:
        """The client is gone: no goodbye."""
        if self.state != CLOSED:
            self.state = CLOSED
            self.queue = None
            self.chunks = []
            self.queued = 0
            self._end(0, reason)
            self.reactor.forget(self)

    # ------------------------------------------------------------------ writing

    def write(self, chunk: bytes) -> None:
        """Queue a whole frame (with its length). The bytes may be shared with other connections."""
        if self.state >= CLOSING:
            return
        self.queued += len(chunk)
        self.chunks.append(chunk)
        if self.queued > self.reactor.config.outbox_bytes:
            self._overflow()
        if not self.dirty:
            self.dirty = True
            self.reactor.dirtied(self)

    def shed(self) -> None:
        """The edge holds too much for those who do not read, and this one is among them."""
        if self.state < CLOSING:
            self._overflow()
            if not self.dirty:
                self.dirty = True
                self.reactor.dirtied(self)

    def _overflow(self) -> None:
        """A slow reader: what it has not begun to read is dropped, it is told why, and resumes when it comes back."""
        del self.chunks[1 if self.partial else 0 :]
        reason = "the outbox is full"
        self.chunks.append(frame(encode(GoodbyeFrame(code=int(Goodbye.SLOW_READER), reason=reason))))
        self.queued = sum(map(len, self.chunks))
        self._closing(Goodbye.SLOW_READER, reason)

    def flush(self) -> None:
        """Write what is queued: one send a turn, as a rule."""
        self.dirty = False
        chunks = self.chunks
        while chunks and not self.stuck and self.state < LINGER:
            if len(chunks) == 1:
                data, whole = chunks[0], 1
            elif self.queued <= WRITE_BYTES:
                data, whole = b"".join(chunks), len(chunks)
            else:
                whole = self._some()
                data = b"".join(chunks[:whole])
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.drop("the client is gone")
                return
            self.queued -= sent
            self.reactor.sent_bytes += sent
            if sent == len(data):
                self.partial = False
                del chunks[:whole]
                continue
            self._keep(sent)
            self.stuck = True
            self.reactor.interest(self)
            return
        if chunks:
            return
        if self.state == CLOSING:
            self._linger()
        elif self.state < CLOSING and not self.mask & select.EPOLLIN:
            self.reactor.again(self)  # it may have been the full outbox that stopped the reading

    def _some(self) -> int:
        size = 0
        for i, chunk in enumerate(self.chunks):
            size += len(chunk)
            if size > WRITE_BYTES:
                return max(i, 1)
        return len(self.chunks)

    def _keep(self, sent: int) -> None:
        chunks, i = self.chunks, 0
        if sent:
            self.missed = 0 if self.paused else self.missed
            self.partial = self.partial or len(chunks[0]) > sent
        while sent >= len(chunks[i]):
            sent -= len(chunks[i])
            i += 1
        del chunks[:i]
        if i:
            self.partial = sent > 0
        if sent:
            chunks[0] = chunks[0][sent:]

    def writable(self) -> None:
        self.stuck = False
        self.flush()
        if self.state < LINGER:
            self.reactor.interest(self)

    def _linger(self) -> None:
        self.state = LINGER
        self.deadline = self.reactor.now() + LINGER_S
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop("the client is gone")
        else:
            self.reactor.interest(self)

    # ------------------------------------------------------------------ reading

    @property
    def paused(self) -> bool:
        """Nothing is read for now."""
        queue = self.queue
        return (
            self.queued > PAUSE_BYTES
            or self.ending is not None
            or (queue is not None and (len(queue) >= QUEUE_FRAMES or self.queue_bytes >= QUEUE_BYTES))
        )

    def readable(self) -> None:
        if self.more:
            return  # what was read before is not yet served
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.drop("the client is gone")
            return
        if not data:
            self.drop("closed by the client")
            return
        if self.state >= CLOSING:
            return  # read only so that the close is clean
        self.reactor.received_bytes += len(data)
        if len(data) == len(HEARTBEAT) and data == HEARTBEAT and self.state >= LOGIN and not self.cutter.waiting:
            self._beat()
            return
        if self.state == PROXY:
            self._proxy_header(data)
            return
        self.cutter.feed(data)
        self.serve()

    def _beat(self) -> None:
        """A heartbeat alone, the commonest of all that comes: answered at once where nothing is queued."""
        self.missed = 0
        self.reactor.heartbeats += 1
        if self.chunks:
            self.write(HEARTBEAT)
            return
        try:
            sent = self.sock.send(HEARTBEAT)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.drop("the client is gone")
            return
        self.reactor.sent_bytes += sent
        if sent < len(HEARTBEAT):
            self.write(HEARTBEAT[sent:])
            self.partial = sent > 0

    def serve(self) -> None:
        """Run the frames that are there, a bounded number; the reactor comes back for the rest."""
        left = FRAMES_PER_TURN
        frame_of = self.reactor.dispatch.frame
        while self.queue and not self.blocked and left and self.state < CLOSING:
            body = self.queue.popleft()
            self.queue_bytes -= len(body)
            left -= 1
            frame_of(self, body)
        try:
            if self.state < CLOSING and not self.paused:
                for body in self.cutter:
                    if self.blocked or self.queue:
                        self._enqueue(body)
                    else:
                        left -= 1
                        frame_of(self, body)
                    if left <= 0 or self.state >= CLOSING or self.paused:
                        break
        except ProtocolError as error:
            self.finish(self.reactor.dispatch.error_frame(error), Goodbye.PROTOCOL, error.code)
        if self.state < CLOSING:
            if left <= 0 or (self.queue and not self.blocked):
                self.reactor.again(self)
            self.reactor.interest(self)
            self.settled()

    def _enqueue(self, body: bytes) -> None:
        self.missed = 0
        if body == HEARTBEAT_BODY and self.state >= LOGIN:
            self.write(HEARTBEAT)
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(body)
        self.queue_bytes += len(body)

    def hold(self, body: bytes) -> None:
        """This frame cannot run yet: it is the next one when `unblock` comes."""
        self.blocked |= HELD
        if self.queue is None:
            self.queue = deque()
        self.queue.appendleft(body)
        self.queue_bytes += len(body)

    def unblock(self, why: int) -> None:
        if self.blocked & why:
            self.blocked &= ~why
            if self.state < CLOSING and not self.blocked:
                self.reactor.again(self)

    def _proxy_header(self, data: bytes) -> None:
        self.head += data
        try:
            header = proxy.parse(self.head)
        except proxy.ProxyError as error:
            self.drop(str(error))
            return
        if header is None:
            return
        rest, self.head = self.head[header.size :], b""
        self.state = HELLO
        if self.reactor.admit(self, header.address or self.address) and rest:
            self.cutter.feed(rest)
            self.serve()


assert len(HEARTBEAT) == HEADER + len(HEARTBEAT_BODY)
