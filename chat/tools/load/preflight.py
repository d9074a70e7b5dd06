"""Before the load begins: are there descriptors, ports and nginx workers enough? Each finding names what mends it."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chat.tools.load.process import Server, descriptor_limit

_SPARE = 200  # descriptors for all that is not a client


class Finding(NamedTuple):
    ok: bool
    what: str
    mend: str = ""


def raise_descriptors(needed: int) -> Finding:
    """The load's own limit, raised as far as it may be."""
    needed += _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    mend = f"ulimit -n {needed} (the hard limit is {hard}), or fewer --connections"
    return Finding(soft >= needed, f"descriptors of the load: {soft}, needed {needed}", mend)


def ports(connections: int, servers: int, sources: int) -> Finding:
    """Local ports: each pair of source address and server has the whole range."""
    low, high = (int(n) for n in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    have = (high - low + 1) * max(sources, 1) * servers
    mend = f"--sources {-(-connections // ((high - low) * servers))}: more local addresses"
    return Finding(have >= connections, f"local ports: {have}, needed {connections}", mend)


def nginx_workers(servers: Sequence[Server], connections: int) -> Finding | None:
    """nginx needs two descriptors a client, from the limits of all workers together. None where none was found."""
    masters = {s.pid for s in servers if s.role == "nginx"}
    workers = [pid for pid in masters if _parent(pid) in masters]
    limits = [descriptor_limit(pid) for pid in workers]
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    have, needed = sum(known), 2 * connections + _SPARE * len(known)
    mend = f"worker_processes {-(-needed // min(known))} at least, and worker_rlimit_nofile and worker_connections to match"
    return Finding(have >= needed, f"nginx: {len(known)} workers with {have} descriptors, needed {needed}", mend)


def edges(servers: Sequence[Server], connections: int) -> Finding | None:
    """Descriptors of all edges together. None where none was found."""
    known = [n for s in servers if s.role == "edge" and (n := descriptor_limit(s.pid)) is not None]
    if not known:
        return None
    have, needed = sum(known), connections + _SPARE * len(known)
    mend = f"{-(-needed // min(known))} edges at least, or a higher LimitNOFILE"
    return Finding(have >= needed, f"edges: {len(known)} with {have} descriptors, needed {needed}", mend)


def check(
    connections: int, *, servers: int, sources: int, processes: Sequence[Server], through_nginx: bool
) -> list[Finding]:
    found = [raise_descriptors(connections), ports(connections, servers, sources), edges(processes, connections)]
    if through_nginx:
        found.append(nginx_workers(processes, connections))
    return [finding for finding in found if finding is not None]


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])
