"""CPU time and memory of the servers, from /proc: read twice, the difference is what the load has cost."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Server(NamedTuple):
    role: str  # edge, router, persist, kafka, mysql, redis, nginx, load …
    name: str
    pid: int


def with_children(servers: Iterable[Server]) -> list[Server]:
    """These, and their children, which count as theirs (nginx's workers)."""
    found = {server.pid: server for server in servers}
    _claim_children(found)
    return list(found.values())


def _claim_children(found: dict[int, Server]) -> None:
    """A process that is not known belongs to the nearest ancestor that is."""
    children = _children()
    ways = list(found.items())
    while ways:
        parent, server = ways.pop()
        for pid in children.get(parent, ()):
            if pid not in found:
                found[pid] = server._replace(pid=pid)
                ways.append((pid, server))


class Usage(NamedTuple):
    """CPU seconds since the process began, and resident bytes."""

    cpu: float
    resident: int


def usage(servers: Iterable[Server]) -> dict[Server, Usage]:
    """Of those that are alive."""
    measured = {}
    for server in servers:
        try:
            stat = Path(f"/proc/{server.pid}/stat").read_text()
            resident = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        fields = stat[stat.rindex(")") + 2 :].split()  # the command's name may have blanks in it
        measured[server] = Usage((int(fields[11]) + int(fields[12])) / _TICK, resident * _PAGE)
    return measured


def cpu_between(before: dict[Server, Usage], after: dict[Server, Usage]) -> dict[str, float]:
    """CPU seconds by role. A process that began or ended meanwhile counts from, or is left out at, its end."""
    spent: dict[str, float] = defaultdict(float)
    for server, now in after.items():
        spent[server.role] += now.cpu - (before[server].cpu if server in before else 0.0)
    return dict(spent)


def resident_between(before: dict[Server, Usage], after: dict[Server, Usage], role: str) -> int:
    """Bytes by which the processes of a role that were there all the time have grown."""
    both = [server for server in after if server.role == role and server in before]
    return sum(after[s].resident - before[s].resident for s in both)


def descriptor_limit(pid: int) -> int | None:
    """The soft limit of a running process; None where it may not be read."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    line = re.search(r"^Max open files\s+(\d+)", limits, re.MULTILINE)
    return int(line[1]) if line else None


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue  # it has just ended
            children[int(stat[stat.rindex(")") + 2 :].split()[1])].append(int(entry))
    return children
