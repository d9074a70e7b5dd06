"""One connection of the load: a client with one device, that keeps to the protocol and does nothing besides.

Off → connecting → greeting (hello) → opening (register, log-in or token) → syncing → ready. A lost connection is told to
the fleet, which says when to come back. What a device knows (positions, outbox) outlives its connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EINPROGRESS
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from chat import protocol
from chat.protocol import encode, frame
from chat.tools.load import wire
from chat.tools.load.chain import Chain, Offer
from chat.tools.load.frames import ON
from chat.tools.load.ledger import Track
from chat.tools.load.reactor import BROKEN, READ, WRITE
from chat.tools.load.states import CONNECTING, GREETING, OFF, SYNCING

if TYPE_CHECKING:
    from chat.tools.load.accounts import Account
    from chat.tools.load.fleet import Fleet

_RECEIVE: Final = 1 << 16
_CHOKED: Final = 1 << 18  # bytes that wait for the socket; above it nothing more is written
_ANSWER_LIMIT: Final = 15.0  # seconds
IP_BIND_ADDRESS_NO_PORT: Final = 24  # Linux; the socket module does not name it


class Device:
    __slots__ = ("account", "answers", "asked_at", "attempts", "chains", "fleet", "gone_since", "group_chains", "heard",
                 "leaving", "own", "rest", "retry_after", "sock", "state", "tracks", "waiting", "wrote")  # fmt: skip

    def __init__(self, fleet: Fleet, account: Account) -> None:
        self.fleet = fleet
        self.account = account
        self.state = OFF
        self.sock: socket.socket | None = None
        self.rest = b""  # of a frame that has not come whole
        self.waiting = bytearray()  # for the socket to take it
        self.chains: dict[str, Chain] = {}
        self.own: Chain | None = None
        self.group_chains: dict[int, Chain] = {}
        self.tracks: list[Track] = []  # on which it sends
        self.answers: dict[str, Callable[[Any], None]] = {}
        self.heard = self.wrote = self.asked_at = 0.0
        self.attempts = 0  # since it was last ready
        self.gone_since = 0.0
        self.retry_after = 0.0
        self.leaving = 0  # the code of a goodbye that came

    # -------------------------------------------------------------- the connection

    def connect(self, server: tuple[str, int], source: str | None) -> None:
        sock = self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.state, self.heard, self.leaving, self.retry_after = CONNECTING, monotonic(), 0, 0.0
        try:
            if source is not None:
                # the port is chosen when the destination is known: the same one may serve several sources and servers
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            error = sock.connect_ex(server)
        except OSError as failure:
            error = failure.errno or -1
        self.fleet.reactor.add(sock.fileno(), self, WRITE)
        if error not in (0, EINPROGRESS):
            self.lost("connect")

    def ready(self, events: int) -> None:
        if self.state == CONNECTING:
            self._connected()
            return
        if events & WRITE:
            self._write_on()
        if self.sock is not None and events & (READ | BROKEN):
            self._read()

    def _connected(self) -> None:
        sock = cast(socket.socket, self.sock)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.lost("connect")
            return
        self.state = GREETING
        self.fleet.reactor.modify(sock.fileno(), READ)
        self.write(wire.HELLO)

    def _read(self) -> None:
        try:
            data = cast(socket.socket, self.sock).recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost("goodbye" if self.leaving else "cut")
            return
        now = monotonic_ns()
        self.heard = now / 1e9
        if data == wire.HEARTBEAT and not self.rest:
            return  # by far the most frequent
        bodies, self.rest = wire.cut(self.rest + data if self.rest else data)
        for body in bodies:
            if body == wire.HEARTBEAT_BODY:
                continue
            try:
                event = wire.decode(body)
            except msgspec.DecodeError:
                self.fleet.fault("bad frame from the edge")
                self.lost("bad_frame")
                return
            if type(event) is wire.Delivery:
                self._delivery(event, now // 1000)
            elif event is not None:
                ON[event.__class__](self, event, now // 1000)
                if self.sock is None:
                    return

    def write(self, data: bytes) -> None:
        sock = self.sock
        if sock is None:
            return
        self.wrote = monotonic()
        if self.waiting:
            self.waiting += data
            return
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lost("cut")
            return
        if sent < len(data):
            self.waiting += data[sent:]
            self.fleet.reactor.modify(sock.fileno(), READ | WRITE)

    def _write_on(self) -> None:
        sock = cast(socket.socket, self.sock)
        try:
            sent = sock.send(self.waiting)
        except BlockingIOError:
            return
        except OSError:
            self.lost("cut")
            return
        del self.waiting[:sent]
        if not self.waiting:
            self.fleet.reactor.modify(sock.fileno(), READ)
            for track in self.tracks:
                self.flush(track)

    def lost(self, reason: str) -> None:
        """The connection is over. The fleet decides about the next."""
        was, sock = self.state, self.sock
        if sock is None:
            return
        self.fleet.reactor.remove(sock.fileno())
        sock.close()
        self.sock, self.state, self.rest = None, OFF, b""
        self.waiting.clear()
        self.answers.clear()
        for chain in self.chains.values():
            chain.disconnected()
        for track in self.tracks:
            track.reconnected()
        self.fleet.device_lost(self, was, reason)

    # -------------------------------------------------------------- sending

    def flush(self, track: Track) -> None:
        """Write what the track has to say, as far as may be now."""
        if self.state < SYNCING or len(self.waiting) > _CHOKED or track.written == track.sent:
            return
        if track.held_until and track.held_until > monotonic():
            return  # a timer comes back to it
        self.write(b"".join(track.frames()))

    def flush_later(self, track: Track) -> None:
        """When it is held no longer."""

        def again() -> None:
            if track.held_until > monotonic():
                self.flush_later(track)
            else:
                self.flush(track)

        self.fleet.reactor.at(track.held_until + 0.001, again)

    def ask(self, request: protocol.Request, then: Callable[[Any], None]) -> None:
        """A request whose answer, or error, is given to `then`; nothing comes when the connection ends before."""
        rid = request.rid = f"q{next(self.fleet.requests)}"
        self.answers[rid] = then
        self.write(frame(encode(request)))

    # -------------------------------------------------------------- receiving

    def _delivery(self, delivery: wire.Delivery, now: int) -> None:
        chain = self.own if delivery.group is None else self.group_chains.get(delivery.group)
        ledger = self.fleet.ledger
        if chain is None:
            return  # of a group just joined: its resync comes
        offer = chain.offer(delivery)
        if offer is Offer.TAKEN:
            ledger.took(self.account.user, delivery, now)
        elif offer is Offer.DROPPED:
            ledger.counts.wire_duplicates += 1
        else:
            self.sync(chain)

    def follow(self, timeline: str, known: int) -> Chain:
        """The chain of a timeline; if it is new it begins at `known`."""
        if timeline not in self.chains:
            chain = self.chains[timeline] = Chain(timeline, known)
            if timeline.startswith("g"):
                self.group_chains[int(timeline[1:])] = chain
            else:
                self.own = chain
        return self.chains[timeline]

    def sync(self, chain: Chain) -> None:
        """Ask for what is missing, if something is and nobody has asked yet."""
        after = chain.ask()
        if after is None:
            return
        self.asked_at = monotonic() + chain.pause
        self.fleet.syncs += 1
        if not chain.pause:
            self.write(wire.sync_frame(chain.timeline, after))
            return
        sock = self.sock

        def ask() -> None:
            if self.sock is sock:
                self.write(wire.sync_frame(chain.timeline, after))

        self.fleet.reactor.after(chain.pause, ask)

    def resync(self) -> None:
        """Ask for everything once more, though nothing says that something is missing."""
        for chain in self.chains.values():
            chain.hint()
            self.sync(chain)

    def beat(self, now: float, interval: float, limit: float) -> None:
        """Once per heartbeat interval: say something, and see whether the edge still does."""
        if now - self.heard > limit:
            self.lost("silent")
            return
        if self.state < SYNCING:
            return
        said = b""
        for chain in self.chains.values():
            if chain.known > chain.acknowledged:
                said += chain.acknowledge()
            if chain.asked and now - self.asked_at > _ANSWER_LIMIT:
                self.lost("sync_unanswered")
                return
        if said:
            self.write(said)
        elif now - self.wrote >= interval * 0.9:
            self.write(wire.HEARTBEAT)
