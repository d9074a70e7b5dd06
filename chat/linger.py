"""How long after the start of one cycle the next one may start, while there is always something to do. Pure.

A cycle costs more than a message, so the busier the machine, the more messages should share one. How busy it is shows in
how long a cycle takes, compared with the quickest of late: on an idle machine they are alike, on one that is full a cycle
waits for its turn at every step. The pause is mean² / (8 × quickest): an eighth of a cycle where there is room, two
cycles where each takes sixteen times as long as it could.
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.1  # of the newest cycle in the mean
FORGET: Final = 1.0003  # a cycle: the quickest ever says little about a network that has become slower
FIRST: Final = 60.0  # seconds: longer than any cycle


class Linger:
    """Seconds throughout."""

    __slots__ = ("_least", "_mean", "_most", "_quickest", "seconds")

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = max(least, most)
        self._mean = 0.0
        self._quickest = FIRST
        self.seconds = least

    def took(self, cycle: float) -> None:
        """A cycle has ended; one that has failed is not told."""
        self._mean = self._mean + WEIGHT * (cycle - self._mean) if self._mean else cycle
        self._quickest = max(min(self._quickest * FORGET, cycle), 1e-6)
        self.seconds = min(self._most, max(self._least, self._mean**2 / (8 * self._quickest)))
