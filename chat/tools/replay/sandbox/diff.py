"""Two sets of rows compared. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

What = Literal["missing", "extra", "different"]


class Row(NamedTuple):
    """A row of `messages` without its key."""

    conversation: str
    sent_at: int
    sender: int
    stream: int | None
    seq: int | None
    kind: str
    receipt: int
    body: bytes


class Difference(NamedTuple):
    """`missing`: the log has it, the live database does not. `extra`: the other way round. `where`: the row's key."""

    what: What
    table: str
    where: str
    detail: str


_NAMES: Final = Row._fields


def messages(timeline: str, replayed: Mapping[int, Row], live: Mapping[int, Row]) -> Iterator[Difference]:
    """Rows of a timeline by their positions, in their order."""
    for pos in sorted(replayed.keys() | live.keys()):
        ours, theirs = replayed.get(pos), live.get(pos)
        where = f"{timeline}@{pos}"
        if theirs is None:
            assert ours is not None
            yield Difference("missing", "messages", where, _says(ours))
        elif ours is None:
            yield Difference("extra", "messages", where, _says(theirs))
        elif ours != theirs:
            yield Difference("different", "messages", where, _fields(_NAMES, ours, theirs))


def _says(row: Row) -> str:
    return f"from {row.sender} in {row.conversation}: " + (row.kind if row.seq is None else f"{row.stream}/{row.seq}")


def _fields(names: Sequence[str], ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    said = []
    for name, a, b in zip(names, ours, theirs, strict=True):
        if a != b:
            said.append(f"{name} ({len(a)} and {len(b)} bytes)" if isinstance(a, bytes) else f"{name} {a}, live {b}")
    return "; ".join(said)


def stream(where: str, end: int, ours: tuple[int, int], theirs: tuple[int, int] | None) -> Difference | None:
    """(next_seq, last_position) of a stream. A live one that was written after the range may be ahead; `end`: where the
    range ends in its timeline, as a position."""
    if theirs is None:
        return Difference("missing", "streams", where, f"next_seq {ours[0]}")
    ahead = theirs[1] >= end and theirs[0] >= ours[0]
    if ours == theirs or ahead:
        return None
    return Difference("different", "streams", where, _fields(("next_seq", "last_position"), ours, theirs))


def mark(table: str, where: str, name: str, ours: int, theirs: int | None) -> Difference | None:
    """What only grows: a cursor, a read mark. The live one may be ahead."""
    if theirs is None:
        return Difference("missing", table, where, f"{name} {ours}")
    if theirs >= ours:
        return None
    return Difference("different", table, where, _fields((name,), (ours,), (theirs,)))
