"""How fast: the records' own time, ten times that, or as fast as it goes. Pure; `now` is seconds on any steady clock."""

from __future__ import annotations

from typing import Final

SPEEDS: Final = "1x, 10x, 0.5x … or max"


def parse_speed(text: str) -> float | None:
    """Record seconds for each second; None: max. Raises ValueError."""
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise ValueError(f"{text!r} is no speed: {SPEEDS}")
    return speed


class Pace:
    """When a record is due. A record whose time steps back is due at once."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._begin: tuple[int, float] | None = None

    def due(self, time_ms: int, now: float) -> float:
        """On the clock of `now`; the first record is due now."""
        if self._begin is None:
            self._begin = (time_ms, now)
        first, began = self._begin
        return began + (time_ms - first) / 1000 / self._speed
