"""A memory with a bound in bytes; what was not used for longest goes first. Threads may share it."""

from __future__ import annotations

from collections.abc import Hashable
from threading import Lock
from typing import Any


class Lru:
    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: dict[Hashable, tuple[Any, int]] = {}
        self._lock = Lock()
        self.bytes = 0

    def get(self, key: Hashable) -> Any:
        """None: it is not there."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                return None
            self._kept[key] = found
            return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """What is larger than the whole bound is not kept."""
        if size > self._most:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self.bytes += size - (before[1] if before else 0)
            self._kept[key] = (value, size)
            while self.bytes > self._most:
                self.bytes -= self._kept.pop(next(iter(self._kept)))[1]

    def __len__(self) -> int:
        return len(self._kept)
