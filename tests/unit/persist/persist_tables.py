"""MySQL's tables in memory, as far as a batch of persist reads and changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chat.persist.batch import Changes, Delivered, Known, Needs, Stream, build, needs, verify
from chat.persist.parse import Entry, Parsed, parse_messages
from chat.persist.relations import Groups, Stay
from chat.protocol import Message
from chat.records import Consumed, TopicPartition

P = TopicPartition("chat.messages", 0)


class Tables:
    def __init__(self, owners: dict[int, int] | None = None) -> None:
        self.rows: dict[tuple[str, int], Entry] = {}
        self.heads: dict[Stream, tuple[int, int, int]] = {}
        self.cursors: dict[Any, int] = {}
        self.read: dict[Any, int] = {}
        self.delivered: dict[Any, Delivered] = {}
        self.friends: dict[tuple[int, int], str] = {}
        self.stays: dict[tuple[int, int, int], Stay] = {}
        self.owners = dict(owners or {})
        self.dead: dict[int, str] = {}  # offset → why
        self.duplicates = 0
        self.next_offset = 0

    def known(self, wanted: Needs) -> Known:
        inside: dict[int, dict[int, Stay]] = {}
        for stay in self.stays.values():
            if stay.group in wanted.groups and stay.end is None:
                inside.setdefault(stay.group, {})[stay.user] = stay
        return Known(
            {s: self.heads[s][0] for s in wanted.streams if s in self.heads},
            {pair: self.friends[pair] for pair in wanted.friends if pair in self.friends},
            Groups(inside, {g: self.owners[g] for g in wanted.groups if g in self.owners}),
        )

    def first_copies(self, duplicates: Sequence[Entry]) -> list[tuple[int, Message] | None]:
        found = []
        for d in duplicates:
            same = [
                e
                for e in self.rows.values()
                if (e.timeline, e.conversation, e.message.sender, e.stream, e.seq)
                == (d.timeline, d.conversation, d.message.sender, d.stream, d.seq)
            ]
            found.append((same[0].pos, same[0].message) if same else None)
        return found

    def changes(self, records: Sequence[Consumed], generation: int = 0) -> Changes:
        parsed = Parsed([], [], [])
        parse_messages(parsed, P, generation, records)
        changes = build(parsed, self.known(needs(parsed)))
        verify(changes, self.first_copies(changes.unverified))
        return changes

    def apply(self, changes: Changes, end: int) -> None:
        for entry in changes.rows:
            assert (entry.timeline, entry.pos) not in self.rows
            self.rows[entry.timeline, entry.pos] = entry
        for stream, head in changes.heads.items():
            before = self.heads.get(stream, (0, 0, 0))
            assert head.next_seq > before[0]
            self.heads[stream] = (head.next_seq, max(before[1], head.last_sent_at), head.last_position)
        for key, pos in changes.cursors.items():
            self.cursors[key] = max(pos, self.cursors.get(key, 0))
        for mark, sent_at in changes.read.items():
            self.read[mark] = max(sent_at, self.read.get(mark, 0))
        for mark, d in changes.delivered.items():
            old = self.delivered.get(mark)
            same = old is not None and old.stream == d.stream and not d.anew
            self.delivered[mark] = Delivered(d.stream, max(d.seq, old.seq) if old and same else d.seq, d.position)
        for pair, friendship in changes.friends.items():
            if friendship.state is None:
                self.friends.pop(pair, None)
            else:
                self.friends[pair] = friendship.state
        groups = changes.groups
        for stay in groups.ended:
            key3 = (stay.group, stay.user, stay.start)
            assert self.stays[key3].end is None
            self.stays[key3] = stay
        assert not self.stays.keys() & groups.begun.keys()
        self.stays |= groups.begun
        self.owners |= groups.new_owners
        self.dead |= {d.record.offset: d.why for d in changes.dead}
        self.duplicates += changes.duplicates
        self.next_offset = end

    def store(self, records: Sequence[Consumed], generation: int = 0) -> Changes:
        changes = self.changes(records, generation)
        self.apply(changes, records[-1].offset + 1)
        return changes
