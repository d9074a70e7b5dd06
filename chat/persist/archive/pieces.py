"""What is asked of the archive and what it answers: parts of slices, and places in them. Pure.

A **piece** is a stretch of consecutive rows of a slice, either of one conversation of a timeline (in order of time) or of a
whole timeline (conversation by conversation). A **horizon** says how far down a read has looked: everything at or above it
was seen. (sent_at, position) or a position; None: down to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from chat.persist.row import Row

FOREVER: Final = 1 << 62
MOST_PIECES: Final = 64  # that one request opens; a page may be shorter for it


class Piece(NamedTuple):
    file: str
    first: int
    rows: int
    min_position: int
    max_position: int
    min_sent_at: int = 0
    max_sent_at: int = 0


class Place(NamedTuple):
    """A row of a slice."""

    file: str
    row: int


class Found(NamedTuple):
    """In order of time: compares by its first two."""

    sent_at: int
    position: int
    size: int  # of its body
    place: Place


class Where(NamedTuple):
    """Which rows of a piece. `kinds` empty: all. `before`: below this (sent_at, position)."""

    kinds: tuple[str, ...] = ()
    first: int = 0  # positions, both included
    last: int = FOREVER
    since: int = 0  # times, both included
    until: int = FOREVER
    before: tuple[int, int] | None = None


class Ask(NamedTuple):
    """A conversation's pieces, by the newest they have, backwards. `rest`: pieces that are not told have nothing newer than
    this (ms); None: all are told. `floor`: what is older than this (ms) is not wanted."""

    pieces: Sequence[Piece]
    where: Where
    rest: int | None = None
    floor: int | None = None


class Keys(NamedTuple):
    """The newest first. `stuck`: nothing can be said with the pieces that were told: tell more."""

    keys: Sequence[Found]
    horizon: tuple[int, int] | None
    stuck: bool = False


class Match(NamedTuple):
    number: int  # of the Ask
    row: Row


class Matches(NamedTuple):
    """Of a search, the newest first, all at or above the horizon."""

    matches: Sequence[Match]
    horizon: tuple[int, int] | None
    stuck: bool = False


class Ids(NamedTuple):
    """Messages of a stream in a conversation. Of the pieces' rows those with above < position < below."""

    sender: int
    stream: int
    seqs: frozenset[int]
    above: int
    below: int


def moves(bound: int, before: tuple[int, int] | None) -> bool:
    """Is a reader who stops above `bound` (ms) and goes on from (bound + 1, 0) further than he was?"""
    return before is None or (bound + 1, 0) < before
