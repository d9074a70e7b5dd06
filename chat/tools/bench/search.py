"""The highest rate that holds, in a bounded number of runs: up by a factor until one does not hold, then halving. Pure."""

from __future__ import annotations

from typing import Final

#: A rate is good enough when the next one known not to hold is no further above it.
CLOSE: Final = 1.08


class Search:
    """`next` is the rate to try, None when it is over; `tell` how it went. `best`: the highest that held."""

    def __init__(self, first: float, factor: float = 1.4, runs: int = 8) -> None:
        self.best: float | None = None
        self._bad: float | None = None  # the lowest that did not hold
        self._rate = first
        self._factor = factor
        self._runs = runs

    @property
    def next(self) -> float | None:
        if self._runs <= 0:
            return None
        best, bad = self.best, self._bad
        if best is not None and bad is not None and bad <= best * CLOSE:
            return None
        return round(self._rate)

    def tell(self, held: bool) -> None:
        rate = self._rate
        self._runs -= 1
        if held:
            self.best = rate if self.best is None else max(self.best, rate)
        else:
            self._bad = rate if self._bad is None else min(self._bad, rate)
        if self._bad is None:
            self._rate = rate * self._factor
        elif self.best is None:
            self._rate = rate / self._factor
        else:
            self._rate = (self.best + self._bad) / 2
