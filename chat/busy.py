"""How busy the machine is, or the one core that this thread can use: whichever is fuller."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from chat.linger import Linger

EVERY: Final = 0.25  # seconds between two looks
_IDLE: Final = (3, 4)  # of the fields of /proc/stat: idle, iowait


class Busy:
    """Looks are cheap and as rare as `EVERY`: `tell` may be called in every cycle, always by the same thread."""

    def __init__(self, read: Callable[[], tuple[float, float]] | None = None) -> None:
        """`read`: ticks that all cores had and that they were busy, since any moment; None: of this machine."""
        self._read = read or _machine
        self._at = trio.current_time()
        self._all, self._used = self._read()
        self._own = time.thread_time()

    def tell(self, linger: Linger) -> None:
        """Tell `linger`, if it is time."""
        now = trio.current_time()
        if now < self._at + EVERY:
            return
        (every, used), own = self._read(), time.thread_time()
        machine = (used - self._used) / (every - self._all) if every > self._all else 0.0
        linger.told(min(1.0, max(machine, (own - self._own) / (now - self._at))))
        self._at, self._all, self._used, self._own = now, every, used, own


def _machine() -> tuple[float, float]:
    try:
        with open("/proc/stat", "rb") as file:
            fields = [int(word) for word in file.readline().split()[1:9]]
    except OSError:
        return 0.0, 0.0  # no Linux: what this thread itself uses has to do
    every = sum(fields)
    return every, every - sum(fields[n] for n in _IDLE)
