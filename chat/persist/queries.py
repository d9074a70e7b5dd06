"""Small helpers for SQL, and what persist says of itself: how far it has stored the log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from chat.ports import Statement
from chat.positions import position
from chat.records import partition_of


def places(values: Collection[object]) -> str:
    """`%s, %s, …`: one for each."""
    return ", ".join(["%s"] * len(values))


def text(value: str | bytes) -> str:
    """Names in ascii_bin columns: some drivers give bytes."""
    return value if isinstance(value, str) else value.decode("ascii")


def union(parts: Sequence[Statement]) -> Statement:
    """All in one statement, so that a batch is one round trip. Each part is a whole SELECT; the first column says which
    part a row is of, since the order of rows is not promised."""
    return Statement(" UNION ALL ".join(f"({p.sql})" for p in parts), [a for p in parts for a in p.args])


class Interval(NamedTuple):
    """A stay in a group: from the notice of the join to that of the leave, both included; None: still in."""

    first: int
    last: int | None


def intervals(pairs: Collection[tuple[int, int]]) -> Statement:
    """(group, user, first, last) of the stays of users in groups, given as (group, user)."""
    parts = [
        Statement("SELECT chat_group, user, from_position, to_position FROM members WHERE chat_group = %s AND user = %s", p)
        for p in pairs
    ]
    return union(parts)


#: For `Ends`. The table has a row per partition.
OFFSETS = Statement("SELECT topic, topic_partition, generation, next_offset FROM offsets")


class Ends:
    """How far each timeline is stored, from the rows of OFFSETS, in the newest generation that they know.

    `topic` and `generation` are those that the asker sends to; persist may already know a newer one.
    """

    def __init__(self, rows: Sequence[tuple[Any, ...]], topic: str, generation: int) -> None:
        known = [r for r in rows if r[0] == topic or r[2] > generation]
        newest = max((r[2] for r in known), default=generation)
        self.generation = max(newest, generation)
        self._next = {r[1]: r[3] for r in known if r[2] == self.generation}
        #: Of a newer generation all rows are there; of the asker's own he knows the partition.
        self._partitions = len(self._next) if self.generation > generation else 0

    def upto(self, timeline: str, partition: int) -> int:
        """Everything of the timeline below this position is stored. `partition`: where the asker sends it."""
        if self._partitions:
            partition = partition_of(timeline, self._partitions)
        return position(self.generation, self._next.get(partition, 0))
