"""Times and numbers as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from chat.tools.trace.facts import Slice


def moment(ms: int | None) -> datetime | None:
    try:
        return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def clock(ms: int | None) -> str:
    """`10:31:02.123Z`: the time of day, UTC."""
    at = moment(ms)
    return "an unknown time" if at is None else f"{at:%H:%M:%S}.{at.microsecond // 1000:03}Z"


def day(ms: int | None) -> str:
    at = moment(ms)
    return "" if at is None else f"{at:%Y-%m-%d}"


def span(ms: int) -> str:
    """A length of time."""
    if abs(ms) < 1_000:
        return f"{ms} ms"
    if abs(ms) < 120_000:
        return f"{ms / 1_000:.1f} s"
    if abs(ms) < 7_200_000:
        return f"{ms / 60_000:.0f} min"
    return f"{ms / 3_600_000:.1f} h"


def count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 1_000) -> str:
    """`a, b and c`; beyond `most`: how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def several(slices: Sequence[Slice]) -> str:
    return listed([f"slice {s.number}" for s in slices], 5)
