"""Reads of the record by time, for `conversations`, `history` and `search`: SQL and row mapping, hot and cold as one.

Reads find keys first, with the sizes of their bodies, then the bodies of those that fit an answer: no request moves more
than it may give. Every SELECT has a limit that does not depend on what is stored.

A statement that reads hot rows also says how new the archived ones are; only where those belong on the page are hot rows
and the archive's index read once more, in one snapshot, and then the files. A row that is archived between two statements
is looked for in the archive.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chat.persist.archive.cold import Cold
from chat.persist.archive.index import (
    conversation_pieces,
    conversations_probe,
    pieces_by,
    pieces_of,
    timeline_pieces,
    timelines_probe,
)
from chat.persist.archive.pieces import FOREVER, Ask, Keys, Piece, Place, Where
from chat.persist.queries import places, union
from chat.persist.row import Row
from chat.ports import Database, Statement

TEXT: Final = ("text",)
IN_GROUPS: Final = ("text", "group_joined", "group_left", "group_removed")
SKEW_MS: Final = 600_000  # what clocks of edges may differ by; a stay is looked for by time with so much to spare
MOST_STAYS: Final = 200  # in one look-up; those that go on first, then the newest
MOST_LISTED: Final = 4_200  # for the list of conversations: all groups that one may be in, and some earlier stays in them
MOST_UNREAD: Final = 1_000
UNREAD_ROWS: Final = 2_000  # looked at, per conversation
MOST_INDEX: Final = 1_024  # rows of the archive's index, in one request; shared by its sources
UNREAD_PIECES: Final = 32  # of slices looked at, per conversation


class Stay(NamedTuple):
    """A stay in a group, by position and (with some to spare) by time."""

    group: int
    first: int
    last: int  # FOREVER: still in
    since: int
    until: int


class Source(NamedTuple):
    """A conversation, or a part of it that may be seen."""

    timeline: str
    conversation: str
    kinds: tuple[str, ...]
    stay: Stay | None = None


class Key(NamedTuple):
    """In this order, backwards: newest first."""

    sent_at: int
    position: int
    timeline: str
    size: int
    place: Place | None = None  # in the archive


class Before(NamedTuple):
    """Where the page before ended; or a horizon: everything at or above it was seen."""

    sent_at: int
    position: int
    timeline: str


class Scan(NamedTuple):
    """Hot keys, newest first. `horizon`: how far down they are all; None: to the end. `archived`: how new (ms, or position)
    the archive's newest is; None: nothing is archived."""

    keys: Sequence[Key]
    horizon: Before | None
    archived: int | None


class Matched(NamedTuple):
    """Found in the archive, newest first, all at or above the horizon (None: nothing is left)."""

    rows: Sequence[tuple[Key, Row]]
    horizon: Before | None


class Details(NamedTuple):
    """Of the sources asked for, by their number: newest row, unread; by conversation: marks."""

    last: Mapping[int, Row]
    unread: Mapping[int, int]
    read_by: Mapping[int, int]  # user → how far he has read the conversation with the caller
    delivered: Mapping[str, tuple[int, int]]  # conversation → stream, seq


