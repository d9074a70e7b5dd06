"""Reads of the record by time, for `conversations`, `history` and `search`: SQL and row mapping. Hot rows.

Reads find keys first, with the sizes of their bodies, then the bodies of those that fit an answer: no request moves more
than it may give. Every SELECT has a limit that does not depend on what is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from chat.persist.history import Row
from chat.persist.queries import places, union
from chat.ports import Database, Statement

TEXT: Final = ("text",)
IN_GROUPS: Final = ("text", "group_joined", "group_left", "group_removed")
SKEW_MS: Final = 600_000  # what clocks of edges may differ by; a stay is looked for by time with so much to spare
MOST_STAYS: Final = 200  # in one look-up; those that go on first, then the newest
MOST_LISTED: Final = 4_200  # for the list of conversations: all groups that one may be in, and some earlier stays in them
MOST_UNREAD: Final = 1_000
UNREAD_ROWS: Final = 2_000  # looked at, per conversation
FOREVER: Final = 1 << 62
NOT_HOT: Final = -1  # the notice of the leave is archived, and what is older with it


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


class Before(NamedTuple):
    """Where the page before ended."""

    sent_at: int
    position: int
    timeline: str


class Details(NamedTuple):
    """Of the sources asked for, by their number: newest row, unread; by conversation: marks."""

    last: Mapping[int, Row]
    unread: Mapping[int, int]
    read_by: Mapping[int, int]  # user → how far he has read the conversation with the caller
    delivered: Mapping[str, tuple[int, int]]  # conversation → stream, seq


class Browse:
    """All methods raise PartError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stays(self, user: int, group: int | None = None) -> list[Stay]:
        """The user's stays, of all groups or one: those that go on, then the newest."""
        (result,) = await self._database.read([_stays(user, group)])
        return await self._with_times(result.rows)

    async def _with_times(self, rows: Sequence[tuple[Any, ...]]) -> list[Stay]:
        """Stays with the times of their ends, which only the notices have."""
        ends = [(f"g{g}", last) for g, _, last, _ in rows if last is not None]
        left: dict[tuple[str, int], int] = {}
        if ends:
            pairs = " OR ".join(["(timeline = %s AND position = %s)"] * len(ends))
            (found,) = await self._database.read(
                [
                    Statement(
                        f"SELECT timeline, position, sent_at FROM messages WHERE {pairs}", [a for pair in ends for a in pair]
                    )
                ]
            )
            left = {(r[0], r[1]): r[2] + SKEW_MS for r in found.rows}
        return [
            Stay(g, first, last or FOREVER, joined_at - SKEW_MS, left.get((f"g{g}", last), NOT_HOT) if last else FOREVER)
            for g, first, last, joined_at in rows
        ]

    async def newest(self, sources: Sequence[Source], before: Before | None, each: int) -> tuple[list[Key], bool]:
        """The newest of the sources, merged, at least `each` if there are as many; True where there may be more."""
        if not sources:
            return [], False
        (result,) = await self._database.read([union([_keys(n, s, before, each) for n, s in enumerate(sources)])])
        found: list[list[Key]] = [[] for _ in sources]
        for n, sent_at, position, size in result.rows:
            found[n].append(Key(sent_at, position, sources[n].timeline, size))
        cut = [min(keys) for keys in found if len(keys) >= each]
        horizon = max(cut, default=None)  # below it, a source that was cut may have more
        keys = sorted((k for of_source in found for k in of_source if horizon is None or k >= horizon), reverse=True)
        return keys, horizon is not None

    async def newest_of(self, timeline: str, below: int, limit: int) -> list[Key]:
        """The texts of a timeline below a position, all its conversations, in the order of positions, backwards."""
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT sent_at, position, LENGTH(body) FROM messages FORCE INDEX (PRIMARY) WHERE timeline = %s"
                    " AND position < %s AND kind = 'text' ORDER BY position DESC LIMIT %s",
                    (timeline, below, limit),
                )
            ]
        )
        return [Key(sent_at, position, timeline, size) for sent_at, position, size in result.rows]

    async def rows(self, keys: Sequence[Key]) -> dict[tuple[str, int], Row]:
        """Whole rows by (timeline, position). What is gone from the hot rows meanwhile is not in it."""
        by_timeline: dict[str, list[int]] = {}
        for key in keys:
            by_timeline.setdefault(key.timeline, []).append(key.position)
        if not by_timeline:
            return {}
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
        return {(names[r[0]], r[1]): Row(*r[1:]) for r in result.rows}

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
        last = union([_last(n, s) for n, (s, _) in enumerate(sources)])
        unread = union([_unread(n, s, read, user) for n, (s, read) in enumerate(sources)])
        statements = [last, unread]
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
        return Details(
            {r[0]: Row(*r[1:]) for r in results[0].rows},
            {r[0]: r[1] for r in results[1].rows},
            {r[0]: r[1] for r in results[2].rows} if others else {},
            {r[0]: (r[1], r[2]) for r in results[3].rows} if others else {},
        )


_OLDER: Final = "HAVING newest < %s OR (newest = %s AND conversation < %s)"


def _stays(user: int, group: int | None, limit: int | None = None) -> Statement:
    where, args = ("", ()) if group is None else (" AND chat_group = %s", (group,))
    return Statement(
        f"SELECT chat_group, from_position, to_position, joined_at FROM members WHERE user = %s{where}"
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
        f"SELECT {n}, sent_at, position, LENGTH(body) FROM messages FORCE INDEX (by_conversation) WHERE {where}"
        f" AND kind IN ({places(source.kinds)}) ORDER BY sent_at DESC, position DESC LIMIT %s",
        (*args, *source.kinds, limit),
    )


def _last(n: int, source: Source) -> Statement:
    where, args = _where(source, None)
    return Statement(
        f"SELECT {n}, position, sent_at, kind, sender, stream, seq, receipt, body FROM messages"
        f" FORCE INDEX (by_conversation) WHERE {where} AND kind = 'text' ORDER BY sent_at DESC, position DESC LIMIT 1",
        args,
    )


def _unread(n: int, source: Source, read: int, user: int) -> Statement:
    where, args = _where(source, None)
    return Statement(
        f"SELECT {n}, LEAST({MOST_UNREAD}, COUNT(*)) FROM (SELECT kind, sender FROM messages FORCE INDEX (by_conversation)"
        f" WHERE {where} AND sent_at > %s ORDER BY sent_at DESC, position DESC LIMIT {UNREAD_ROWS}) r{n}"
        f" WHERE kind = 'text' AND sender <> %s",
        (*args, read, user),
    )
