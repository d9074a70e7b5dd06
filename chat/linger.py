"""How long after the start of one cycle the next one may start, while there is always something to do. Pure.

A cycle costs more than a message, so the fuller the machine, the more messages should share one; where there is room, nobody
should wait for company. From `ROOM` to `FULL` of what the machine can do, the pause grows from `least` to `most`, by the
same factor for each step: longer pauses leave more of the machine free, which shortens them, and so it settles.
"""

from __future__ import annotations

from typing import Final

ROOM: Final = 0.8  # busy to this share, there is room
FULL: Final = 1.0
WEIGHT: Final = 0.3  # of the newest look in the mean
_SMALLEST: Final = 1e-4  # of `least`, to grow by a factor


class Linger:
    """Seconds throughout. `least` 0 and `most` 0: no pause ever."""

    __slots__ = ("_busy", "_least", "_most", "seconds")

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = max(least, most)
        self._busy = 0.0
        self.seconds = least

    def told(self, busy: float) -> None:
        """How busy the machine was since the last time, from 0 to 1."""
        self._busy += WEIGHT * (busy - self._busy)
        step = (self._busy - ROOM) / (FULL - ROOM)
        if step <= 0:
            self.seconds = self._least
        elif step >= 1:
            self.seconds = self._most
        else:
            first = max(self._least, min(_SMALLEST, self._most))
            self.seconds = first * (self._most / first) ** step if first else 0.0
