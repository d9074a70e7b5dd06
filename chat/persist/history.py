"""Reads of the record by position and by message id, for `sync` and `fetch`: SQL and row mapping, hot and cold as one.

The statements that read hot rows also say whether archived rows are in their range; most often there are none, and nothing
more is read. Else `whole` and its like read hot rows and the archive's index in one snapshot, then the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from chat.errors import PartAway
from chat.persist.archive import pieces
from chat.persist.archive.cold import Cold
from chat.persist.archive.index import (
    conversation_pieces,
    conversations_probe,
    pieces_by,
    pieces_of,
    timeline_pieces,
    timelines_probe,
)
from chat.persist.archive.pieces import FOREVER
from chat.persist.queries import OFFSETS, Ends, Interval, intervals, places, union
from chat.persist.row import Row
from chat.ports import Database, Result, Statement
from chat.records import TopicPartition

FIRST_ROWS: Final = 8  # a page of no more rows needs no count of bytes
PAGE_BYTES: Final = 1_000_000  # of bodies
MAX_HEADS: Final = 12_000  # of a timeline: what fits a frame. Beyond: the least recently written are left out

_COLUMNS = "position, sent_at, kind, sender, stream, seq, receipt, body"
_NOTHING = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
_MOST_PIECES: Final = 4_000  # of a conversation: a slice a day, for more than ten years
_JOINED = "m.position, m.sent_at, m.kind, m.sender, m.stream, m.seq, m.receipt"


class StreamHead(NamedTuple):
    conversation: str
    sender: int
    stream: int
    next: int
    last_position: int


class Wanted(NamedTuple):
    """A page of a timeline: rows with above < position (< below), at most limit + 1 of them (the one more says that there
    are more). `member`: (group, user) whose stays are wanted. `heads_since`: also the stream heads written since then (ms).
    `probe`: also, are there more than this many rows."""

    timeline: str
    above: int
    below: int | None
    limit: int
    member: tuple[int, int] | None = None
    heads_since: int | None = None
    probe: int | None = None


class Page(NamedTuple):
    """`rows` in order. `upto`: everything of the timeline below it is in the snapshot. `cold`: some of the range is archived
    and not among the rows: ask for the `whole`."""

    rows: Sequence[Row]
    upto: int
    stays: Sequence[Interval]
    heads: Sequence[StreamHead] | None
    beyond: bool
    cold: bool = False


class Ids(NamedTuple):
    """Messages by their ids. `member`: as above."""

    timeline: str
    conversation: str
    sender: int
    stream: int
    seqs: Sequence[int]
    member: tuple[int, int] | None


class Passed(NamedTuple):
    """What a user's device has acknowledged: his timeline's rows with after < position <= upto."""

    user: int
    after: int
    upto: int


#: The highest seq of a sender's stream.
Mark = tuple[int, int, int]  # sender, stream, seq


class Found(NamedTuple):
    rows: Sequence[Row]
    upto: int
    stays: Sequence[Interval]


Place = Callable[[str], TopicPartition]


class History:
    """`place` and `generation` say where timelines lie for this asker. All methods raise PartError."""

    def __init__(self, database: Database, place: Place, generation: Callable[[], int], cold: Cold) -> None:
        self._database = database
        self._cold = cold
        self._place = place
        self._generation = generation

    def ends(self, result: Result) -> Callable[[str], int]:
        """`upto` of a timeline, from the result of OFFSETS."""
        made: dict[str, Ends] = {}

        def upto(timeline: str) -> int:
            at = self._place(timeline)
            if at.topic not in made:
                made[at.topic] = Ends(result.rows, at.topic, self._generation())
            return made[at.topic].upto(timeline, at.partition)

        return upto

    async def stays(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Interval]]:
        """The stays of users in groups, given as (group, user), in order."""
        if not pairs:
            return {}
        (result,) = await self._database.read([intervals(pairs)])
        return _stays(result)

    async def pages(self, wanted: Sequence[Wanted]) -> list[Page]:
        """A page for each, all in one snapshot. Hot rows."""
        members = {w.member for w in wanted if w.member is not None}
        fresh = [(n, w) for n, w in enumerate(wanted) if w.heads_since is not None]
        probed = [(n, w) for n, w in enumerate(wanted) if w.probe is not None]
        parts = [_page(n, w) for n, w in enumerate(wanted)]
        least: dict[str, int] = {}
        for w in wanted:
            least[w.timeline] = min(w.above, least.get(w.timeline, w.above))
        probe = timelines_probe("-1, newest, NULL, NULL, NULL, NULL, NULL, NULL, timeline", least)
        statements = [OFFSETS, union([*parts, probe])]
        if members:
            statements.append(intervals(members))
        if fresh:
            statements.append(union([_heads(n, w) for n, w in fresh]))
        if probed:
            statements.append(union([_probe(n, w) for n, w in probed]))
        results = iter(await self._database.snapshot(statements))
        upto = self.ends(next(results))
        rows: list[list[Row]] = [[] for _ in wanted]
        archived: dict[str, int] = {}
        for r in next(results).rows:
            if r[0] < 0:
                archived[r[8].decode("ascii")] = r[1]
            else:
                rows[r[0]].append(Row(*r[1:]))
        stays = _stays(next(results)) if members else {}
        heads: dict[int, list[StreamHead]] = {n: [] for n, _ in fresh}
        if fresh:
            for r in next(results).rows:
                heads[r[0]].append(StreamHead(*r[1:]))
        beyond = {r[0] for r in next(results).rows} if probed else set()
        return [
            Page(
                sorted(rows[n]),
                upto(w.timeline),
                stays.get(w.member, []) if w.member is not None else [],
                heads.get(n),
                n in beyond,
                archived.get(w.timeline, 0) > w.above,
            )
            for n, w in enumerate(wanted)
        ]

    async def whole(self, wanted: Wanted) -> Page:
        """A page, hot and cold."""
        above, below = wanted.above, FOREVER if wanted.below is None else wanted.below
        statements = [OFFSETS, _page(0, wanted), timeline_pieces(wanted.timeline, above, wanted.below)]
        if wanted.member is not None:
            statements.append(intervals([wanted.member]))
        if wanted.heads_since is not None:
            statements.append(_heads(0, wanted))
        if wanted.probe is not None:
            statements.append(_count(wanted, wanted.probe))
        results = iter(await self._database.snapshot(statements))
        upto = self.ends(next(results))(wanted.timeline)
        hot = [Row(*r[1:]) for r in next(results).rows]
        archived = pieces_of(next(results))
        stays = _stays(next(results)).get(wanted.member, []) if wanted.member is not None else []
        heads = [StreamHead(*r[1:]) for r in next(results).rows] if wanted.heads_since is not None else None
        beyond = False
        if wanted.probe is not None:
            ((count,),) = next(results).rows
            beyond = count > wanted.probe or count + await self._cold.count(archived, above, below) > wanted.probe
        cold = await self._cold.by_position(archived, above, below, wanted.limit + 1)
        places_of_rows = [place for _, place in cold]
        rows = sorted(hot + await self._cold.rows(places_of_rows))[: wanted.limit + 1]
        return Page(_fitting(rows), upto, stays, heads, beyond)

    async def find(self, ids: Ids) -> Found:
        """The messages with these ids, as far as they are stored, with how far that is, in one snapshot. Those beyond the
        bytes of a page have no body."""
        probe = conversations_probe(_NOTHING, [(ids.timeline, ids.conversation)])
        statements = [OFFSETS, union([_by_ids(ids), probe])]
        if ids.member is not None:
            statements.append(intervals([ids.member]))
        results = await self._database.snapshot(statements)
        rows = [Row(*r) for r in results[1].rows if r[0] is not None]
        if len(rows) < len(results[1].rows) and len(rows) < len(set(ids.seqs)):
            return await self._find_whole(ids)
        stays = _stays(results[2]).get(ids.member, []) if ids.member is not None else []
        return Found(sorted(rows), self.ends(results[0])(ids.timeline), stays)

    async def _find_whole(self, ids: Ids) -> Found:
        """Within a stream positions grow with seqs, so hot rows of it say where in the archive to look."""
        statements = [
            OFFSETS,
            _by_ids(ids),
            conversation_pieces(0, ids.timeline, ids.conversation, _MOST_PIECES),
            _next_seq(ids),
            _neighbour(ids, "seq < %s ORDER BY seq DESC", min(ids.seqs)),
            _neighbour(ids, "seq > %s ORDER BY seq", max(ids.seqs)),
        ]
        if ids.member is not None:
            statements.append(intervals([ids.member]))
        results = await self._database.snapshot(statements)
        archived = pieces_by(results[2]).get(0, [])
        if len(archived) >= _MOST_PIECES:
            raise PartAway("archive", f"{ids.conversation} of {ids.timeline} lies in too many slices")
        hot = [Row(*r) for r in results[1].rows]
        next_seq = max((r[0] for r in results[3].rows), default=0)  # no such stream: none of its messages is stored
        missing = frozenset(s for s in ids.seqs if s < next_seq) - {r.seq for r in hot}
        rows = hot
        if missing:
            above = max((r[0] for r in results[4].rows), default=0)
            below = min((r[0] for r in results[5].rows), default=FOREVER)
            found = await self._cold.find(archived, pieces.Ids(ids.sender, ids.stream, missing, above, below))
            rows = hot + await self._cold.rows([place for _, place in found])
        stays = _stays(results[6]).get(ids.member, []) if ids.member is not None else []
        return Found(_bodies_that_fit(sorted(rows)), self.ends(results[0])(ids.timeline), stays)

    # ------------------------------------------------------------------ receipts

    async def receipts(self, passed: Sequence[Passed], limit: int) -> list[list[Mark] | None]:
        """Of each, the texts whose senders asked for a receipt, looked for among the newest `limit` rows. None: some of
        those are archived; ask for the whole."""
        parts = [_receipts(one, limit) for one in passed]
        found: list[list[Mark] | None] = []
        for result in await self._database.read(parts) if parts else ():
            marks = [(r[0], r[1], r[2]) for r in result.rows if r[0] is not None]
            found.append(marks if len(marks) == len(result.rows) else None)
        return found

    async def receipts_whole(self, one: Passed, limit: int) -> list[Mark]:
        timeline = f"u{one.user}"
        hot, index = await self._database.snapshot(
            [
                Statement(
                    "SELECT position, sent_at, kind, sender, stream, seq, receipt, X'' FROM messages WHERE timeline = %s"
                    " AND position > %s AND position <= %s ORDER BY position DESC LIMIT %s",
                    (timeline, one.after, one.upto, limit),
                ),
                timeline_pieces(timeline, one.after, one.upto + 1),
            ]
        )
        cold = await self._cold.by_position(pieces_of(index), one.after, one.upto + 1, limit, newest=True)
        archived = await self._cold.rows([place for _, place in cold], bodies=False)
        marks: dict[tuple[int, int], int] = {}
        for row in sorted([*(Row(*r) for r in hot.rows), *archived], reverse=True)[:limit]:
            if row.receipt and row.kind == "text" and row.stream is not None and row.seq is not None:
                key = (row.sender, row.stream)
                marks[key] = max(row.seq, marks.get(key, 0))
        return [(sender, stream, seq) for (sender, stream), seq in marks.items()]


def _range(wanted: Wanted) -> tuple[str, tuple[Any, ...]]:
    if wanted.below is None:
        return "timeline = %s AND position > %s", (wanted.timeline, wanted.above)
    return "timeline = %s AND position > %s AND position < %s", (wanted.timeline, wanted.above, wanted.below)


def _page(n: int, wanted: Wanted) -> Statement:
    where, args = _range(wanted)
    if wanted.limit <= FIRST_ROWS:
        return Statement(
            f"SELECT {n}, {_COLUMNS} FROM messages WHERE {where} ORDER BY position LIMIT %s", (*args, wanted.limit + 1)
        )
    return Statement(
        f"SELECT {n}, {_JOINED}, m.body FROM (SELECT position, SUM(size) OVER (ORDER BY position) - size AS before_it FROM"
        f" (SELECT position, LENGTH(body) AS size FROM messages WHERE {where} ORDER BY position LIMIT %s) s{n}) k{n}"
        f" JOIN messages m ON m.timeline = %s AND m.position = k{n}.position WHERE k{n}.before_it <= {PAGE_BYTES}",
        (*args, wanted.limit + 1, wanted.timeline),
    )


def _heads(n: int, wanted: Wanted) -> Statement:
    return Statement(
        f"SELECT {n}, conversation, sender, stream, next_seq, last_position FROM streams WHERE timeline = %s"
        f" AND last_sent_at >= %s ORDER BY last_position DESC LIMIT {MAX_HEADS}",
        (wanted.timeline, wanted.heads_since),
    )


def _probe(n: int, wanted: Wanted) -> Statement:
    where, args = _range(wanted)
    return Statement(
        f"SELECT {n}, position FROM messages WHERE {where} ORDER BY position LIMIT 1 OFFSET %s", (*args, wanted.probe)
    )


def _count(wanted: Wanted, most: int) -> Statement:
    where, args = _range(wanted)
    return Statement(f"SELECT COUNT(*) FROM (SELECT 1 FROM messages WHERE {where} LIMIT %s) c", (*args, most + 1))


def _fitting(rows: Sequence[Row]) -> list[Row]:
    """As `_page` cuts: up to and with the row that goes beyond the bytes of a page."""
    size = 0
    for n, row in enumerate(rows):
        if size > PAGE_BYTES:
            return list(rows[:n])
        size += len(row.body)
    return list(rows)


def _by_ids(ids: Ids) -> Statement:
    return Statement(
        f"SELECT {_JOINED}, IF(k.before_it <= {PAGE_BYTES}, m.body, X'') FROM (SELECT position, SUM(size) OVER"
        " (ORDER BY position) - size AS before_it FROM (SELECT position, LENGTH(body) AS size FROM messages FORCE"
        f" INDEX (by_stream) WHERE timeline = %s AND stream = %s AND seq IN ({places(ids.seqs)}) AND sender = %s"
        " AND conversation = %s) s) k JOIN messages m ON m.timeline = %s AND m.position = k.position",
        (ids.timeline, ids.stream, *ids.seqs, ids.sender, ids.conversation, ids.timeline),
    )


def _bodies_that_fit(rows: Sequence[Row]) -> list[Row]:
    """As `_by_ids` cuts."""
    size, made = 0, []
    for row in rows:
        made.append(row if size <= PAGE_BYTES else row._replace(body=b""))
        size += len(row.body)
    return made


def _next_seq(ids: Ids) -> Statement:
    return Statement(
        "SELECT next_seq FROM streams WHERE timeline = %s AND conversation = %s AND sender = %s AND stream = %s",
        (ids.timeline, ids.conversation, ids.sender, ids.stream),
    )


def _neighbour(ids: Ids, where: str, seq: int) -> Statement:
    return Statement(
        "SELECT position FROM messages FORCE INDEX (by_stream) WHERE timeline = %s AND stream = %s AND sender = %s"
        f" AND conversation = %s AND {where} LIMIT 1",
        (ids.timeline, ids.stream, ids.sender, ids.conversation, seq),
    )


def _receipts(one: Passed, limit: int) -> Statement:
    timeline = f"u{one.user}"
    hot = Statement(
        "SELECT sender, stream, MAX(seq) FROM (SELECT sender, stream, seq, receipt, kind FROM messages"
        " WHERE timeline = %s AND position > %s AND position <= %s ORDER BY position DESC LIMIT %s) AS m"
        " WHERE receipt = 1 AND kind = 'text' GROUP BY sender, stream",
        (timeline, one.after, one.upto, limit),
    )
    return union([hot, timelines_probe("NULL, NULL, NULL", {timeline: one.after})])


def _stays(result: Result) -> dict[tuple[int, int], list[Interval]]:
    found: dict[tuple[int, int], list[Interval]] = {}
    for group, user, first, last in sorted(result.rows, key=lambda r: r[2]):
        found.setdefault((group, user), []).append(Interval(first, last))
    return found
