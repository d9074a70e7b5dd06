"""A timeline's records as the log has them, and what the servers answer when a device asks for them. Pure.

What is a row, what a duplicate and what is dead is persist's own judgement (`persist.parse`, `persist.batch`). Answers are
those of a cluster that has stored everything up to the moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from chat.persist.batch import Known, Stream, build, stream_of
from chat.persist.parse import Entry, Parsed, parse_messages
from chat.positions import position
from chat.protocol import Fetched, Head, Message, Synced, decode_message
from chat.records import Consumed, TopicPartition, splice, splice_pos

#: Messages in one answer, as clients ask for them.
PAGE: Final = 500

#: From the notice of the join to that of the leave, both included; None: still in.
Stay = tuple[int, int | None]
StreamKey = tuple[int, str, int]  # sender, conversation, stream: as `ordering` has it


class Arrived(NamedTuple):
    """A record of the timeline. `entry` is None where persist finds it dead, which `why` says."""

    pos: int
    partition: TopicPartition
    record: Consumed
    entry: Entry | None
    why: str = ""

    @property
    def time(self) -> int:
        return self.record.timestamp


class Track:
    """`records` in log order, each with the generation of its topic. `begin`: what the device has at the beginning, as a
    position; `heads`: the next seqs of the streams there. `stays`: in a group; None: the user's own timeline."""

    def __init__(
        self,
        timeline: str,
        me: int,
        records: Sequence[tuple[int, TopicPartition, Consumed]],
        *,
        begin: int,
        heads: Mapping[StreamKey, int],
        stays: Sequence[Stay] | None,
        cursor: int | None = None,
    ) -> None:
        self.timeline, self.me, self.begin, self.stays = timeline, me, begin, stays
        self.cursor = begin if cursor is None else cursor
        self.heads = dict(heads)
        parsed = Parsed([], [], [])
        for generation, partition, record in records:
            parse_messages(parsed, partition, generation, [record])
        entries = {entry.pos: entry for entry in parsed.entries}
        dead = {(d.partition, d.record.offset): d.why for d in parsed.dead}
        self.records = [
            Arrived(pos, p, r, entries.get(pos), dead.get((p, r.offset), ""))
            for generation, p, r in records
            for pos in (position(generation, r.offset),)
        ]
        self._positions = [r.pos for r in self.records]
        self._times = list(accumulate((r.time for r in self.records), max))
        known = {Stream(timeline, c, sender, stream): seq for (sender, c, stream), seq in heads.items()}
        stored = build(Parsed([e for e in parsed.entries if e.message.kind == "text"], [], []), Known(known))
        self._first = {(*_key(entry), entry.seq): entry.pos for entry in stored.rows}
        rows = {entry.pos for entry in stored.rows}
        self._rows = [
            entry
            for entry in parsed.entries
            if (entry.pos in rows if entry.message.kind == "text" else entry.message.kind not in ("read", "delivered"))
        ]
        self._row_positions = [entry.pos for entry in self._rows]

    def sees(self, pos: int) -> bool:
        return self.stays is None or any(a <= pos and (z is None or pos <= z) for a, z in self.stays)

    def first(self, key: StreamKey, seq: int) -> int | None:
        """The position of the first copy, where it lies among the records."""
        return self._first.get((*key, seq))

    def before(self, pos: int) -> int:
        """The position of the record before, as a router knows it."""
        index = bisect_right(self._positions, pos - 1)
        return self._positions[index - 1] if index else min(self.begin, pos - 1)

    def end_at(self, time: int) -> int:
        """The end of the log at that time, as a position: behind the last record that was there."""
        index = bisect_right(self._times, time)
        return self._positions[index - 1] + 1 if index else self.begin + 1

    def delivery(self, arrived: Arrived, prev: int | None) -> Message:
        """The frame that a router makes of the record. Raises msgspec.DecodeError where it is none."""
        return decode_message(splice(arrived.record.value, prev, arrived.pos))

    # ---------------------------------------------------------------- answers

    def synced(self, after: int, fresh: bool, end: int) -> Synced:
        """What lies above `after`, up to the end of the log (a position)."""
        low, high = bisect_right(self._row_positions, after), bisect_right(self._row_positions, end - 1)
        rows = self._rows[low:high]
        upto, complete = max(end, after + 1), True
        if len(rows) > PAGE:
            rows, complete = rows[:PAGE], False
            upto = rows[-1].pos + 1
        messages = [_message(entry) for entry in rows if self.sees(entry.pos)]
        answer = Synced(timeline=self.timeline, messages=messages, upto=upto, complete=complete)
        if fresh and complete:
            answer.heads = self._heads_at(end)
        return answer

    def fetched(self, key: StreamKey, seqs: Sequence[int], end: int) -> Fetched:
        found: list[Message] = []
        for entry in self._rows:
            if entry.pos < end and entry.seq in seqs and _key(entry) == key and self.sees(entry.pos):
                found.append(_message(entry))
        given = {message.seq for message in found}
        return Fetched(messages=found, void=[seq for seq in seqs if seq not in given], pending=[])

    def _heads_at(self, end: int) -> list[Head]:
        heads = dict(self.heads)
        for entry in self._rows:
            if entry.pos >= end:
                break
            if entry.seq is not None:
                heads[_key(entry)] = entry.seq + 1
        return [self._head(key, seq) for key, seq in heads.items()]

    def _head(self, key: StreamKey, seq: int) -> Head:
        sender, conversation, stream = key
        if conversation[0] == "g":
            return Head(sender=sender, group=int(conversation[1:]), stream=stream, next=seq)
        to = int(conversation[1:]) if sender == self.me else self.me
        return Head(sender=sender, to=to, stream=stream, next=seq)


def _key(entry: Entry) -> StreamKey:
    of = stream_of(entry)
    return of.sender, of.conversation, of.stream


def _message(entry: Entry) -> Message:
    return decode_message(splice_pos(entry.record.value, entry.pos))
