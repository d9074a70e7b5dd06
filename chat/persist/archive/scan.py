"""What is asked of the archive, answered from columns: rows by position, by time, by id, by text. For worker threads.

Rows are chosen by whole columns in Arrow, which leaves the interpreter to the loop; only what was chosen becomes Python.
Pieces are looked at from the newest on, and only as far as rows are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chat.errors import PartAway
from chat.persist.archive.needle import pattern
from chat.persist.archive.pieces import MOST_PIECES, Ask, Found, Ids, Keys, Match, Matches, Piece, Place, Where, moves
from chat.persist.archive.reader import Group, Reader
from chat.persist.row import Row
from chat.protocol import decode_message

#: Of one search: rows looked at, and seconds after which it does not begin another row group.
SEARCH_ROWS: Final = 200_000
SEARCH_S: Final = 0.3

_ROW: Final = ("position", "sent_at", "kind", "sender", "stream", "seq", "receipt", "body")
_BARE: Final = _ROW[:-1]


# ------------------------------------------------------------------ by position


def by_position(
    reader: Reader, pieces: Sequence[Piece], above: int, below: int, *, limit: int, newest: bool
) -> list[tuple[int, Place]]:
    """The first rows with above < position < below of a timeline, or the last ones (`newest`: backwards)."""
    found: list[tuple[int, Place]] = []
    rest = sorted(pieces, key=lambda p: -p.max_position if newest else p.min_position)
    for piece in rest:
        if len(found) >= limit:
            edge = found[limit - 1][0]
            if piece.max_position < edge if newest else piece.min_position > edge:
                break
        for group in reader.groups(piece.file, piece.first, piece.rows):
            found += _positions(reader, piece, group, above, below, limit=limit, newest=newest)
        found.sort(reverse=newest)
        del found[limit:]
    return found


def _positions(
    reader: Reader, piece: Piece, group: Group, above: int, below: int, *, limit: int, newest: bool
) -> list[tuple[int, Place]]:
    if group.max_position is not None and group.max_position <= above:
        return []
    if group.min_position is not None and group.min_position >= below:
        return []
    start, end = _within(piece, group)
    (positions,) = _slices(reader, piece.file, group, ("position",), start, end)
    chosen = pc.indices_nonzero(pc.and_(pc.greater(positions, above), pc.less(positions, below)))
    values = positions.take(chosen)
    if len(values) > limit:
        best = pc.select_k_unstable(values, limit, [("", "descending" if newest else "ascending")])
        chosen, values = chosen.take(best), values.take(best)
    first = group.first + start
    return [(p, Place(piece.file, first + n)) for p, n in zip(values.to_pylist(), chosen.to_pylist(), strict=True)]


def count(reader: Reader, pieces: Sequence[Piece], above: int, below: int) -> int:
    """How many rows have above < position < below."""
    total = 0
    for piece in pieces:
        if piece.min_position > above and piece.max_position < below:
            total += piece.rows
            continue
        for group in reader.groups(piece.file, piece.first, piece.rows):
            (positions,) = _slices(reader, piece.file, group, ("position",), *_within(piece, group))
            total += pc.sum(pc.and_(pc.greater(positions, above), pc.less(positions, below))).as_py() or 0
    return total


def at_positions(reader: Reader, pieces: Sequence[Piece], positions: Sequence[int]) -> list[Row]:
    """Of a timeline, those of these positions that are there."""
    wanted = pa.array(sorted(positions), pa.int64())
    places: list[Place] = []
    for piece in pieces:
        for group in reader.groups(piece.file, piece.first, piece.rows):
            start, end = _within(piece, group)
            (found,) = _slices(reader, piece.file, group, ("position",), start, end)
            chosen = pc.indices_nonzero(pc.is_in(found, value_set=wanted)).to_pylist()
            places += [Place(piece.file, group.first + start + n) for n in chosen]
    return rows(reader, places, bodies=True)


# ------------------------------------------------------------------ rows


def rows(reader: Reader, places: Sequence[Place], *, bodies: bool) -> list[Row]:
    """In the order of the places."""
    names = _ROW if bodies else _BARE
    by_group: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for n, (file, row) in enumerate(places):
        (group,) = reader.groups(file, row, 1)
        by_group.setdefault((file, group.number), []).append((n, row - group.first))
    made: dict[int, Row] = {}
    for (file, number), wanted in by_group.items():
        columns = reader.columns(file, number, names)
        chosen = pa.array([row for _, row in wanted], pa.int64())
        taken = [column.take(chosen).to_pylist() for column in columns]
        if not bodies:
            taken.append([b""] * len(wanted))
        for (n, _), values in zip(wanted, zip(*taken, strict=True), strict=True):
            made[n] = _row(values)
    return [made[n] for n in range(len(places))]


def _row(values: Sequence[Any]) -> Row:
    position, sent_at, kind, sender, stream, seq, receipt, body = values
    return Row(position, sent_at, kind, sender, stream, seq, int(receipt), body)


# ------------------------------------------------------------------ by time


class _Unit(NamedTuple):
    """A part of a piece that lies in one row group: its rows start <= row < end, numbered within the group."""

    piece: Piece
    group: Group
    start: int
    end: int


class _Walk:
    """The units of conversations from the newest on, by what their newest row may be. A piece is opened when it is its
    turn."""

    def __init__(self, reader: Reader, asks: Sequence[Ask]) -> None:
        self._reader = reader
        self._asks = asks
        self._count = 0
        #: (minus the newest time, tie, number of the Ask, a piece, a unit of it, or None: pieces that were not told)
        self._heap: list[tuple[int, int, int, Piece | _Unit | None]] = []
        for n, ask in enumerate(asks):
            for piece in ask.pieces:
                self._heap.append((-piece.max_sent_at, self._next(), n, piece))
            if ask.rest is not None:
                self._heap.append((-ask.rest, self._next(), n, None))
        heapify(self._heap)
        self.opened = 0

    def _next(self) -> int:
        self._count += 1
        return self._count

    @property
    def bound(self) -> int | None:
        """Nothing that is still to come is newer than this (ms); None: nothing is to come."""
        return -self._heap[0][0] if self._heap else None

    @property
    def untold(self) -> bool:
        """What comes next is among pieces that were not told."""
        return self._heap[0][3] is None

    def step(self) -> tuple[int, _Unit] | None:
        """The next unit; None: a piece was opened, look at the bound again."""
        _, _, n, item = heappop(self._heap)
        assert item is not None
        if isinstance(item, _Unit):
            return n, item
        self.opened += 1
        before, since = self._asks[n].where.before, self._asks[n].where.since
        for group in self._reader.groups(item.file, item.first, item.rows):
            newest = item.max_sent_at if group.max_sent_at is None else min(item.max_sent_at, group.max_sent_at)
            if newest >= since and (before is None or item.min_sent_at <= before[0]):
                heappush(self._heap, (-newest, self._next(), n, _Unit(item, group, *_within(item, group))))
        return None


def newest(reader: Reader, ask: Ask, limit: int) -> Keys:
    """The newest rows of a conversation, `limit` of them or all that `floor` leaves."""
    walk, found = _Walk(reader, [ask]), list[Found]()
    horizon = None
    while (bound := walk.bound) is not None:
        if (len(found) >= limit and found[limit - 1].sent_at > bound) or (ask.floor is not None and bound < ask.floor):
            break
        if (walk.untold or walk.opened >= MOST_PIECES) and moves(bound, ask.where.before):
            horizon = (bound + 1, 0)
            break
        if walk.untold:
            return Keys((), None, stuck=True)
        if (step := walk.step()) is not None:
            found += _keys(reader, step[1], ask.where, limit)
            found.sort(reverse=True)
            del found[limit:]
    return Keys([f for f in found if horizon is None or f[:2] >= horizon], horizon)


def _keys(reader: Reader, unit: _Unit, where: Where, limit: int) -> Iterator[Found]:
    times, positions, bodies = _slices(reader, unit.piece.file, unit.group, ("sent_at", "position", "body"), *unit[2:])
    chosen = _chosen(reader, unit, where)
    chosen = chosen.slice(max(0, len(chosen) - limit))
    sizes = pc.binary_length(bodies.take(chosen)).to_pylist()
    first = unit.group.first + unit.start
    for sent_at, position, size, row in zip(
        times.take(chosen).to_pylist(), positions.take(chosen).to_pylist(), sizes, chosen.to_pylist(), strict=True
    ):
        yield Found(sent_at, position, size, Place(unit.piece.file, first + row))


def unread(reader: Reader, ask: Ask, limit: int, user: int) -> int:
    """Of the newest `limit` rows of a conversation, the texts that are of others."""
    walk, looked, total = _Walk(reader, [ask]), 0, 0
    while looked < limit and walk.bound is not None and not walk.untold:
        if (step := walk.step()) is None:
            continue
        unit = step[1]
        chosen = _chosen(reader, unit, ask.where)
        chosen = chosen.slice(max(0, len(chosen) - (limit - looked)))
        looked += len(chosen)
        kinds, senders = _slices(reader, unit.piece.file, unit.group, ("kind", "sender"), *unit[2:])
        theirs = pc.and_(pc.equal(kinds.take(chosen), "text"), pc.not_equal(senders.take(chosen), user))
        total += pc.sum(theirs).as_py() or 0
    return total


def _chosen(reader: Reader, unit: _Unit, where: Where) -> Any:
    """The rows of a unit that `where` lets through, in their order."""
    names = ("sent_at", "position", "kind")
    times, positions, kinds = _slices(reader, unit.piece.file, unit.group, names, unit.start, unit.end)
    mask = pc.and_(pc.greater_equal(times, where.since), pc.less_equal(times, where.until))
    if where.first or where.last < unit.piece.max_position:
        mask = pc.and_(mask, pc.and_(pc.greater_equal(positions, where.first), pc.less_equal(positions, where.last)))
    if where.before is not None:
        sent_at, position = where.before
        same = pc.and_(pc.equal(times, sent_at), pc.less(positions, position))
        mask = pc.and_(mask, pc.or_(pc.less(times, sent_at), same))
    if where.kinds:
        mask = pc.and_(mask, pc.is_in(kinds, value_set=pa.array(where.kinds)))
    return pc.indices_nonzero(mask)


# ------------------------------------------------------------------ by id


def find(reader: Reader, pieces: Sequence[Piece], ids: Ids) -> list[tuple[int, Place]]:
    """(position, place) of those that are there. Within a stream positions grow with seqs: once a lower seq was met, what
    lies below it is not looked at."""
    found: list[tuple[int, Place]] = []
    left, above, least = set(ids.seqs), ids.above, min(ids.seqs)
    wanted = pa.array(sorted(ids.seqs), pa.int64())
    for piece in sorted(pieces, key=lambda p: p.max_position, reverse=True):
        if not left or piece.max_position <= above:
            break
        if piece.min_position >= ids.below:
            continue
        for group in reader.groups(piece.file, piece.first, piece.rows):
            start, end = _within(piece, group)
            names = ("stream", "sender", "seq", "position")
            streams, senders, seqs, positions = _slices(reader, piece.file, group, names, start, end)
            ours = pc.and_(pc.equal(streams, ids.stream), pc.equal(senders, ids.sender))
            lower = pc.max(positions.filter(pc.and_(ours, pc.less(seqs, least)))).as_py()
            above = max(above, lower or 0)
            chosen = pc.indices_nonzero(pc.and_(ours, pc.is_in(seqs, value_set=wanted)))
            left.difference_update(seqs.take(chosen).to_pylist())
            first = group.first + start
            found += [
                (position, Place(piece.file, first + row))
                for position, row in zip(positions.take(chosen).to_pylist(), chosen.to_pylist(), strict=True)
            ]
    return sorted(found)


# ------------------------------------------------------------------ by text


def search_by_time(reader: Reader, asks: Sequence[Ask], needle: str, limit: int, floor: int | None) -> Matches:
    """The newest matches of conversations, which all have the same `before`. `needle` is case folded. Looks at a bounded
    number of rows, and at nothing older than `floor` (ms). At least `limit` matches, where there is no horizon."""
    walk, found, told = _Walk(reader, asks), list[Match](), list[tuple[int, int]]()
    before = asks[0].where.before if asks else None
    seen, ends = 0, time.monotonic() + SEARCH_S
    text = pattern(needle)
    while (bound := walk.bound) is not None:
        enough = len(found) >= limit and found[limit - 1].row.sent_at > bound
        if floor is not None and bound < floor:
            told.append((bound + 1, 0))
            break
        spent = seen >= SEARCH_ROWS or walk.opened >= MOST_PIECES or time.monotonic() > ends
        if enough or ((walk.untold or spent) and moves(bound, before)):
            told.append((bound + 1, 0))
            break
        if walk.untold:
            return Matches((), None, stuck=True)
        if (step := walk.step()) is None:
            continue
        n, unit = step
        seen += unit.end - unit.start
        chosen = _chosen(reader, unit, asks[n].where)
        rows_found, whole = _matching(
            reader, unit.piece.file, unit.group, _moved(chosen, unit.start), text=text, needle=needle, limit=limit
        )
        if not whole:
            told.append((rows_found[-1].sent_at, rows_found[-1].position))
        found += [Match(n, row) for row in rows_found]
        found.sort(key=lambda m: m.row[1::-1], reverse=True)
    horizon = max(told, default=None)
    return Matches([m for m in found if horizon is None or m.row[1::-1] >= horizon], horizon)


def search_by_position(reader: Reader, pieces: Sequence[Piece], below: int, needle: str, limit: int) -> Matches:
    """The last matching texts of a timeline below a position, backwards. The horizon is (position, 0)."""
    found, told = list[Row](), list[int]()
    seen, ends = 0, time.monotonic() + SEARCH_S
    text = pattern(needle)
    rest = sorted(pieces, key=lambda p: p.max_position, reverse=True)
    for number, piece in enumerate(rest):
        bound = piece.max_position
        enough = len(found) >= limit and found[limit - 1].position > bound
        spent = seen >= SEARCH_ROWS or number >= MOST_PIECES or time.monotonic() > ends
        if enough or (spent and bound + 1 < below):
            told.append(bound + 1)
            break
        of_piece: list[Row] = []
        for group in reader.groups(piece.file, piece.first, piece.rows):
            if group.min_position is not None and group.min_position >= below:
                continue
            start, end = _within(piece, group)
            seen += end - start
            positions, kinds = _slices(reader, piece.file, group, ("position", "kind"), start, end)
            chosen = pc.indices_nonzero(pc.and_(pc.less(positions, below), pc.equal(kinds, "text")))
            order = pc.sort_indices(positions.take(chosen))
            rows_found, whole = _matching(
                reader, piece.file, group, _moved(chosen.take(order), start), text=text, needle=needle, limit=limit
            )
            if not whole:
                told.append(rows_found[-1].position)
            of_piece += rows_found
        found += of_piece
        found.sort(reverse=True)
    horizon = max(told, default=None)
    matches = [Match(0, row) for row in found if horizon is None or row.position >= horizon]
    return Matches(matches, None if horizon is None else (horizon, 0))


def _matching(
    reader: Reader, file: str, group: Group, rows_chosen: Any, *, text: str, needle: str, limit: int
) -> tuple[list[Row], bool]:
    """Of the chosen rows, from the last one on, those whose text has the needle: all, or (False) the first `limit`."""
    (bodies,) = reader.columns(file, group.number, ("body",))
    able = pc.match_substring_regex(_as_text(bodies.take(rows_chosen)), text)
    candidates = rows_chosen.filter(able).to_pylist()
    found: list[Row] = []
    for at in range(len(candidates), 0, -limit):
        places = [Place(file, group.first + row) for row in reversed(candidates[max(0, at - limit) : at])]
        for row in rows(reader, places, bodies=True):
            if contains(row.body, needle):
                found.append(row)
                if len(found) >= limit:
                    return found, False
        reader.check()
    return found, True


def _as_text(bodies: Any) -> Any:
    try:
        return bodies.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise PartAway("archive", f"a body is not UTF-8: {error}") from error


def contains(body: bytes, needle: str) -> bool:
    """Does the text of an encoded message, case folded, have the needle in it?"""
    said = decode_message(body).text
    return isinstance(said, str) and needle in said.casefold()


# ------------------------------------------------------------------ columns


def _within(piece: Piece, group: Group) -> tuple[int, int]:
    """The piece's rows in a row group, numbered within the group."""
    return max(piece.first, group.first) - group.first, min(piece.first + piece.rows, group.end) - group.first


def _moved(chosen: Any, start: int) -> Any:
    """Row numbers of a part of a row group, as those of the whole."""
    return pc.add(chosen.cast(pa.int64()), start)


def _slices(  # noqa: PLR0917  # in the order in which they narrow down what is read
    reader: Reader, file: str, group: Group, names: Sequence[str], start: int, end: int
) -> list[Any]:
    reader.check()
    return [column.slice(start, end - start) for column in reader.columns(file, group.number, names)]
