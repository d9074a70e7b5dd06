"""The open loop: when messages are due, whatever the servers do. Pure."""

from __future__ import annotations


class Pace:
    """`rate` messages a second, evenly spread over `duration` seconds from `begin`; times are in nanoseconds."""

    def __init__(self, begin: int, rate: float, duration: float) -> None:
        self.begin = begin
        self.total = round(rate * duration)
        self.issued = 0
        self._gap = 1e9 / rate if rate > 0 else 0.0

    @property
    def next_due(self) -> int | None:
        """When the next one is meant to be sent; None: all were."""
        if self.issued >= self.total:
            return None
        return self.begin + int(self.issued * self._gap)

    def take(self, now: int) -> int | None:
        """The intended time of the next message if it is due, and on to the one after."""
        due = self.next_due
        if due is None or due > now:
            return None
        self.issued += 1
        return due
