"""Reads of the record by position and by message id, for `sync` and `fetch`: SQL and row mapping.

`History` is the one door to what is stored; it reads hot rows. Storage for older rows joins in behind the same methods
(its rows must never come from an earlier snapshot than the hot ones).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from chat.persist.queries import OFFSETS, Ends, Interval, intervals, places, union
from chat.ports import Database, Result, Statement
from chat.records import TopicPartition, splice_pos

FIRST_ROWS: Final = 8  # a page of no more rows needs no count of bytes
PAGE_BYTES: Final = 1_000_000  # of bodies
MAX_HEADS: Final = 12_000  # of a timeline: what fits a frame. Beyond: the least recently written are left out

_COLUMNS = "position, sent_at, kind, sender, stream, seq, receipt, body"
_JOINED = "m.position, m.sent_at, m.kind, m.sender, m.stream, m.seq, m.receipt"


class Row(NamedTuple):
    """A record of a timeline. `stream` and `seq` are None where the kind is not text."""

    position: int
    sent_at: int
    kind: str
    sender: int
    stream: int | None
    seq: int | None
    receipt: int
    body: bytes

    def frame(self) -> bytes:
        """As it appears in answers."""
        return splice_pos(self.body, self.position)


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
    """`rows` in order. `upto`: everything of the timeline below it is in the snapshot."""

    rows: Sequence[Row]
    upto: int
    stays: Sequence[Interval]
    heads: Sequence[StreamHead] | None
    beyond: bool


class Ids(NamedTuple):
    """Messages by their ids. `member`: as above."""

    timeline: str
    conversation: str
    sender: int
    stream: int
    seqs: Sequence[int]
    member: tuple[int, int] | None


class Found(NamedTuple):
    rows: Sequence[Row]
    upto: int
    stays: Sequence[Interval]


Place = Callable[[str], TopicPartition]


class History:
    """`place` and `generation` say where timelines lie for this asker. All methods raise PartError."""

    def __init__(self, database: Database, place: Place, generation: Callable[[], int]) -> None:
        self._database = database
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
        """A page for each, all in one snapshot."""
        members = {w.member for w in wanted if w.member is not None}
        fresh = [(n, w) for n, w in enumerate(wanted) if w.heads_since is not None]
        probed = [(n, w) for n, w in enumerate(wanted) if w.probe is not None]
        statements = [OFFSETS, union([_page(n, w) for n, w in enumerate(wanted)])]
        if members:
            statements.append(intervals(members))
        if fresh:
            statements.append(union([_heads(n, w) for n, w in fresh]))
        if probed:
            statements.append(union([_probe(n, w) for n, w in probed]))
        results = iter(await self._database.snapshot(statements))
        upto = self.ends(next(results))
        rows: list[list[Row]] = [[] for _ in wanted]
        for r in next(results).rows:
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
            )
            for n, w in enumerate(wanted)
        ]

    async def find(self, ids: Ids) -> Found:
        """The messages with these ids, as far as they are stored, with how far that is, in one snapshot. Those beyond the
        bytes of a page have no body."""
        statements = [
            OFFSETS,
            Statement(
                f"SELECT {_JOINED}, IF(k.before_it <= {PAGE_BYTES}, m.body, X'') FROM (SELECT position, SUM(size) OVER"
                " (ORDER BY position) - size AS before_it FROM (SELECT position, LENGTH(body) AS size FROM messages FORCE"
                f" INDEX (by_stream) WHERE timeline = %s AND stream = %s AND seq IN ({places(ids.seqs)}) AND sender = %s"
                " AND conversation = %s) s) k JOIN messages m ON m.timeline = %s AND m.position = k.position",
                (ids.timeline, ids.stream, *ids.seqs, ids.sender, ids.conversation, ids.timeline),
            ),
        ]
        if ids.member is not None:
            statements.append(intervals([ids.member]))
        results = await self._database.snapshot(statements)
        stays = _stays(results[2]).get(ids.member, []) if ids.member is not None else []
        return Found(sorted(Row(*r) for r in results[1].rows), self.ends(results[0])(ids.timeline), stays)

    async def receipts(self, timeline: str, above: int, upto: int, limit: int) -> list[Row]:
        """The newest rows with above < position <= upto whose senders asked for a receipt; bodies left out."""
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT position, sent_at, kind, sender, stream, seq, receipt, X'' FROM messages WHERE timeline = %s"
                    " AND position > %s AND position <= %s AND receipt = 1 ORDER BY position DESC LIMIT %s",
                    (timeline, above, upto, limit),
                )
            ]
        )
        return sorted(Row(*r) for r in result.rows)


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


def _stays(result: Result) -> dict[tuple[int, int], list[Interval]]:
    found: dict[tuple[int, int], list[Interval]] = {}
    for group, user, first, last in sorted(result.rows, key=lambda r: r[2]):
        found.setdefault((group, user), []).append(Interval(first, last))
    return found
