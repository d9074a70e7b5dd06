"""Both databases read in step, and compared: rows hot and cold, stream heads, cursors, read marks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import trio

from chat.persist.archive.shelf import Shelf
from chat.persist.queries import union
from chat.ports import Database, Statement
from chat.tools.replay.sandbox import diff
from chat.tools.replay.sandbox.diff import Difference, Row

#: Timelines looked at together, and rows of each.
_TIMELINES: Final = 40
_ROWS: Final = 500
_KEYS: Final = 200
_COLUMNS: Final = "position, conversation, sent_at, sender, stream, seq, kind, receipt, body"

#: timeline → stretches of positions (first, end) that were replayed
Stretches = Callable[[str], Sequence[tuple[int, int]]]


class Compared(NamedTuple):
    """How much there was, on the replayed side."""

    rows: int
    streams: int
    cursors: int
    read_marks: int


class Comparison:
    """`only`: these timelines alone, None: all. `told` is called with each difference. Rows sent before
    `expired_before` (ms) are left out: they are too old to be kept; so is what belongs to `deleted` users."""

    def __init__(
        self, sandbox: Database, live: Database, shelf: Shelf, stretches: Stretches, *, only: Collection[str] | None,
        told: Callable[[Difference], None], expired_before: int = 0, deleted: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._sandbox = sandbox
        self._live = live
        self._shelf = shelf
        self._stretches = stretches
        self._only = only
        self._told = told
        self._deleted = frozenset(deleted)
        self._expired_before = expired_before
        self.rows = 0

    async def all(self) -> Compared:
        """Raises PartError, SetupError."""
        after = ""
        while timelines := await self._timelines(after):
            after = timelines[-1]
            await self._messages([t for t in timelines if self._stretches(t) and not self._is_deleted(t)])
            await trio.lowlevel.checkpoint()
        streams = await self._streams()
        cursors = await self._marks("cursors", ("user", "device", "timeline"), "position")
        marks = await self._marks("read_marks", ("user", "conversation"), "sent_at")
        return Compared(self.rows, streams, cursors, marks)

    # ---------------------------------------------------------------- messages

    async def _timelines(self, after: str) -> list[str]:
        """The next ones that either side knows."""
        if self._only is not None:
            return sorted(t for t in self._only if t > after)[:_TIMELINES]
        hot = Statement("SELECT timeline FROM messages WHERE timeline > %s GROUP BY timeline LIMIT %s", (after, _TIMELINES))
        cold = Statement(
            "SELECT timeline FROM archive_index WHERE timeline > %s GROUP BY timeline LIMIT %s", (after, _TIMELINES)
        )
        here = await self._sandbox.read([hot])
        there = await self._live.read([hot, cold])
        return sorted({_text(t) for result in (*here, *there) for (t,) in result.rows})[:_TIMELINES]

    async def _messages(self, timelines: Sequence[str]) -> None:
        if not timelines:
            return
        ours = await self._hot(self._sandbox, timelines)
        theirs = await self._hot(self._live, timelines)
        for timeline in await self._archived(timelines):  # after the hot ones: what moves meanwhile is seen here
            for cold in await self._shelf.rows(timeline):
                if any(first <= cold.position < end for first, end in self._stretches(timeline)):
                    c = cold
                    theirs[timeline][c.position] = Row(
                        c.conversation, c.sent_at, c.sender, c.stream, c.seq, c.kind, int(c.receipt), c.body
                    )
        for timeline in timelines:
            mine, live = self._kept(ours[timeline]), self._kept(theirs[timeline])
            self.rows += len(mine)
            for found in diff.messages(timeline, mine, live):
                self._told(found)

    def _is_deleted(self, timeline: str) -> bool:
        return timeline[0] == "u" and int(timeline[1:]) in self._deleted

    def _kept(self, rows: dict[int, Row]) -> dict[int, Row]:
        before = self._expired_before
        return {pos: row for pos, row in rows.items() if row.sent_at >= before} if before else rows

    async def _hot(self, database: Database, timelines: Sequence[str]) -> dict[str, dict[int, Row]]:
        found: dict[str, dict[int, Row]] = {t: {} for t in timelines}
        left = [(t, first, end) for t in timelines for first, end in self._stretches(t)]
        while left:
            asked, left = left[:_TIMELINES], left[_TIMELINES:]
            (result,) = await database.read(
                [
                    union(
                        [
                            Statement(
                                f"SELECT {n}, {_COLUMNS} FROM messages WHERE timeline = %s AND position >= %s"
                                " AND position < %s ORDER BY position LIMIT %s",
                                (t, first, end, _ROWS),
                            )
                            for n, (t, first, end) in enumerate(asked)
                        ]
                    )
                ]
            )
            counts = [0] * len(asked)
            lasts = [0] * len(asked)
            for n, pos, conversation, sent_at, sender, stream, seq, kind, receipt, body in result.rows:
                row = Row(_text(conversation), sent_at, sender, stream, seq, _text(kind), receipt, bytes(body))
                found[asked[n][0]][pos] = row
                counts[n] += 1
                lasts[n] = max(lasts[n], pos)
            left += [(t, lasts[n] + 1, end) for n, (t, _, end) in enumerate(asked) if counts[n] == _ROWS]
        return found

    async def _archived(self, timelines: Sequence[str]) -> list[str]:
        parts = [
            Statement(
                f"SELECT {n} FROM archive_index WHERE timeline = %s AND max_position >= %s AND min_position < %s LIMIT 1",
                (t, min(f for f, _ in self._stretches(t)), max(e for _, e in self._stretches(t))),
            )
            for n, t in enumerate(timelines)
        ]
        (result,) = await self._live.read([union(parts)])
        return [timelines[n] for n in sorted(n for (n,) in result.rows)]

    # ---------------------------------------------------------------- heads and marks

    async def _streams(self) -> int:
        count = 0
        keys = ("timeline", "conversation", "sender", "stream")
        async with aclosing(self._both("streams", keys, ("next_seq", "last_position"))) as pairs:
            async for key, ours, theirs in pairs:
                if self._is_deleted(key[0]):
                    continue
                count += 1
                end = max((e for _, e in self._stretches(key[0])), default=0)
                where = f"{key[0]} {key[2]}/{key[1]}/{key[3]}"
                if (found := diff.stream(where, end, ours, theirs)) is not None:
                    self._told(found)
        return count

    async def _marks(self, table: str, keys: Sequence[str], name: str) -> int:
        count = 0
        async with aclosing(self._both(table, keys, (name,))) as pairs:
            async for key, ours, theirs in pairs:
                if key[0] in self._deleted:
                    continue
                count += 1
                found = diff.mark(table, " ".join(map(str, key)), name, ours[0], None if theirs is None else theirs[0])
                if found is not None:
                    self._told(found)
        return count

    async def _both(
        self, table: str, keys: Sequence[str], columns: Sequence[str]
    ) -> AsyncGenerator[tuple[tuple[Any, ...], Any, Any], None]:
        """The rows of the sandbox's table, in order of their keys, and those of the live one with the same key, or None."""
        chosen = ", ".join((*keys, *columns))
        width, offset = len(keys), 0
        while True:
            (mine,) = await self._sandbox.read(
                [Statement(f"SELECT {chosen} FROM {table} ORDER BY {', '.join(keys)} LIMIT %s OFFSET %s", (_KEYS, offset))]
            )
            if not mine.rows:
                return
            offset += len(mine.rows)
            match = " AND ".join(f"{key} = %s" for key in keys)
            theirs = await self._live.read(
                [union([Statement(f"SELECT {chosen} FROM {table} WHERE {match}", _texts(row[:width])) for row in mine.rows])]
            )
            there = {_texts(row[:width]): tuple(row[width:]) for row in theirs[0].rows}
            for row in mine.rows:
                key = _texts(row[:width])
                yield key, tuple(row[width:]), there.get(key)


def _texts(row: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(map(_text, row))


def _text(value: Any) -> Any:
    return value.decode("ascii") if isinstance(value, bytes) else value
