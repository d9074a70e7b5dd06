"""Waiting longer after each failure, with jitter so that many do not come back at once."""

from __future__ import annotations

import random

import trio


class Backoff:
    """`next()` is the number of seconds to wait: drawn from the upper half of a bound that doubles from `first` to
    `most`. `reset()` after a success."""

    __slots__ = ("_bound", "_first", "_most")

    def __init__(self, first: float = 0.1, most: float = 5.0) -> None:
        self._first = first
        self._most = most
        self._bound = first

    def next(self) -> float:
        bound = self._bound
        self._bound = min(self._most, bound * 2)
        return bound * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._bound = self._first

    async def wait(self, unless: trio.Event) -> None:
        """Wait for `next()` seconds, or until `unless` is set."""
        with trio.move_on_after(self.next()):
            await unless.wait()
