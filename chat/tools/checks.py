"""What `chat doctor` looks at: each check says what is needed, what was found, and the line that mends it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from chat.config import Config
from chat.errors import SetupError
from chat.tools import programs
from chat.tools.assembly import CONTROLLER, EDGE, EDGE_METRICS, EDGE_PROXY, KAFKA, MARIADB, REDIS, parts_wanted
from chat.tools.free_ports import is_free
from chat.tools.upstream import SPARE, size

SYSCTL: Final = Path("/proc/sys")
#: A connection of an edge takes one descriptor; its files, its listeners and the servers' connections take some more.
EDGE_SPARE: Final = 200
#: Connections that arrive at the same moment when an edge or nginx comes back.
BACKLOG: Final = 1024

Level = Literal["ok", "note", "bad"]


class Check(Struct, kw_only=True):
    """`note`: the cluster runs, but not as large or as comfortably as it is set; `bad`: it does not start."""

    name: str
    level: Level
    needed: str
    found: str
    mend: str = ""


def all_checks(config: Config) -> Iterator[Check]:
    wanted = parts_wanted(config)
    if "kafka" in wanted:
        yield _program("Java", "17 or newer", lambda: _shown(programs.find_java()))
        yield _program("Kafka's jars", "all of kafka/jars.sha256", lambda: str(programs.find_jars()))
    if "redis" in wanted:
        yield _program("Redis", "6.2 or newer", lambda: _shown(programs.find(programs.REDIS)))
    if "mariadb" in wanted:
        yield _program("MariaDB", "10.11 or newer", lambda: _shown(programs.find(programs.MARIADB)))
    if "nginx" in wanted:
        yield _program("nginx", "1.18 or newer", lambda: _shown(programs.find(programs.NGINX)))
        yield _program("stream module", "of nginx", lambda: programs.find_stream_module(config.nginx.module) or "built in")
    yield from _descriptors(config)
    yield _number("fs.file-max", config.nginx.clients * 4 + 20_000, "of all processes together")
    yield _number("net.core.somaxconn", BACKLOG, "clients that come back at the same moment")
    yield _local_ports()
    yield from _ports(config)


def _shown(program: programs.Program) -> str:
    return f"{program.shown} ({program.path})"


def _program(name: str, needed: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name=name, level="ok", needed=needed, found=find())
    except SetupError as error:
        said, _, mend = str(error).rpartition("; ")
        return Check(name=name, level="bad", needed=needed, found=said or mend, mend=mend.removeprefix("run: "))


def _descriptors(config: Config) -> Iterator[Check]:
    """The hard limit counts: the processes raise their soft one to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = 1 << 30 if hard == resource.RLIM_INFINITY else hard
    most = _sysctl("fs.nr_open") or 1 << 20
    per_edge = -(-config.nginx.clients // max(config.up.edges, 1)) + EDGE_SPARE
    worker = size(config.nginx, 1 << 30).descriptors
    for name, needed, what in (
        ("descriptors, edge", per_edge, f"{config.nginx.clients} clients on {config.up.edges} edges"),
        ("descriptors, nginx", worker, f"{config.nginx.clients} clients on {config.nginx.workers} workers"),
    ):
        if hard >= needed:
            yield Check(name=name, level="ok", needed=f"{needed} ({what})", found=f"{hard}")
            continue
        clients = (hard - EDGE_SPARE) * config.up.edges if "edge" in name else (hard - SPARE) // 2 * config.nginx.workers
        yield Check(
            name=name,
            level="note",
            needed=f"{needed} ({what})",
            found=f"{hard}: enough for {clients} clients",
            mend=f"ulimit -Hn {needed} as root before chat up, or LimitNOFILE={needed} in the unit",
        )
    yield Check(
        name="fs.nr_open",
        level="ok" if most >= worker else "note",
        needed=f"{worker} (what ulimit can be raised to)",
        found=str(most),
        mend="" if most >= worker else f"sysctl -w fs.nr_open={worker}",
    )


def _number(name: str, needed: int, what: str) -> Check:
    found = _sysctl(name)
    fits = found is None or found >= needed
    return Check(
        name=name,
        level="ok" if fits else "note",
        needed=f"{needed} ({what})",
        found="not told here" if found is None else str(found),
        mend="" if fits else f"sysctl -w {name}={needed}",
    )


def _local_ports() -> Check:
    """Ours towards Kafka, Redis and MySQL, few; the services' own must lie outside. (nginx reaches the edges of `chat up` by
    Unix sockets.)"""
    text = (SYSCTL / "net/ipv4/ip_local_port_range").read_text().split()
    first, last = int(text[0]), int(text[1])
    needed = 1000
    listening = (KAFKA, REDIS, MARIADB, EDGE, EDGE_PROXY, EDGE_METRICS)
    inside = [port for port in listening if first <= port <= last]
    fits = last - first >= needed and not inside
    return Check(
        name="net.ipv4.ip_local_port_range",
        level="ok" if fits else "note",
        needed=f"{needed} ports above {max(listening) + 100}; more where nginx reaches an edge by TCP: one a client",
        found=f"{first} to {last}",
        mend="" if fits else 'sysctl -w net.ipv4.ip_local_port_range="32768 60999"',
    )


def _ports(config: Config) -> Iterator[Check]:
    host, _, front = config.nginx.listen.rpartition(":")
    wanted = [("front", int(front), host), ("Kafka", KAFKA, "127.0.0.1"), ("Kafka's controller", CONTROLLER, "127.0.0.1")]
    wanted += [("Redis", REDIS, "127.0.0.1"), ("MariaDB", MARIADB, "127.0.0.1")]
    wanted += [(f"edge-{n}", EDGE + n, "127.0.0.1") for n in range(1, config.up.edges + 1)]
    for name, port, at in wanted:
        free = is_free(port, at)
        yield Check(
            name=f"port {port}",
            level="ok" if free else "note",
            needed=f"free, for {name}",
            found="free" if free else "taken (by chat up itself, if it runs)",
            mend="" if free else "nothing need be done: chat up takes the next free one",
        )


def _sysctl(name: str) -> int | None:
    try:
        return int((SYSCTL / name.replace(".", "/")).read_text())
    except (OSError, ValueError):
        return None
