"""The archive's index in SQL: is there anything archived in a range, and where it lies. Pure.

A row is hot or indexed, never both and never neither, in any snapshot: so a statement that reads both, or a snapshot, sees
each row once. The **probes** go into the statements that read hot rows: one SELECT for all that these ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from chat.persist.archive.pieces import FOREVER, Piece
from chat.ports import Result, Statement

_OF_PIECE: Final = "s.file, i.first_row, i.row_count, i.min_position, i.max_position, i.min_sent_at, i.max_sent_at"


def timelines_probe(columns: str, timelines: Mapping[str, int]) -> Statement:
    """Of each timeline that has archived rows above its position, one row of `columns`, which may speak of `timeline` and
    `newest`: the highest archived position."""
    where = " OR ".join(["(timeline = %s AND max_position > %s)"] * len(timelines))
    return Statement(
        f"SELECT {columns} FROM (SELECT timeline, MAX(max_position) AS newest FROM archive_index FORCE INDEX (by_position)"
        f" WHERE {where} GROUP BY timeline) a",
        [value for pair in timelines.items() for value in pair],
    )


def conversations_probe(columns: str, conversations: Collection[tuple[str, str]]) -> Statement:
    """Of each (timeline, conversation) that has archived rows, one row of `columns`, which may speak of `timeline`,
    `conversation`, and `newest`: the time of the newest (ms)."""
    where = " OR ".join(["(timeline = %s AND conversation = %s)"] * len(conversations))
    return Statement(
        f"SELECT {columns} FROM (SELECT timeline, conversation, MAX(max_sent_at) AS newest FROM archive_index"
        f" FORCE INDEX (by_time) WHERE {where} GROUP BY timeline, conversation) a",
        [value for pair in conversations for value in pair],
    )


def timeline_pieces(timeline: str, above: int, below: int | None) -> Statement:
    """For `pieces_of`: where rows with above < position < below lie, a piece a slice: a timeline's rows lie together."""
    return Statement(
        "SELECT s.file, p.first_row, p.end_row - p.first_row, p.low, p.high, 0, 0 FROM (SELECT slice, MIN(first_row) AS"
        " first_row, MAX(first_row + row_count) AS end_row, MIN(min_position) AS low, MAX(max_position) AS high FROM"
        " archive_index FORCE INDEX (by_position) WHERE timeline = %s AND max_position > %s AND min_position < %s"
        " GROUP BY slice) p JOIN archive_slices s ON s.id = p.slice",
        (timeline, above, FOREVER if below is None else below),
    )


def conversation_pieces(
    n: int, timeline: str, conversation: str, limit: int, *, conditions: str = "", args: Sequence[Any] = ()
) -> Statement:
    """For `pieces_by`: the pieces with the newest rows, `limit` of them. `conditions` begin with AND; the index is `i`."""
    return Statement(
        f"SELECT {n}, {_OF_PIECE} FROM archive_index i FORCE INDEX (by_time) JOIN archive_slices s ON s.id = i.slice"
        f" WHERE i.timeline = %s AND i.conversation = %s{conditions} ORDER BY i.max_sent_at DESC LIMIT %s",
        (timeline, conversation, *args, limit),
    )


def pieces_of(result: Result) -> list[Piece]:
    return [_piece(r) for r in result.rows]


def pieces_by(result: Result) -> dict[int, list[Piece]]:
    """By the numbers that were given to the statements, in their order (the newest row first)."""
    found: dict[int, list[Piece]] = {}
    for n, *of_piece in result.rows:
        found.setdefault(n, []).append(_piece(of_piece))
    for pieces in found.values():
        pieces.sort(key=lambda p: p.max_sent_at, reverse=True)
    return found


def _piece(row: Sequence[Any]) -> Piece:
    return Piece(row[0] if isinstance(row[0], str) else row[0].decode("ascii"), *map(int, row[1:]))
