"""nginx: its configuration on disk, and the watch that follows the edges' leases in Redis."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from chat.config import NginxConfig
from chat.errors import PartError
from chat.ports import Memory
from chat.tools import programs
from chat.tools.parts import Part, write_private
from chat.tools.project import fill
from chat.tools.readiness import port_open
from chat.tools.upstream import Leases, Upstream, is_valid, render_stream, servers_in, size

log = structlog.get_logger()

POLL_S: Final = 0.25

#: edge → where nginx reaches it. Raises PartError.
ReadLeases = Callable[[], Awaitable[dict[str, Upstream]]]


Reload = Callable[[], None]


def nginx(folder: Path, config: NginxConfig) -> Part:
    """nginx as a part of the cluster. `stream.conf` is not among its files: the watch writes it, and must have done so
    before the start (`write_stream`)."""
    return Part(
        name="nginx",
        role="nginx",
        address=config.listen,
        command=(programs.find(programs.NGINX).path, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")),
        folder=folder,
        files={folder / "nginx.conf": main_conf(folder, config)},
        check=partial(port_open, config.listen),
        stop_s=3.0,
    )


def main_conf(folder: Path, config: NginxConfig) -> str:
    """Raises SetupError: no nginx, no stream module."""
    module = programs.find_stream_module(config.module)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = size(config, limit if limit != resource.RLIM_INFINITY else 1 << 20).descriptors
    return fill(
        "nginx/nginx.conf.template",
        {
            "load_module": f'load_module "{module}";' if module else "# the stream module is built in",
            "user": _user(),
            "workers": config.workers,
            "descriptors": descriptors,
            "connections": descriptors - 32,
            "drain_s": config.drain_s,
            "folder": folder,
        },
    )


def _user() -> str:
    """Started as root, the workers are nobody: they need no file."""
    if os.geteuid() != 0:
        return "# not root: the workers run as the same user"
    nobody = pwd.getpwnam("nobody")
    return f"user nobody {grp.getgrgid(nobody.pw_gid).gr_name};"


def stream_conf(config: NginxConfig, upstreams: frozenset[Upstream]) -> str:
    return fill("nginx/stream.conf.template", render_stream(config, upstreams))


def write_stream(folder: Path, config: NginxConfig, upstreams: frozenset[Upstream]) -> bool:
    """Write `stream.conf`; False where it says so already."""
    path, text = folder / "stream.conf", stream_conf(config, upstreams)
    if path.is_file() and path.read_text() == text:
        return False
    write_private(path, text)
    return True


def rewrite_stream(folder: Path, config: NginxConfig) -> bool:
    """As `write_stream`, with the edges that it names already: before nginx starts, for the settings may be others now."""
    path = folder / "stream.conf"
    return write_stream(folder, config, servers_in(path.read_text()) if path.is_file() else frozenset())


class _Lease(msgspec.Struct):
    """What an edge writes into `edge:<name>`; more may be in it."""

    address: str
    weight: int = 1
    draining: bool = False


_lease = msgspec.json.Decoder(_Lease).decode


async def read_leases(memory: Memory, prefix: str) -> dict[str, Upstream]:
    """The edges with a lease. Raises PartError. One that announces nonsense is passed over: it must not stop the others."""
    (names,) = await memory.pipeline([("SMEMBERS", f"{prefix}edges")])
    if isinstance(names, PartError):
        raise names
    edges = sorted(name.decode() for name in names)
    if not edges:
        return {}
    (leases,) = await memory.pipeline([("MGET", *(f"{prefix}edge:{edge}" for edge in edges))])
    if isinstance(leases, PartError):
        raise leases
    found = {}
    for edge, lease in zip(edges, leases, strict=True):
        if lease is None:
            continue
        try:
            decoded = _lease(lease)
            if decoded.draining:
                continue
            upstream = Upstream(edge, decoded.address, decoded.weight)
        except msgspec.DecodeError:
            log.warning("lease_not_understood", edge=edge)
            continue
        if is_valid(upstream):
            found[edge] = upstream
        else:
            log.warning("lease_without_address", edge=edge, address=upstream.address)
    return found


async def changes(config: NginxConfig, read: ReadLeases, first: frozenset[Upstream]) -> AsyncIterator[frozenset[Upstream]]:
    """The upstream, each time it has changed and then stayed as it is for `settle_ms`. Never ends; cancel-safe."""
    leases, told, pending, away = Leases(config.lost_ms), first, trio.current_time(), False
    while True:
        try:
            leased = await read()
            away = False
        except PartError as error:
            leased = {}
            if not away:
                log.warning("leases_not_read", error=str(error))
            away = True
        now = trio.current_time()
        if leases.observe(leased, now):
            pending = now
        if leases.current and leases.current != told and now - pending >= config.settle_ms / 1000:
            told = leases.current
            yield told
        await trio.sleep(POLL_S)


async def watch(config: NginxConfig, folder: Path, read: ReadLeases, reload: Reload) -> None:
    """Keep `stream.conf` in `folder` as the leases are, and have nginx read it again. Never ends; cancel-safe."""
    async for upstreams in changes(config, read, frozenset()):
        if write_stream(folder, config, upstreams):
            log.info("upstream", edges=sorted(upstream.edge for upstream in upstreams))
            reload()
