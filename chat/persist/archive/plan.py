"""What the archiver does next: which messages, in which stretches of the table. Pure.

**The limit.** A run moves the messages sent before a time that is fixed when it begins: by age, or, where the table has too
many rows, so that about as many are left as are to be kept.

**The walk.** A run goes once through the table in the order of its primary key. What it reads at a time (a window) follows
what rows have been so far; windows are gathered until they make a slice.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from chat.config import ArchiveConfig

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

Key = tuple[str, int]  # timeline, position
FIRST: Final[Key] = ("", 0)
LAST: Final[Key] = ("~", 0)  # behind all timelines

#: Rows and bytes of a window. The bytes are aimed at; a window that is too large is asked for again by halves.
WINDOW_ROWS: Final = 8_192
WINDOW_BYTES: Final = 4 << 20
#: Bytes after which a slice ends, however few its rows.
SLICE_BYTES: Final = 48 << 20


class Range(NamedTuple):
    """The rows with after < key <= upto."""

    after: Key
    upto: Key


def window_rows(seen_rows: int, seen_bytes: int, room: int, slice_rows: int) -> int:
    """How many rows to ask for, after a window of `seen_rows` and `seen_bytes` (0: none yet), with `room` rows left in a
    slice of `slice_rows`. At least one; a slice is not filled up by tiny ones."""
    fit = WINDOW_ROWS if seen_rows <= 0 else WINDOW_BYTES * seen_rows // max(1, seen_bytes)
    return max(1, min(fit, WINDOW_ROWS, max(room, slice_rows // 8)))


def is_full(rows: int, size: int, slice_rows: int) -> bool:
    """Is it time to make a slice of what was gathered?"""
    return rows >= slice_rows or size >= SLICE_BYTES


class Bin(NamedTuple):
    """Of the histogram of the table: rows with begin <= sent_at < the next bin's begin."""

    begin: int
    rows: int


def limit_by_rows(bins: Sequence[Bin], keep_rows: int) -> int | None:
    """Before which time messages go, so that at most `keep_rows` are left, or but little more: a bin is not cut. None: there
    are no more. `bins` in order of time."""
    left = sum(b.rows for b in bins)
    limit = None
    for one, following in pairwise(bins):
        if left <= keep_rows:
            break
        left -= one.rows
        limit = following.begin
    return limit


def oldest_kept(now: int, days: float) -> int | None:
    """Messages sent before this are too old; None: nothing ever is."""
    return now - int(days * DAY_MS) if days > 0 else None


# ------------------------------------------------------------------ when


#: Messages younger than this are never moved, however many rows there are: clocks differ, and they are being written.
YOUNG_MS: Final = 600_000


class Past(NamedTuple):
    """`began_at`: when the last run by itself that came to its end began (ms); None: there was none. `rows`: about so many
    are hot."""

    began_at: int | None
    rows: int


class Due(NamedTuple):
    """`why`: age, rows, or empty: no run now. `expire`: is it time to look for what is too old, sent before
    `expire_before`."""

    why: str
    before: int
    expire: bool
    expire_before: int


def due(config: ArchiveConfig, now: int, past: Past, bins: Sequence[Bin]) -> Due:
    """What a look has to do. `bins`: the histogram, where it was worth making."""
    before, why = now - int(config.age_days * DAY_MS), ""
    daily = past.began_at is None or now - past.began_at >= config.run_hours * HOUR_MS
    if daily:
        why = "age"
    if sum(b.rows for b in bins) > config.max_rows:
        limit = limit_by_rows(bins, config.keep_rows)
        if limit is not None and limit > before:
            before, why = limit, "rows"
    before = min(before, now - YOUNG_MS)
    kept = oldest_kept(now, config.retention_days)
    return Due(why, before, daily and kept is not None, kept or 0)


class Fate(enum.Enum):
    """Of a slice, when what was sent before a time is to go."""

    KEEP = "keep"
    REWRITE = "rewrite"
    DROP = "drop"


def slack(days: float) -> int:
    """How much longer than `days` a message may stay in a slice that has younger ones too (ms): rewriting it every day for
    a day's messages would be much work for little."""
    return int(max(1.0, days / 20) * DAY_MS)


def fate(min_sent_at: int, max_sent_at: int, before: int, slack_ms: int) -> Fate:
    if max_sent_at < before:
        return Fate.DROP
    return Fate.REWRITE if min_sent_at < before - slack_ms else Fate.KEEP
