"""The outgoing window: which seq of a stream an edge takes next, on one connection. Pure.

On one connection only the next seq per (conversation, stream) is taken, and the first one seen sets the start: what is
below it was accepted on an earlier connection, for outboxes are sent again from their first entry. So the first
occurrences in the log have no hole within a stream.

    offer    taken      hand its records to the producer, call `acknowledge` when Kafka has all of them
             again      below the expected one: answer `accepted` with what *Kafka has acknowledged*, never with its number
             gap        above it: answer `sequence_gap` with the expected one
    refuse   a send refused before it was offered, whatever the reason: pins the start, or the next seq would set it and
             leave a hole in the log
"""

from __future__ import annotations

from typing import NamedTuple


class Taken(NamedTuple):
    """It is the next one."""


class Again(NamedTuple):
    """Below the expected one. `acknowledged`: the highest seq with all before it (from the start on) acknowledged by
    Kafka on this connection; None: none yet, so there is nothing to answer until `acknowledge` moves."""

    acknowledged: int | None


class Gap(NamedTuple):
    """Above the expected one, which is `expected`."""

    expected: int


class Full(Exception):
    """More (conversation, stream) pairs than a connection may have. A new connection begins with an empty window: close
    with 2000 (come back at once)."""


TAKEN = Taken()


class _Lane:
    __slots__ = ("acknowledged", "ahead", "expected", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.expected = start
        self.acknowledged = start - 1  # the highest with all before it acknowledged
        self.ahead: set[int] = set()  # acknowledged above it: its two records lie in partitions of different speed


class Window:
    """The window of one connection. `limit`: the greatest number of (conversation, stream) pairs."""

    __slots__ = ("_lanes", "_limit")

    def __init__(self, limit: int = 10_000) -> None:
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._limit = limit

    def offer(self, conversation: str, stream: int, seq: int) -> Taken | Again | Gap:
        """`conversation` is `u<other>` or `g<group>`, as the sender names it. Raises Full for a pair too many."""
        lane = self._lanes.get((conversation, stream))
        if lane is None:
            lane = self._open(conversation, stream, seq)
        if seq == lane.expected:
            lane.expected += 1
            return TAKEN
        if seq > lane.expected:
            return Gap(lane.expected)
        return Again(lane.acknowledged if lane.acknowledged >= lane.start else None)

    def expected(self, conversation: str, stream: int) -> int | None:
        """The seq that would be taken; None: whichever comes first."""
        lane = self._lanes.get((conversation, stream))
        return None if lane is None else lane.expected

    def begun(self, conversation: str, stream: int) -> bool:
        """A message of it was taken."""
        lane = self._lanes.get((conversation, stream))
        return lane is not None and lane.expected > lane.start

    def refuse(self, conversation: str, stream: int, seq: int) -> None:
        """A send was refused, for good or for now, without being offered. Its seq stays the expected one. Raises Full."""
        if (conversation, stream) not in self._lanes:
            self._open(conversation, stream, seq)

    def acknowledge(self, conversation: str, stream: int, seq: int) -> int | None:
        """Kafka has acknowledged every record of this message. Returns the highest seq with all before it acknowledged,
        where it moved, to be told as `accepted`; else None."""
        lane = self._lanes[conversation, stream]
        if seq <= lane.acknowledged:
            return None
        if seq != lane.acknowledged + 1:
            lane.ahead.add(seq)
            return None
        while seq + 1 in lane.ahead:
            seq += 1
            lane.ahead.remove(seq)
        lane.acknowledged = seq
        return seq

    def __len__(self) -> int:
        return len(self._lanes)

    def _open(self, conversation: str, stream: int, seq: int) -> _Lane:
        if len(self._lanes) >= self._limit:
            raise Full(f"more than {self._limit} streams and conversations on one connection")
        lane = self._lanes[conversation, stream] = _Lane(seq)
        return lane
