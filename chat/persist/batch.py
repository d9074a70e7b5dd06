"""What one transaction of persist changes: from entries in log order and what is known before them. Pure.

**Duplicates** are known by the stream heads: a seq below the next one was stored before. Its copy is dropped, but if it
says something else under the same id it is dead. A seq above the next one cannot come about by the rules; it is stored
and told, since refusing it would lose it. The first one seen of a stream sets its start: a client may have given up older
ones.

However the records of a partition are cut into batches, and however often a batch is begun again, the outcome is the
same: heads and states are those of the transaction before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chat.fitting import FRIEND_KINDS
from chat.persist.parse import Dead, Entry, Parsed
from chat.persist.relations import Groups, befriend
from chat.protocol import MEMBERSHIP_KINDS, STATE_KINDS, Message
from chat.records import Receipts, TopicPartition


class Stream(NamedTuple):
    """Key of a stream head."""

    timeline: str
    conversation: str
    sender: int
    stream: int


class Head(NamedTuple):
    next_seq: int
    last_sent_at: int
    last_position: int
    partition: TopicPartition  # where it was read


class Delivered(NamedTuple):
    """`anew`: another stream's mark lay before it in this batch, so the row's own seq, even of this stream, is past."""

    stream: int
    seq: int
    position: int
    anew: bool = False


class Friendship(NamedTuple):
    state: str | None  # None: no row
    position: int


@dataclass
class Needs:
    """What must be known before `build`."""

    streams: set[Stream] = field(default_factory=set)
    friends: set[tuple[int, int]] = field(default_factory=set)  # (owner of the row, other)
    groups: set[int] = field(default_factory=set)


@dataclass
class Known:
    """The state before the batch. A stream or pair that is not in it has no row."""

    heads: Mapping[Stream, int] = field(default_factory=dict)  # → next seq
    friends: MutableMapping[tuple[int, int], str] = field(default_factory=dict)
    groups: Groups = field(default_factory=lambda: Groups({}, {}))


@dataclass
class Changes:
    """What the transaction writes. `unverified`: duplicates whose first copy is not in this batch (see `verify`)."""

    rows: list[Entry] = field(default_factory=list)
    heads: dict[Stream, Head] = field(default_factory=dict)
    cursors: dict[tuple[int, str, str], int] = field(default_factory=dict)  # (user, device, timeline) → position
    read: dict[tuple[int, str], int] = field(default_factory=dict)  # (user, conversation) → sent_at
    delivered: dict[tuple[int, str], Delivered] = field(default_factory=dict)  # (sender, conversation) →
    friends: dict[tuple[int, int], Friendship] = field(default_factory=dict)
    groups: Groups = field(default_factory=lambda: Groups({}, {}))
    dead: list[Dead] = field(default_factory=list)
    unverified: list[Entry] = field(default_factory=list)
    duplicates: int = 0
    holes: list[Entry] = field(default_factory=list)


def stream_of(entry: Entry) -> Stream:
    return Stream(entry.timeline, entry.conversation, entry.message.sender, entry.stream or 0)


def needs(parsed: Parsed) -> Needs:
    wanted = Needs()
    for entry in parsed.entries:
        kind = entry.message.kind
        if kind == "text":
            wanted.streams.add(stream_of(entry))
        elif entry.about:
            if kind in FRIEND_KINDS:
                wanted.friends.add((int(entry.timeline[1:]), entry.about))
            else:
                wanted.groups.add(int(entry.timeline[1:]))
    return wanted


def build(parsed: Parsed, known: Known) -> Changes:
    """The changes of `parsed`. Uses up `known`: its friends and groups are carried on."""
    changes = Changes(groups=known.groups, dead=list(parsed.dead))
    firsts: dict[tuple[Stream, int], Entry] = {}  # texts stored by this batch
    for entry in parsed.entries:
        kind = entry.message.kind
        if kind == "text":
            _text(entry, known.heads, changes, firsts)
        elif kind in STATE_KINDS:
            _mark(entry, changes)
        else:
            changes.rows.append(entry)
            if entry.about:
                _relate(entry, known, changes)
    _cursors(parsed.receipts, changes)
    return changes


def _text(
    entry: Entry, heads: Mapping[Stream, int], changes: Changes, firsts: dict[tuple[Stream, int], Entry]
) -> None:  # fmt: skip
    stream, seq = stream_of(entry), entry.seq or 0
    head = changes.heads.get(stream)
    expected = head.next_seq if head else heads.get(stream)
    if expected is not None and seq < expected:
        first = firsts.get((stream, seq))
        if first is None:
            changes.unverified.append(entry)
        elif not same_content(first.message, entry.message):
            changes.dead.append(Dead(entry.partition, entry.record, _other_content(first.pos)))
        else:
            changes.duplicates += 1
        return
    if expected is not None and seq > expected:
        changes.holes.append(entry)
    changes.rows.append(entry)
    firsts[stream, seq] = entry
    sent_at = entry.message.sent_at
    changes.heads[stream] = Head(seq + 1, max(sent_at, head.last_sent_at) if head else sent_at, entry.pos, entry.partition)


def _mark(entry: Entry, changes: Changes) -> None:
    """`read`: only the reader's own timeline counts. `delivered`: within a stream the highest, else the latest."""
    if entry.timeline[0] != "u":
        return
    owner = int(entry.timeline[1:])
    key = (owner, entry.conversation)
    if entry.message.kind == "read":
        if entry.message.sender == owner:
            changes.read[key] = max(changes.read.get(key, 0), entry.mark)
        return
    stream, seq, anew = entry.stream or 0, entry.mark, False
    before = changes.delivered.get(key)
    if before:
        same = before.stream == stream
        seq, anew = (max(seq, before.seq), before.anew) if same else (seq, True)
    changes.delivered[key] = Delivered(stream, seq, entry.pos, anew)


