"""Which port a part of the cluster listens on: the one it is known by, or the next free one. Kept once chosen."""

from __future__ import annotations

import socket
from collections.abc import Callable, MutableMapping

from chat.errors import SetupError


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Can a server listen there now? (A connection of its predecessor in TIME_WAIT does not count.)"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


class Ports:
    """Names → ports. `chosen` is kept by the caller from one run to the next. `first`: 0, or where to count from."""

    def __init__(self, chosen: MutableMapping[str, int], first: int, tell: Callable[[str], None]) -> None:
        self._chosen = chosen
        self._first = first
        self._tell = tell

    def take(self, name: str, wanted: int, *, ours: bool = False, host: str = "127.0.0.1") -> int:
        """The port of `name`. `ours`: our own process holds it already. Says so where it is not the wanted one.

        Raises SetupError when a thousand in a row are taken.
        """
        before = self._chosen.get(name)
        if before is not None and (ours or is_free(before, host)):
            return before
        start = before or (self._first or wanted)
        others = {port for other, port in self._chosen.items() if other != name}
        for port in range(start, min(start + 1_000, 65_536)):
            if port not in others and is_free(port, host):
                if port != wanted and not self._first:
                    self._tell(f"port {wanted} is taken: {name} listens on {port}")
                self._chosen[name] = port
                return port
        raise SetupError(f"no free port for {name} from {start} upwards")
