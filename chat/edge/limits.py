"""Rates and counts that bound what a connection, a user or an address may do. Pure: `now` (seconds) is an argument."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """`rate` tokens come per second, up to `burst`; it begins full. The bucket itself keeps only what changes: there are
    several per connection."""

    __slots__ = ("at", "tokens")

    def __init__(self, now: float, burst: float) -> None:
        self.tokens = burst
        self.at = now

    def take(self, now: float, rate: float, burst: float, cost: float = 1.0) -> float:
        """0 where `cost` tokens were taken; else how many seconds until they are there (nothing was taken)."""
        tokens = self.tokens + (now - self.at) * rate
        tokens = min(tokens, burst)
        self.at = now
        if tokens < cost:
            self.tokens = tokens
            return (cost - tokens) / rate
        self.tokens = tokens - cost
        return 0.0

    def wait(self, now: float, rate: float, burst: float) -> float:
        """Seconds until one token is there; 0: it is. Takes nothing."""
        tokens = min(burst, self.tokens + (now - self.at) * rate)
        return 0.0 if tokens >= 1 else (1 - tokens) / rate


class AddressTable:
    """Tries per address over a minute, in a bounded table: the addresses longest not seen are forgotten first (theirs
    have refilled before all others)."""

    def __init__(self, per_minute: int, entries: int = 50_000) -> None:
        self._rate = per_minute / 60
        self._burst = float(per_minute)
        self._entries = entries
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Seconds until the address may try again; 0: at once. Counts nothing."""
        bucket = self._buckets.get(address)
        return 0.0 if bucket is None else bucket.wait(now, self._rate, self._burst)

    def count(self, address: str, now: float) -> None:
        """A try was made that counts (it failed, or cost something)."""
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= self._entries:
                self._buckets.popitem(last=False)
            bucket = self._buckets[address] = TokenBucket(now, self._burst)
        else:
            self._buckets.move_to_end(address)
        bucket.take(now, self._rate, self._burst)

    def __len__(self) -> int:
        return len(self._buckets)


class Counts:
    """How many of each key there are; keys with none take no room."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self._counts.get(key, 0)

    def add(self, key: str) -> int:
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count

    def remove(self, key: str) -> None:
        left = self._counts.get(key, 0) - 1
        if left > 0:
            self._counts[key] = left
        else:
            self._counts.pop(key, None)

    def __len__(self) -> int:
        return len(self._counts)


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "")
