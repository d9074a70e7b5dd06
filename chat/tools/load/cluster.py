"""The cluster under load, as `chat up` keeps it in its folder: its processes and where clients connect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chat.errors import SetupError
from chat.tools.load.process import Server, with_children
from chat.tools.state import State

Address = tuple[str, int]


class Cluster(NamedTuple):
    servers: Sequence[Server] = ()
    front: str = ""
    metrics: Sequence[str] = ()  # host:port of each service's /metrics

    def server(self) -> Address:
        """nginx's address for clients. Raises SetupError where no cluster runs here."""
        if not self.front:
            raise SetupError("no cluster of `chat up` runs here: name its folder with --state, or --server host:port")
        host, _, port = self.front.rpartition(":")
        return host, int(port)


def find_cluster(folder: Path) -> Cluster:
    """The cluster of this state folder; an empty one where none runs (its CPU and memory are then not measured)."""
    state = State(folder)
    found = state.processes()
    if found is None:
        return Cluster()
    servers = [Server(e.role, e.name, e.pid) for e in (found.supervisor, *found.processes) if e.pid]
    ports = state.chosen().ports
    metrics = [f"127.0.0.1:{ports[use]}" for s in servers if (use := f"{s.name} metrics") in ports]
    return Cluster(with_children(servers), found.front, metrics)
