"""A histogram of latencies in constant memory. Pure.

Buckets are logarithmic with `SUB` linear steps per power of two, so a quantile is at most 1/SUB (0.8 %) above the true
value; mean, count and maximum are exact. Values are whole microseconds.
"""

from __future__ import annotations

from typing import Final

SUB_BITS: Final = 7
SUB: Final = 1 << SUB_BITS
_TOP: Final = 36  # bits; 2^36 µs are 19 hours, above that all falls into the last bucket


class Histogram:
    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        self._buckets = [0] * ((_TOP - SUB_BITS + 1) * SUB)
        self.count = 0
        self.total = 0
        self.longest = 0

    def add(self, micros: int) -> None:
        micros = max(micros, 0)  # two clock reads of different sources may disagree by a microsecond
        self.count += 1
        self.total += micros
        self.longest = max(self.longest, micros)
        shift = micros.bit_length() - SUB_BITS - 1
        if shift <= 0:
            self._buckets[micros] += 1
        else:
            at = shift * SUB + (micros >> shift)
            self._buckets[min(at, len(self._buckets) - 1)] += 1

    def merge(self, other: Histogram) -> None:
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]

    @property
    def mean(self) -> float:
        """In microseconds; 0 where there is nothing."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> int:
        """The smallest bucket's upper edge, in microseconds, that at least the share `q` of all values does not exceed."""
        wanted = max(1, -(-int(q * self.count * 1_000_000) // 1_000_000))
        seen = 0
        for at, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return min(_upper(at), self.longest)
        return self.longest

    def summary(self) -> dict[str, float]:
        """Milliseconds, as reports show them."""
        return {
            "count": self.count,
            "mean_ms": round(self.mean / 1000, 3),
            "p50_ms": self.quantile(0.5) / 1000,
            "p99_ms": self.quantile(0.99) / 1000,
            "p999_ms": self.quantile(0.999) / 1000,
            "max_ms": self.longest / 1000,
        }


def _upper(at: int) -> int:
    """The largest value that falls into bucket `at`."""
    if at < 2 * SUB:
        return at
    shift = at // SUB - 1
    return ((at - shift * SUB + 1) << shift) - 1