def _relate(entry: Entry, known: Known, changes: Changes) -> None:
    kind, owner = entry.message.kind, int(entry.timeline[1:])
    if kind in MEMBERSHIP_KINDS:
        if kind == "group_joined":
            known.groups.join(owner, entry.about, entry.pos, entry.message.sent_at)
        else:
            known.groups.leave(owner, entry.about, entry.pos, entry.message.sent_at)
        return
    pair = (owner, entry.about)
    if owner == entry.about:
        return
    before = known.friends.get(pair)
    after = befriend(before, kind, entry.message.sender == owner)
    if after == before:
        return
    if after is None:
        del known.friends[pair]
    else:
        known.friends[pair] = after
    changes.friends[pair] = Friendship(after, entry.pos)


def _cursors(receipts: Iterable[Receipts], changes: Changes) -> None:
    for one in receipts:
        for timeline, pos in one.acks.items():
            key = (one.user, one.device, timeline)
            changes.cursors[key] = max(changes.cursors.get(key, 0), pos)


def same_content(one: Message, other: Message) -> bool:
    """Whether two copies of a message id say the same (sent_at is the edge's, and differs)."""
    return one.text == other.text and one.extra == other.extra


def _other_content(pos: int) -> str:
    return f"the id of the message at position {pos} with another text or extra"


def verify(changes: Changes, firsts: Sequence[tuple[int, Message] | None]) -> list[Entry]:
    """Judge the duplicates that were left unverified by their first copies (position, message), in the same order; None:
    it is not among the rows. Returns those without a first copy: the archiver may have moved it."""
    missing = []
    for entry, first in zip(changes.unverified, firsts, strict=True):
        if first is not None and not same_content(first[1], entry.message):
            changes.dead.append(Dead(entry.partition, entry.record, _other_content(first[0])))
            continue
        changes.duplicates += 1
        if first is None:
            missing.append(entry)
    changes.unverified = []
    return missing
