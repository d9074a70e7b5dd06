"""What the live database knew when the range begins, as far as persist's judgement of the range rests on it: stream heads
(duplicates are known by them), friendships, members and owners. Copied into the sandbox as the range needs them.

A stream's head is taken from the rows below the range, hot and cold, never from the table `streams`: that one knows of the
range already, and is what is to be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from chat.persist.archive.shelf import Shelf
from chat.persist.batch import Needs, Stream
from chat.persist.queries import places, union
from chat.ports import Database, Statement
from chat.sql import values

_TOGETHER: Final = 100

#: timeline → the position at which the range begins there
Begin = Callable[[str], int]


class Before:
    def __init__(self, live: Database, sandbox: Database, shelf: Shelf, begin: Begin) -> None:
        self._live = live
        self._sandbox = sandbox
        self._shelf = shelf
        self._begin = begin
        self._streams: set[Stream] = set()
        self._groups: set[int] = set()
        self._friends: set[tuple[int, int]] = set()

    async def provide(self, wanted: Needs) -> None:
        """Copy what is wanted and was not copied yet. Raises PartError, SetupError."""
        streams = sorted(s for s in wanted.streams - self._streams if self._begin(s.timeline) > 1)
        self._streams |= wanted.streams
        for part in _parts(streams):
            await self._heads(part)
        groups = sorted(wanted.groups - self._groups)
        self._groups |= wanted.groups
        for some in _parts(groups):
            await self._members(some)
        friends = sorted(wanted.friends - self._friends)
        self._friends |= wanted.friends
        for pairs in _parts(friends):
            await self._friendships(pairs)

    async def _heads(self, streams: Sequence[Stream]) -> None:
        (found,) = await self._live.read(
            [
                union(
                    [
                        Statement(
                            f"SELECT {n}, seq, sent_at, position FROM messages FORCE INDEX (by_stream) WHERE timeline = %s"
                            " AND stream = %s AND sender = %s AND conversation = %s AND position < %s"
                            " ORDER BY seq DESC LIMIT 1",
                            (s.timeline, s.stream, s.sender, s.conversation, self._begin(s.timeline)),
                        )
                        for n, s in enumerate(streams)
                    ]
                )
            ]
        )
        heads = {streams[n]: (seq, sent_at, pos) for n, seq, sent_at, pos in found.rows}
        for stream in await self._may_be_cold([s for s in streams if s not in heads]):
            rows = [
                (row.seq, row.sent_at, row.position)
                for row in await self._shelf.rows(stream.timeline, stream.conversation)
                if row.sender == stream.sender and row.stream == stream.stream and row.seq is not None
                and row.position < self._begin(stream.timeline)
            ]  # fmt: skip
            if rows:
                heads[stream] = max(rows)
        await self._insert(
            "streams (timeline, conversation, sender, stream, next_seq, last_sent_at, last_position)",
            [(*stream, seq + 1, sent_at, pos) for stream, (seq, sent_at, pos) in heads.items()],
        )

    async def _may_be_cold(self, streams: Sequence[Stream]) -> list[Stream]:
        if not streams:
            return []
        (found,) = await self._live.read(
            [
                union(
                    [
                        Statement(
                            f"SELECT {n} FROM archive_index WHERE timeline = %s AND conversation = %s AND min_position < %s"
                            " LIMIT 1",
                            (s.timeline, s.conversation, self._begin(s.timeline)),
                        )
                        for n, s in enumerate(streams)
                    ]
                )
            ]
        )
        return [streams[n] for (n,) in found.rows]

    async def _members(self, groups: Sequence[int]) -> None:
        rows, members = await self._live.read(
            [
                Statement(
                    f"SELECT id, name, open, owner, created_at FROM chat_groups WHERE id IN ({places(groups)})", groups
                ),
                Statement(
                    "SELECT chat_group, user, from_position, to_position, joined_at FROM members"
                    f" WHERE chat_group IN ({places(groups)})",
                    groups,
                ),
            ]
        )
        await self._insert("chat_groups (id, name, open, owner, created_at)", rows.rows)
        kept = []
        for group, user, first, last, joined_at in members.rows:
            begin = self._begin(f"g{group}")
            if first < begin:
                kept.append((group, user, first, last if last is not None and last < begin else None, joined_at))
        await self._insert("members (chat_group, user, from_position, to_position, joined_at)", kept)

    async def _friendships(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Those that the range does not change: what was before a change is not known any more."""
        condition = " OR ".join("(user = %s AND other = %s)" for _ in pairs)
        (found,) = await self._live.read(
            [Statement(f"SELECT user, other, state, position FROM friends WHERE {condition}", [n for p in pairs for n in p])]
        )
        await self._insert(
            "friends (user, other, state, position)",
            [(user, other, _text(state), pos) for user, other, state, pos in found.rows if pos < self._begin(f"u{user}")],
        )

    async def _insert(self, into: str, rows: Iterable[Sequence[Any]]) -> None:
        every = [tuple(map(_text, row)) for row in rows]
        if every:
            await self._sandbox.write([Statement(f"INSERT INTO {into} VALUES {values(every)}")])


def _text(value: Any) -> Any:
    return value.decode("ascii") if isinstance(value, bytes) else value


def _parts(items: Collection[Any]) -> Iterable[list[Any]]:
    every = list(items)
    for at in range(0, len(every), _TOGETHER):
        yield every[at : at + _TOGETHER]
