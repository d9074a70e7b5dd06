"""The SQL of persist: what a batch must know, and the one transaction that makes it durable.

Literals are written into the statements here rather than passed as arguments, since escaping costs more than storing. What
is written is whole numbers, names that `parse` has matched against a pattern, and bodies as hexadecimal.

Order of the transaction, the same in every process so that none waits for another in a circle: offsets (compared with
where the batch begins: a process that no longer owns the partition ends here), messages, streams, cursors, marks, friends,
members, groups; within a table by primary key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from chat.persist.batch import Changes, Delivered, Head, Known, Needs, Stream
from chat.persist.parse import Entry
from chat.persist.queries import text
from chat.persist.relations import Groups, Stay
from chat.ports import Database, Statement
from chat.protocol import Message, decode_message
from chat.records import TopicPartition

T = TypeVar("T")

#: Characters of one statement, about; below any max_allowed_packet.
STATEMENT_CHARS: Final = 1_000_000
#: Keys in one IN list.
KEYS: Final = 500

#: partition → (where the batch begins, where it ends)
Moves = Mapping[TopicPartition, tuple[int, int]]
NEVER: Final[Mapping[TopicPartition, int]] = {}


class Store:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, wanted: Needs, heads: Mapping[Stream, int]) -> Known:
        """What the batch must know, besides the heads in memory. Raises PartError."""
        statements: list[Statement] = []
        streams = [s for s in wanted.streams if s not in heads]
        for part in _parts(streams):
            keys = ",".join(f"('{s.timeline}','{s.conversation}',{s.sender},{s.stream})" for s in part)
            statements.append(
                Statement(
                    "SELECT timeline, conversation, sender, stream, next_seq FROM streams "
                    f"WHERE (timeline, conversation, sender, stream) IN ({keys})"
                )
            )
        ends = [len(statements)]
        for pairs in _parts(sorted(wanted.friends)):
            keys = ",".join(f"({user},{other})" for user, other in pairs)
            statements.append(Statement(f"SELECT user, other, state FROM friends WHERE (user, other) IN ({keys})"))
        ends.append(len(statements))
        for groups in _parts(sorted(wanted.groups)):
            keys = ",".join(map(str, groups))
            statements.append(
                Statement(
                    "SELECT chat_group, user, from_position, joined_at FROM members "
                    f"WHERE chat_group IN ({keys}) AND to_position IS NULL"
                )
            )
            statements.append(Statement(f"SELECT id, owner FROM chat_groups WHERE id IN ({keys})"))
        results = [r.rows for r in await self._database.read(statements)] if statements else []
        known_heads = {s: heads[s] for s in wanted.streams if s in heads}
        for rows in results[: ends[0]]:
            known_heads |= {Stream(text(t), text(c), sender, stream): seq for t, c, sender, stream, seq in rows}
        friends = {(u, o): text(state) for rows in results[ends[0] : ends[1]] for u, o, state in rows}
        inside: dict[int, dict[int, Stay]] = {}
        for rows in results[ends[1] :: 2]:
            for group, user, start, joined_at in rows:
                inside.setdefault(group, {})[user] = Stay(group, user, start, joined_at, None)
        owners = {group: owner for rows in results[ends[1] + 1 :: 2] for group, owner in rows}
        return Known(known_heads, friends, Groups(inside, owners))

    async def first_copies(self, duplicates: Sequence[Entry]) -> list[tuple[int, Message] | None]:
        """The stored messages with the ids of these, (position, message), or None. Raises PartError."""
        statements = [
            Statement(
                f"SELECT position, body FROM messages WHERE timeline = '{e.timeline}' AND stream = {e.stream} "
                f"AND seq = {e.seq} AND sender = {e.message.sender} AND conversation = '{e.conversation}' LIMIT 1"
            )
            for e in duplicates
        ]
        found: list[tuple[int, Message] | None] = []
        for result in await self._database.read(statements) if statements else ():
            try:
                found.append((result.rows[0][0], decode_message(result.rows[0][1])) if result.rows else None)
            except msgspec.DecodeError:
                found.append(None)
        return found

    async def write(self, changes: Changes, moves: Moves, mended: Mapping[TopicPartition, int] = NEVER) -> None:
        """All or nothing. `mended`: how often each was, when what the changes build on was read. Raises Conflict: another
        process owns one of the partitions, or it was mended since; BadData: MySQL refuses a row; PartAway: not known, read
        the offsets again."""
        await self._database.write(transaction(changes, moves, mended))


def transaction(changes: Changes, moves: Moves, mended: Mapping[TopicPartition, int] = NEVER) -> list[Statement]:
    return [_moved(moves, mended), *effects(changes)]


def effects(changes: Changes) -> list[Statement]:
    """All but the offsets."""
    return [
        *_messages(changes.rows),
        *_heads(changes.heads),
        *_upserts(
            "INSERT INTO cursors (user, device, timeline, position) VALUES ",
            (f"({u},'{d}','{t}',{pos})" for (u, d, t), pos in sorted(changes.cursors.items())),
            " ON DUPLICATE KEY UPDATE position = GREATEST(position, VALUES(position))",
        ),
        *_upserts(
            "INSERT INTO read_marks (user, conversation, sent_at) VALUES ",
            (f"({u},'{c}',{sent_at})" for (u, c), sent_at in sorted(changes.read.items())),
            " ON DUPLICATE KEY UPDATE sent_at = GREATEST(sent_at, VALUES(sent_at))",
        ),
        *_delivered(changes.delivered),
        *_friends(changes),
        *_members(changes.groups),
    ]


def _moved(moves: Moves, mended: Mapping[TopicPartition, int]) -> Statement:
    """All offsets in one statement: it must change as many rows as there are partitions."""
    which = {p: f"topic = '{p.topic}' AND topic_partition = {p.partition}" for p in sorted(moves)}
    cases = " ".join(f"WHEN {which[p]} THEN {moves[p][1]}" for p in which)
    as_read = {p: f" AND mended = {mended[p]}" if p in mended else "" for p in which}
    where = " OR ".join(f"({which[p]} AND next_offset = {moves[p][0]}{as_read[p]})" for p in which)
    return Statement(f"UPDATE offsets SET next_offset = CASE {cases} END WHERE {where}", (), len(moves))


def _messages(rows: Iterable[Entry]) -> Iterator[Statement]:
    return _upserts(
        "INSERT INTO messages (timeline, position, conversation, sent_at, sender, stream, seq, kind, receipt, body) VALUES ",
        (
            f"('{e.timeline}',{e.pos},'{e.conversation}',{e.message.sent_at},{e.message.sender},"
            f"{'NULL,NULL' if e.seq is None else f'{e.stream},{e.seq}'},"
            f"'{e.message.kind}',{'1' if e.receipt else '0'},x'{e.record.value.hex()}')"
            for e in sorted(rows, key=lambda e: (e.timeline, e.pos))
        ),
    )


def _heads(heads: Mapping[Stream, Head]) -> Iterator[Statement]:
    return _upserts(
        "INSERT INTO streams (timeline, conversation, sender, stream, next_seq, last_sent_at, last_position) VALUES ",
        (
            f"('{s.timeline}','{s.conversation}',{s.sender},{s.stream},{h.next_seq},{h.last_sent_at},{h.last_position})"
            for s, h in sorted(heads.items())
        ),
        " ON DUPLICATE KEY UPDATE next_seq = GREATEST(next_seq, VALUES(next_seq)), "
        "last_sent_at = GREATEST(last_sent_at, VALUES(last_sent_at)), "
        "last_position = GREATEST(last_position, VALUES(last_position))",
    )


def _delivered(marks: Mapping[tuple[int, str], Delivered]) -> Iterator[Statement]:
    """Assignments are made from left to right, so `seq` is compared under the stream that was there before."""
    kept = "IF(stream = VALUES(stream), GREATEST(seq, VALUES(seq)), VALUES(seq))"
    for anew, seq in ((False, kept), (True, "VALUES(seq)")):
        yield from _upserts(
            "INSERT INTO delivered_marks (user, conversation, stream, seq, position) VALUES ",
            (
                f"({user},'{conversation}',{d.stream},{d.seq},{d.position})"
                for (user, conversation), d in sorted(marks.items())
                if d.anew == anew
            ),
            f" ON DUPLICATE KEY UPDATE seq = {seq}, stream = VALUES(stream), position = VALUES(position)",
        )


def _friends(changes: Changes) -> Iterator[Statement]:
    friends = sorted(changes.friends.items())
    gone = [pair for pair, f in friends if f.state is None]
    for pairs in _parts(gone):
        keys = ",".join(f"({user},{other})" for user, other in pairs)
        yield Statement(f"DELETE FROM friends WHERE (user, other) IN ({keys})")
    yield from _upserts(
        "INSERT INTO friends (user, other, state, position) VALUES ",
        (f"({u},{o},'{f.state}',{f.position})" for (u, o), f in friends if f.state is not None),
        " ON DUPLICATE KEY UPDATE state = VALUES(state), position = VALUES(position)",
    )


def _members(groups: Groups) -> Iterator[Statement]:
    for stay in sorted(groups.ended):
        yield Statement(
            f"UPDATE members SET to_position = {stay.end}, left_at = {stay.left_at} "
            f"WHERE chat_group = {stay.group} AND user = {stay.user} AND from_position = {stay.start}"
        )
    yield from _upserts(
        "INSERT INTO members (chat_group, user, from_position, to_position, joined_at, left_at) VALUES ",
        (
            f"({s.group},{s.user},{s.start},{_or_null(s.end)},{s.joined_at},{_or_null(s.left_at)})"
            for _, s in sorted(groups.begun.items())
        ),
    )
    for group, owner in sorted(groups.new_owners.items()):
        yield Statement(f"UPDATE chat_groups SET owner = {owner} WHERE id = {group}")


def _upserts(head: str, rows: Iterable[str], tail: str = "") -> Iterator[Statement]:
    """Multi-row statements of about STATEMENT_CHARS at most."""
    batch: list[str] = []
    size = 0
    for row in rows:
        if batch and size + len(row) > STATEMENT_CHARS:
            yield Statement(head + ",".join(batch) + tail)
            batch, size = [], 0
        batch.append(row)
        size += len(row)
    if batch:
        yield Statement(head + ",".join(batch) + tail)


def _or_null(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def _parts(items: Collection[T]) -> Iterator[list[T]]:
    every = list(items)
    for at in range(0, len(every), KEYS):
        yield every[at : at + KEYS]
