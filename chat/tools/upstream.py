"""nginx's configuration from the edges' leases. Pure: what to write, and when it has changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from chat.config import NginxConfig
from chat.errors import SetupError

BALANCE: Final = {
    "least_conn": "    least_conn;",
    "round_robin": "    # round robin, by weight",
    "hash": "    hash $remote_addr;",
    "consistent_hash": "    hash $remote_addr consistent;",
}
#: nginx refuses an upstream without servers. Nobody listens on port 1 of the loopback.
NOBODY: Final = "    server 127.0.0.1:1 down; # no edge is leased"
ADDRESS: Final = re.compile(r"[\w.\-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}|unix:/[\w./\-]{1,107}")
#: A line of it as rendered below.
SERVER: Final = re.compile(r"^    server (\S+) weight=(\d+) .*; # (\S+)$", re.MULTILINE)
#: Descriptors of a worker that are not connections.
SPARE: Final = 64


class Upstream(NamedTuple):
    """An edge as nginx sees it. `address`: where it takes PROXY connections."""

    edge: str
    address: str
    weight: int


def is_valid(upstream: Upstream) -> bool:
    return ADDRESS.fullmatch(upstream.address) is not None and upstream.weight > 0


def render_stream(config: NginxConfig, upstreams: Iterable[Upstream]) -> dict[str, object]:
    """The values of nginx/stream.conf.template. Raises SetupError for an address that is none."""
    lines = []
    for upstream in sorted(upstreams):
        if not is_valid(upstream):
            raise SetupError(f"edge {upstream.edge!r} announces {upstream.address!r}, weight {upstream.weight}: no server")
        name = re.sub(r"[^\w.\-]", "?", upstream.edge)
        lines.append(
            f"    server {upstream.address} weight={upstream.weight} max_fails=1 fail_timeout={config.fail_s}s; # {name}"
        )
    return {
        "balance": BALANCE[config.balance],
        "servers": "\n".join(lines) or NOBODY,
        "listen": config.listen,
        "backlog": 4096,
        "idle_s": config.idle_s,
        "connect_ms": config.connect_ms,
    }


def servers_in(text: str) -> frozenset[Upstream]:
    """Those of a rendered stream.conf."""
    return frozenset(Upstream(edge, address, int(weight)) for address, weight, edge in SERVER.findall(text))


class Size(NamedTuple):
    """Descriptors of one worker, and how many clients all workers can hold."""

    descriptors: int
    clients: int


def size(config: NginxConfig, limit: int) -> Size:
    """`limit`: the hard limit of descriptors of a process. A third more than an even share, for the kernel spreads
    connections over the workers by a hash, and a reload finds both full."""
    wanted = config.clients * 2 * 4 // (3 * config.workers) + SPARE
    descriptors = min(max(wanted, 1024), limit)
    return Size(descriptors, (descriptors - SPARE) // 2 * config.workers)


class Leases:
    """Which edges are in the upstream, from what Redis says now and then.

    An edge comes in at once and goes when its lease has been gone for `lost_ms`: nginx passes over one that refuses
    connections by itself, and one that is started again is back by then, so neither costs a reload. One that is frozen
    still accepts: it must go. When no edge at all is leased the last ones stay, for then Redis has lost them.
    """

    def __init__(self, lost_ms: int) -> None:
        self._lost = lost_ms / 1000
        self._seen: dict[str, tuple[Upstream, float]] = {}
        self.current: frozenset[Upstream] = frozenset()

    def observe(self, leased: Mapping[str, Upstream], now: float) -> bool:
        """Redis was asked at `now` (seconds); `leased` is empty too where it did not answer. True: `current` changed."""
        if leased:
            self._seen.update({edge: (upstream, now) for edge, upstream in leased.items()})
            self._seen = {e: seen for e, seen in self._seen.items() if now - seen[1] < self._lost}
        else:  # all of them get the whole time again, once the first one is back
            self._seen = {e: (upstream, now) for e, (upstream, _) in self._seen.items()}
        before = self.current
        self.current = frozenset(upstream for upstream, _ in self._seen.values())
        return self.current != before
