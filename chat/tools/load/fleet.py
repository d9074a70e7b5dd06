"""All connections of a run: the ramp, heartbeats spread over the second, and coming back after a loss."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from time import monotonic
from typing import Final

from chat import protocol
from chat.tools.load import wire
from chat.tools.load.accounts import Account, Accounts
from chat.tools.load.device import Device
from chat.tools.load.histogram import Histogram
from chat.tools.load.ledger import Ledger
from chat.tools.load.reactor import Reactor
from chat.tools.load.states import READY, SYNCING

_SLOTS: Final = 50  # the heartbeat interval is cut into so many; each device beats in one
_RAMP_TICK: Final = 0.02  # seconds
_BACK_OFF: Final = (0.1, 5.0)  # seconds: first and longest, doubling


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    servers: Sequence[tuple[str, int]]
    sources: Sequence[str] = ()  # local addresses; none: the system chooses
    ramp: float = 400.0  # first log-ins a second
    opening: int = 200  # log-ins under way at a time, of the ramp
    hashing: int = 4  # of these with a password, which costs the edge a hash
    jitter: float = 1.0  # seconds over which clients come back that lost their connection
    return_at_once: bool = True
    seed: int = 1


class Fleet:
    def __init__(self, reactor: Reactor, ledger: Ledger, accounts: Accounts, options: FleetOptions) -> None:
        self.reactor, self.ledger, self.accounts, self.options = reactor, ledger, accounts, options
        self.devices: list[Device] = []
        self.by_user: dict[int, Device] = {}
        self.ready = 0
        self.syncs = 0
        self.requests = count()  # their rids
        self.read: dict[str, int] = {}  # timelines that are known up to a position, whatever a device's cursor says
        self.losses: Counter[str] = Counter()  # why connections that were up ended
        self.goodbyes: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.given_up = 0  # told not to come back
        self.back = Histogram()  # from the wish to connect, or the loss, to ready
        self.on_ready: Callable[[Device], None] | None = None
        self._random = Random(options.seed)
        self._queue: deque[Device] = deque()  # for their first connection
        self._opening: set[Device] = set()
        self._hashing: set[Device] = set()  # of those under way: with a password
        self._next_server = 0
        self._interval, self._misses = 1.0, 5
        self._slots: list[list[Device]] = [[] for _ in range(_SLOTS)]
        self._slot = 0
        self._beating = False
        self._allowance = 0.0
        self._ramp_at = 0.0
        self._stopping = False

    # -------------------------------------------------------------- starting

    def add(self, accounts: Sequence[Account]) -> list[Device]:
        """Devices for the accounts, off."""
        new = [Device(self, account) for account in accounts]
        for at, device in enumerate(new, len(self.devices)):
            self._slots[at % _SLOTS].append(device)
        self.devices += new
        return new

    def connect(self, devices: Sequence[Device]) -> None:
        """Open them at the ramp's rate."""
        idle = not self._queue
        self._queue.extend(devices)
        if not self._beating:
            self._beating = True
            self._beat(monotonic())
        if idle:
            self._ramp_at, self._allowance = monotonic(), 1.0
            self._ramp()

    def _ramp(self) -> None:
        now, options = monotonic(), self.options
        self._allowance = min(self._allowance + (now - self._ramp_at) * options.ramp, max(1.0, options.ramp))
        self._ramp_at = now
        while self._queue and self._allowance >= 1 and len(self._opening) < options.opening:
            if not self._queue[0].account.token and len(self._hashing) >= options.hashing:
                break
            device = self._queue.popleft()
            self._allowance -= 1
            self._open(device)
        if self._queue and not self._stopping:
            self.reactor.after(_RAMP_TICK, self._ramp)

    def _open(self, device: Device) -> None:
        if self._stopping or device.sock is not None:
            return
        self._opening.add(device)
        if not device.account.token:
            self._hashing.add(device)
        device.gone_since = device.gone_since or monotonic()
        number, options = self._next_server, self.options
        self._next_server += 1
        server = options.servers[number % len(options.servers)]
        # sources change slower than servers, so that each pair is used
        source = options.sources[number // len(options.servers) % len(options.sources)] if options.sources else None
        device.connect(server, source)

    def _opened(self, device: Device) -> None:
        self._opening.discard(device)
        self._hashing.discard(device)

    # -------------------------------------------------------------- what devices tell

    def welcomed(self, welcome: protocol.Welcome) -> None:
        self._interval, self._misses = welcome.heartbeat_ms / 1000, welcome.heartbeat_misses

    def device_ready(self, device: Device) -> None:
        self.ready += 1
        self._opened(device)
        self.by_user[device.account.user] = device
        self.back.add(int((monotonic() - device.gone_since) * 1e6))
        device.gone_since = 0.0
        if self.on_ready is not None:
            self.on_ready(device)

    def device_lost(self, device: Device, was: int, reason: str) -> None:
        self._opened(device)
        if was == READY:
            self.ready -= 1
        if self._stopping or (device.leaving == 1000 and reason == "goodbye"):
            return
        if was == READY:
            self.losses[f"goodbye {device.leaving}" if device.leaving else reason] += 1
        device.gone_since = device.gone_since or monotonic()
        if 1000 <= device.leaving < 2000:
            self.given_up += 1
            return
        if self.options.return_at_once:
            self._return(device)

    def _return(self, device: Device) -> None:
        first, longest = _BACK_OFF
        pause = self._random.uniform(0, self.options.jitter)
        if device.attempts:
            pause = min(first * 2**device.attempts, longest) * self._random.uniform(0.5, 1.5)
        device.attempts += 1
        pause = max(pause, device.retry_after * self._random.uniform(1.0, 1.3))
        self.reactor.after(pause, lambda: self._come_back(device))

    def _come_back(self, device: Device) -> None:
        if not device.account.token and len(self._hashing) >= self.options.hashing:
            self.reactor.after(self._random.uniform(0.05, 0.2), lambda: self._come_back(device))
        else:
            self._open(device)

    def said_goodbye(self, code: int) -> None:
        self.goodbyes[code] += 1

    def fault(self, what: str) -> None:
        """Something that should not be; counted by its text."""
        if len(self.faults) < 100 or what in self.faults:
            self.faults[what] += 1

    # -------------------------------------------------------------- while it runs

    def _beat(self, due: float) -> None:
        if self._stopping:
            return
        now = monotonic()
        limit = self._interval * self._misses
        for device in self._slots[self._slot]:
            if device.sock is not None:
                device.beat(now, self._interval, max(limit, 10.0) if device.state < SYNCING else limit)
        self._slot = (self._slot + 1) % _SLOTS
        following = max(due + self._interval / _SLOTS, now - self._interval)  # at most one round is made up for
        self.reactor.at(following, lambda: self._beat(following))

    def send(self, device: Device, stamp: int, number: int) -> None:
        """The message due at `stamp` (µs): into the outbox of the device's track `number`, and out if it is on line."""
        track = device.tracks[number % len(device.tracks)]
        self.ledger.add(track, stamp)
        device.flush(track)

    def cut(self, devices: Sequence[Device]) -> None:
        """End connections without a word, as if the network had."""
        for device in devices:
            device.lost("cut_by_load")

    def leave(self, devices: Sequence[Device]) -> None:
        """A graceful end; they do not come back."""
        for device in devices:
            if device.sock is not None:
                device.leaving = 1000
                due = [chain for chain in device.chains.values() if chain.known > chain.acknowledged]
                device.write(b"".join(chain.acknowledge() for chain in due) + wire.GOODBYE)
        for device in devices:
            if device.sock is not None:
                device.lost("goodbye")

    def stop(self) -> None:
        self._stopping = True
        self.reactor.pace = None
        self.leave(self.devices)
