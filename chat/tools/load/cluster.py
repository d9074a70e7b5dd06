"""The cluster under load, as `chat status --json` tells it: its processes and where clients connect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from chat.errors import SetupError
from chat.tools.load.process import Server, find_servers


class Cluster(NamedTuple):
    servers: Sequence[Server]
    status: Any

    def server(self) -> tuple[str, int]:
        """nginx's address for clients. Raises SetupError where no cluster runs here."""
        address = _address(self.status, "nginx")
        if address is None:
            raise SetupError("no cluster of `chat up` runs in this folder: name one with --server host:port")
        return address


def find_cluster() -> Cluster:
    """The cluster of this folder; an empty one where none runs (its CPU and memory are then not measured)."""
    answer = subprocess.run([sys.executable, "-m", "chat", "status", "--json"], capture_output=True, check=False, timeout=30)
    try:
        status = json.loads(answer.stdout)
    except ValueError:
        return Cluster((), None)
    return Cluster(find_servers(status), status)


def _address(thing: Any, role: str) -> tuple[str, int] | None:
    if isinstance(thing, dict):
        if thing.get("role") == role and ":" in str(thing.get("address", "")):
            host, _, port = str(thing["address"]).rpartition(":")
            return host, int(port)
        things = list(thing.values())
    elif isinstance(thing, list):
        things = thing
    else:
        return None
    return next((found for inner in things if (found := _address(inner, role))), None)