class Browse:
    """All methods raise PartError."""

    def __init__(self, database: Database, cold: Cold) -> None:
        self._database = database
        self._cold = cold

    async def stays(self, user: int, group: int | None = None) -> list[Stay]:
        """The user's stays, of all groups or one: those that go on, then the newest."""
        (result,) = await self._database.read([_stays(user, group)])
        return await self._with_times(result.rows)

    async def _with_times(self, rows: Sequence[tuple[Any, ...]]) -> list[Stay]:
        """Stays with the times of their ends. Where those were not noted (a persist of an older version has stored the
        leave), the notices have them."""
        unknown = [Key(0, last, f"g{g}", 0) for g, _, last, _, left_at in rows if last is not None and left_at is None]
        notices = await self.rows(unknown)
        stays = []
        for group, first, last, joined_at, left_at in rows:
            until = FOREVER
            if last is not None:
                notice = notices.get((f"g{group}", last))
                ended = left_at if notice is None else notice.sent_at
                until = FOREVER if ended is None else ended + SKEW_MS
            stays.append(Stay(group, first, last or FOREVER, joined_at - SKEW_MS, until))
        return stays

    async def newest(self, sources: Sequence[Source], before: Before | None, each: int) -> tuple[list[Key], Before | None]:
        """The newest of the sources, merged, at least `each` if there are as many, down to the horizon; None: these are
        all."""
        found = await self._of_each(sources, before, each) if sources else []
        horizon = max((h for _, h in found if h is not None), default=None)
        keys = sorted((k for of_source, _ in found for k in of_source if horizon is None or k >= horizon), reverse=True)
        return keys, horizon

    async def _of_each(
        self, sources: Sequence[Source], before: Before | None, each: int
    ) -> list[tuple[list[Key], Before | None]]:
        """The newest of each source, hot and cold, down to its horizon."""
        hot, archived = await self._hot(sources, before, each)
        found = [(keys, _horizon(keys, each)) for keys in hot]
        mixed = [n for n, newest in archived.items() if len(hot[n]) < each or hot[n][-1].sent_at <= newest]
        if mixed:
            merged = await self._mixed([sources[n] for n in mixed], before, each)
            for n, of_source in zip(mixed, merged, strict=True):
                found[n] = of_source
        return found

    async def _hot(
        self, sources: Sequence[Source], before: Before | None, each: int
    ) -> tuple[list[list[Key]], dict[int, int]]:
        """Hot keys of each source, the newest first; how new (ms) the archive's newest of a source is."""
        parts = [_keys(n, s, before, each) for n, s in enumerate(sources)]
        probe = _probe("-1, newest, NULL, NULL, timeline, conversation", sources)
        (result,) = await self._database.read([union([*parts, probe])])
        hot: list[list[Key]] = [[] for _ in sources]
        newest: dict[tuple[str, str], int] = {}
        for n, sent_at, position, size, timeline, conversation in result.rows:
            if n < 0:
                newest[timeline, conversation] = sent_at
            else:
                hot[n].append(Key(sent_at, position, sources[n].timeline, size))
        for keys in hot:
            keys.sort(reverse=True)
        return hot, _archived(sources, newest)

    async def _mixed(
        self, sources: Sequence[Source], before: Before | None, each: int
    ) -> list[tuple[list[Key], Before | None]]:
        most = max(8, MOST_INDEX // len(sources))
        while True:
            keys, index = await self._database.snapshot(
                [
                    union([_keys(n, s, before, each) for n, s in enumerate(sources)]),
                    union([_pieces(n, s, before, most) for n, s in enumerate(sources)]),
                ]
            )
            hot: list[list[Key]] = [[] for _ in sources]
            for n, sent_at, position, size, *_ in keys.rows:
                hot[n].append(Key(sent_at, position, sources[n].timeline, size))
            for of_source in hot:
                of_source.sort(reverse=True)
            pieces = pieces_by(index)
            asks = [
                _ask(s, pieces.get(n, []), before, most, floor=hot[n][-1].sent_at if len(hot[n]) >= each else None)
                for n, s in enumerate(sources)
            ]
            cold = await self._cold.newest(asks, each)
            if not any(found.stuck for found in cold):
                return [_merged(s.timeline, h, c, each) for s, h, c in zip(sources, hot, cold, strict=True)]
            most *= 8

    async def rows(self, keys: Sequence[Key]) -> dict[tuple[str, int], Row]:
        """Whole rows by (timeline, position). What was deleted meanwhile is not in it."""
        found: dict[tuple[str, int], Row] = {}
        archived = [(k, k.place) for k in keys if k.place is not None]
        if archived:
            cold = await self._cold.rows([place for _, place in archived])
            found.update({(k.timeline, k.position): row for (k, _), row in zip(archived, cold, strict=True)})
        by_timeline: dict[str, list[int]] = {}
        for key in keys:
            if key.place is None:
                by_timeline.setdefault(key.timeline, []).append(key.position)
        if not by_timeline:
            return found
        names = list(by_timeline)
        parts = [
            Statement(
                f"SELECT {n}, position, sent_at, kind, sender, stream, seq, receipt, body FROM messages"
                f" WHERE timeline = %s AND position IN ({places(by_timeline[name])})",
                (name, *by_timeline[name]),
            )
            for n, name in enumerate(names)
        ]
        (result,) = await self._database.read([union(parts)])
        found.update({(names[r[0]], r[1]): Row(*r[1:]) for r in result.rows})
        for name, positions in by_timeline.items():
            if gone := [p for p in positions if (name, p) not in found]:
                (index,) = await self._database.read([timeline_pieces(name, min(gone) - 1, max(gone) + 1)])
                if index.rows:
                    cold = await self._cold.at_positions(pieces_of(index), gone)
                    found.update({(name, row.position): row for row in cold})
        return found

    # ------------------------------------------------------------------ search

    async def scan(self, sources: Sequence[Source], before: Before | None, each: int) -> Scan:
        """The newest hot keys of the sources, merged."""
        if not sources:
            return Scan([], None, None)
        hot, archived = await self._hot(sources, before, each)
        horizon = max((h for keys in hot if (h := _horizon(keys, each)) is not None), default=None)
        keys = sorted((k for of_source in hot for k in of_source if horizon is None or k >= horizon), reverse=True)
        return Scan(keys, horizon, max(archived.values(), default=None))

    async def scan_timeline(self, timeline: str, below: int, limit: int) -> Scan:
        """The hot texts of a timeline below a position, all its conversations, in the order of positions, backwards."""
        hot = Statement(
            "SELECT sent_at, position, LENGTH(body) FROM messages FORCE INDEX (PRIMARY) WHERE timeline = %s"
            " AND position < %s AND kind = 'text' ORDER BY position DESC LIMIT %s",
            (timeline, below, limit),
        )
        (result,) = await self._database.read([union([hot, timelines_probe("NULL, newest, NULL", {timeline: 0})])])
        keys = [Key(sent_at, position, timeline, size) for sent_at, position, size in result.rows if size is not None]
        keys.sort(key=lambda k: k.position, reverse=True)
        archived = max((r[1] for r in result.rows if r[2] is None), default=None)
        horizon = Before(0, keys[-1].position, timeline) if len(keys) >= limit else None
        return Scan(keys, horizon, archived)

    async def search(
        self, sources: Sequence[Source], before: Before | None, needle: str, limit: int, floor: int | None
    ) -> Matched:
        """The newest archived texts of the sources that have `needle` (case folded), not older than `floor` (ms)."""
        most = max(8, MOST_INDEX // len(sources))
        while True:
            (index,) = await self._database.read([union([_pieces(n, s, before, most) for n, s in enumerate(sources)])])
            pieces = pieces_by(index)
            asks = [_ask(s, pieces.get(n, []), before, most) for n, s in enumerate(sources)]
            found = await self._cold.search_by_time(asks, needle, limit, floor)
            if not found.stuck:
                break
            most *= 8
        matches = [(_key(sources[m.number].timeline, m.row), m.row) for m in found.matches]
        matches.sort(reverse=True)
        return Matched(matches, None if found.horizon is None else Before(*found.horizon, ""))

    async def search_timeline(self, timeline: str, below: int, needle: str, limit: int) -> Matched:
        """The last archived texts of a timeline that have `needle`, backwards by position. The horizon's time is 0."""
        (index,) = await self._database.read([timeline_pieces(timeline, 0, below)])
        found = await self._cold.search_by_position(pieces_of(index), below, needle, limit)
        horizon = None if found.horizon is None else Before(0, found.horizon[0], timeline)
        return Matched([(_key(timeline, m.row), m.row) for m in found.matches], horizon)

    # ------------------------------------------------------------------ conversations

    async def overview(
        self, user: int, before: tuple[int, str] | None, limit: int
    ) -> tuple[list[tuple[int, str]], list[Stay]]:
        """(time of the last text, conversation) of the user's direct conversations, newest first; his stays in the groups
        that he is in now."""
        where, args = ("", ()) if before is None else (_OLDER, (before[0], *before))
        direct, stays = await self._database.read(
            [
                Statement(
                    "SELECT MAX(last_sent_at) AS newest, conversation FROM streams WHERE timeline = %s"
                    f" GROUP BY conversation {where} ORDER BY newest DESC, conversation DESC LIMIT %s",
                    (f"u{user}", *args, limit),
                ),
                _stays(user, None, MOST_LISTED),
            ]
        )
        inside = {r[0] for r in stays.rows if r[2] is None}
        in_them = await self._with_times([r for r in stays.rows if r[0] in inside])
        return [(newest, conversation) for newest, conversation in direct.rows], in_them

    async def groups_and_marks(
        self, user: int, groups: Collection[int], conversations: Collection[str]
    ) -> tuple[list[tuple[int, str]], dict[str, int]]:
        """(time of the last text, conversation) of groups; how far the user has read of these and of `conversations`."""
        timelines = [f"g{g}" for g in groups]
        named = [*timelines, *conversations]
        statements = []
        if timelines:
            statements.append(
                Statement(
                    "SELECT MAX(last_sent_at), timeline FROM streams"
                    f" WHERE timeline IN ({places(timelines)}) GROUP BY timeline",
                    timelines,
                )
            )
        if named:
            statements.append(
                Statement(
                    f"SELECT conversation, sent_at FROM read_marks WHERE user = %s AND conversation IN ({places(named)})",
                    (user, *named),
                )
            )
        results = await self._database.read(statements) if statements else []
        newest = [(r[0], r[1]) for r in results[0].rows] if timelines else []
        return newest, {r[0]: r[1] for r in results[-1].rows} if named else {}

    async def details(self, user: int, sources: Sequence[tuple[Source, int]], others: Collection[int]) -> Details:
        """Of sources with the time up to which the user has read each; marks for `others`' direct conversations."""
        every = [source for source, _ in sources]
        statements = [
            union([*(_last(n, s) for n, (s, _) in enumerate(sources)), _probe(_LAST_PROBE, every)]),
            union([*(_unread(n, s, read, user) for n, (s, read) in enumerate(sources)), _probe(_UNREAD_PROBE, every)]),
        ]
        if others:
            names = [f"u{o}" for o in others]
            statements += [
                Statement(
                    f"SELECT user, sent_at FROM read_marks WHERE user IN ({places(others)}) AND conversation = %s",
                    (*others, f"u{user}"),
                ),
                Statement(
                    "SELECT conversation, stream, seq FROM delivered_marks"
                    f" WHERE user = %s AND conversation IN ({places(names)})",
                    (user, *names),
                ),
            ]
        results = await self._database.read(statements)
        last = {r[0]: Row(*r[1:9]) for r in results[0].rows if r[0] >= 0}
        archived = _archived(every, {(r[9], r[10]): r[2] for r in results[0].rows if r[0] < 0})
        older = [n for n, newest in archived.items() if n not in last or last[n].sent_at <= newest]
        last.update(await self._last_of([sources[n][0] for n in older], older))
        unread = {r[0]: int(r[2]) for r in results[1].rows if r[0] >= 0}
        looked = {r[0]: r[1] for r in results[1].rows if r[0] >= 0}
        archived = _archived(every, {(r[3], r[4]): r[1] for r in results[1].rows if r[0] < 0})
        more = [n for n, newest in archived.items() if newest > sources[n][1] and looked.get(n, 0) < UNREAD_ROWS]
        unread.update(await self._unread_of(user, [sources[n] for n in more], more))
        return Details(
            last,
            {n: min(MOST_UNREAD, count) for n, count in unread.items()},
            {r[0]: r[1] for r in results[2].rows} if others else {},
            {r[0]: (r[1], r[2]) for r in results[3].rows} if others else {},
        )

    async def _last_of(self, sources: Sequence[Source], numbers: Sequence[int]) -> dict[int, Row]:
        """The last texts of sources that have archived rows."""
        if not sources:
            return {}
        found = await self._of_each([s._replace(kinds=TEXT) for s in sources], None, 1)
        rows = await self.rows([keys[0] for keys, _ in found if keys])
        return {
            n: row
            for n, (keys, _) in zip(numbers, found, strict=True)
            if keys and (row := rows.get((keys[0].timeline, keys[0].position))) is not None
        }

    async def _unread_of(self, user: int, sources: Sequence[tuple[Source, int]], numbers: Sequence[int]) -> dict[int, int]:
        """How much of sources is unread that have archived rows behind the mark."""
        if not sources:
            return {}
        hot, index = await self._database.snapshot(
            [
                union([_unread(n, s, read, user) for n, (s, read) in enumerate(sources)]),
                union([_pieces(n, s, None, UNREAD_PIECES, read + 1) for n, (s, read) in enumerate(sources)]),
            ]
        )
        looked, unread = {r[0]: r[1] for r in hot.rows}, {r[0]: int(r[2]) for r in hot.rows}
        pieces = pieces_by(index)
        asks = []
        for n, (source, read) in enumerate(sources):
            where = _where_cold(source, None)
            where = where._replace(kinds=(), since=max(where.since, read + 1))
            asks.append((Ask(pieces.get(n, []), where), UNREAD_ROWS - looked.get(n, 0)))
        cold = await self._cold.unread(asks, user)
        return {number: unread.get(n, 0) + cold[n] for n, number in enumerate(numbers)}


_OLDER: Final = "HAVING newest < %s OR (newest = %s AND conversation < %s)"


def _stays(user: int, group: int | None, limit: int | None = None) -> Statement:
    where, args = ("", ()) if group is None else (" AND chat_group = %s", (group,))
    return Statement(
        f"SELECT chat_group, from_position, to_position, joined_at, left_at FROM members WHERE user = %s{where}"
        " ORDER BY to_position IS NOT NULL, joined_at DESC, from_position DESC LIMIT %s",
        (user, *args, MOST_STAYS if limit is None else limit),
    )


def _where(source: Source, before: Before | None) -> tuple[str, list[Any]]:
    """By the index (timeline, conversation, sent_at, position)."""
    where = "timeline = %s AND conversation = %s"
    args: list[Any] = [source.timeline, source.conversation]
    until = FOREVER
    if source.stay is not None:
        stay = source.stay
        until = stay.until
        where += " AND sent_at >= %s AND position >= %s AND position <= %s"
        args += [stay.since, stay.first, stay.last]
    if before is not None:
        until = min(until, before.sent_at)
        below = before.position + (source.timeline < before.timeline)
        where += " AND (sent_at < %s OR position < %s)"
        args += [before.sent_at, below]
    if until != FOREVER:
        where += " AND sent_at <= %s"
        args.append(until)
    return where, args


def _keys(n: int, source: Source, before: Before | None, limit: int) -> Statement:
    where, args = _where(source, before)
    return Statement(
        f"SELECT {n}, sent_at, position, LENGTH(body), NULL, NULL FROM messages FORCE INDEX (by_conversation) WHERE {where}"
        f" AND kind IN ({places(source.kinds)}) ORDER BY sent_at DESC, position DESC LIMIT %s",
        (*args, *source.kinds, limit),
    )


def _last(n: int, source: Source) -> Statement:
    where, args = _where(source, None)
    return Statement(
        f"SELECT {n}, position, sent_at, kind, sender, stream, seq, receipt, body, NULL, NULL FROM messages"
        f" FORCE INDEX (by_conversation) WHERE {where} AND kind = 'text' ORDER BY sent_at DESC, position DESC LIMIT 1",
        args,
    )


def _unread(n: int, source: Source, read: int, user: int) -> Statement:
    """(n, rows looked at, unread ones among them, and two columns for the probe)"""
    where, args = _where(source, None)
    return Statement(
        f"SELECT {n}, COUNT(*), COALESCE(SUM(kind = 'text' AND sender <> %s), 0), NULL, NULL FROM (SELECT kind, sender"
        f" FROM messages FORCE INDEX (by_conversation) WHERE {where} AND sent_at > %s ORDER BY sent_at DESC, position DESC"
        f" LIMIT {UNREAD_ROWS}) r{n}",
        (user, *args, read),
    )


# ------------------------------------------------------------------ the archive's part


_LAST_PROBE: Final = "-1, NULL, newest, NULL, NULL, NULL, NULL, NULL, NULL, timeline, conversation"
_UNREAD_PROBE: Final = "-1, newest, NULL, timeline, conversation"


def _probe(columns: str, sources: Sequence[Source]) -> Statement:
    return conversations_probe(columns, {(s.timeline, s.conversation): None for s in sources})


def _archived(sources: Sequence[Source], newest: Mapping[tuple[str, str], int]) -> dict[int, int]:
    """Of those sources that may have archived rows, how new (ms) these may be. `newest`: of (timeline, conversation)."""
    found = ((n, newest.get((s.timeline, s.conversation), -1), _since(s)) for n, s in enumerate(sources))
    return {n: at for n, at, since in found if at >= since}


def _since(source: Source) -> int:
    return 0 if source.stay is None else max(0, source.stay.since)


def _pieces(n: int, source: Source, before: Before | None, limit: int, since: int = 0) -> Statement:
    conditions, args = "", list[Any]()
    since, until = max(since, _since(source)), FOREVER
    if source.stay is not None:
        until = source.stay.until
        conditions += " AND i.max_position >= %s AND i.min_position <= %s"
        args += [source.stay.first, source.stay.last]
    if before is not None:
        until = min(until, before.sent_at)
    if since:
        conditions, args = f"{conditions} AND i.max_sent_at >= %s", [*args, since]
    if until != FOREVER:
        conditions, args = f"{conditions} AND i.min_sent_at <= %s", [*args, until]
    return conversation_pieces(n, source.timeline, source.conversation, limit, conditions=conditions, args=args)


def _where_cold(source: Source, before: Before | None) -> Where:
    below = None if before is None else (before.sent_at, before.position + (source.timeline < before.timeline))
    if source.stay is None:
        return Where(source.kinds, before=below)
    stay = source.stay
    return Where(source.kinds, stay.first, stay.last, _since(source), stay.until, below)


def _ask(source: Source, pieces: Sequence[Piece], before: Before | None, most: int, floor: int | None = None) -> Ask:
    """`pieces`: what `_pieces` has found with the limit `most`."""
    rest = pieces[-1].max_sent_at if len(pieces) >= most else None
    return Ask(pieces, _where_cold(source, before), rest, floor)


def _key(timeline: str, row: Row) -> Key:
    return Key(row.sent_at, row.position, timeline, len(row.body))


def _horizon(keys: Sequence[Key], each: int) -> Before | None:
    """Of what was read with the limit `each`."""
    return Before(*keys[-1][:3]) if len(keys) >= each else None


def _merged(timeline: str, hot: Sequence[Key], cold: Keys, each: int) -> tuple[list[Key], Before | None]:
    """Of one snapshot, in which no row is both."""
    archived = [Key(f.sent_at, f.position, timeline, f.size, f.place) for f in cold.keys]
    known = [_horizon(hot, each), _horizon(archived, each), None if cold.horizon is None else Before(*cold.horizon, "")]
    horizon = max((h for h in known if h is not None), default=None)
    keys = sorted((k for k in (*hot, *archived) if horizon is None or k >= horizon), reverse=True)[:each]
    return keys, _horizon(keys, each) or horizon
