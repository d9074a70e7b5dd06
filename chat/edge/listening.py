"""The sockets that an edge listens on: TCP, or a Unix socket for an nginx on the same machine.

What goes through the loopback's TCP costs both sides several times what a Unix socket does, and between nginx and an edge
that is every frame and every heartbeat. A path that is left over from a killed edge is taken over; one that somebody
listens on is not.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chat.admin.http import split_address
from chat.errors import SetupError

UNIX: Final = "unix:"
BACKLOG: Final = 4_096
TRY_S: Final = 1.0  # for whoever listens on the path to answer


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A listening socket at `host:port` or `unix:/path`, closed at the end. Raises OSError, SetupError."""
    if not address.startswith(UNIX):
        with _tcp(split_address(address)) as sock:
            yield sock
        return
    path = Path(address.removeprefix(UNIX))
    with _unix(path) as sock:
        mine = _mark(path)
        try:
            yield sock
        finally:
            if path.exists() and _mark(path) == mine:  # else the next run has it already
                path.unlink()


def _tcp(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_backlog())
    except OSError:
        sock.close()
        raise
    return sock


def _unix(path: Path) -> socket.socket:
    if path.exists():
        _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        path.chmod(0o666)  # nginx's workers are another user; who may come this far is the folder's matter
        sock.listen(_backlog())
    except OSError as error:
        sock.close()
        raise SetupError(f"the edge cannot listen on {path}: {error.strerror or error}; see [edge] listen_proxy") from error
    return sock


def _mark(path: Path) -> tuple[int, int]:
    """Which socket it is: numbers of files are used again, so with its time."""
    found = path.stat()
    return found.st_ino, found.st_ctime_ns


def _clear(path: Path) -> None:
    """Remove what a killed edge has left. Raises SetupError where it is anything else."""
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SetupError(f"{path} is not a socket: move it away, or give the edge another [edge] listen_proxy")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TRY_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:  # too many wait already: somebody is there
            pass
    raise SetupError(f"another process listens on {path}: stop it, or give the edge another [edge] listen_proxy")


def _backlog() -> int:
    path = "/proc/sys/net/core/somaxconn"
    if not os.path.exists(path):
        return socket.SOMAXCONN
    with open(path) as file:
        return min(BACKLOG, int(file.read()))
