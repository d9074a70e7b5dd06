"""Deleting a user. His own timeline goes, hot and cold, with all that is kept about him; what he wrote to others stays in
their timelines and groups, and what others wrote to each other stays theirs.

The order, so that it can be run again wherever it ended:

1. Nobody logs in as him, and nobody finds him: banned, his password replaced, noted as deleted; tokens and sessions end.
2. His groups and friends are told by the notices of one who leaves: `group_left`, `friend_removed`.
3. Persist has stored what the log had for him by then.
4. His timeline is deleted: slices that hold some of it are written anew without it, then the rows in MySQL.
5. Devices, cursors, friendships, blocks, invitations, marks and stream heads are deleted.

His name stays taken. The log keeps what it has for [persist] retain_days, back-ups for as long as they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import pyarrow.compute as pc
import trio

from chat.errors import PartAway, PartError
from chat.generations import message_topics
from chat.persist.archive.archiver import Archiver, now_ms
from chat.persist.archive.tables import slices
from chat.persist.offsets import read_offsets
from chat.ports import Database, LogAdmin, Producer, Statement
from chat.records import Record, TimelineRecord, TopicPartition, Topics, cut, message_records, notice, partition_of

PATIENCE_S: Final = 60.0
LOOK_S: Final = 0.2
#: Rows deleted in one transaction.
_BATCH: Final = 5_000


class Erased(NamedTuple):
    groups: int
    friends: int
    hot: int
    cold: int
    slices: int  # written anew, or dropped


class Log(NamedTuple):
    """Where notices go, and how far persist has stored them."""

    topics: Topics
    admin: LogAdmin
    producer: Producer
    database: Database
    max_batch_bytes: int

    async def publish(self, records: Sequence[TimelineRecord]) -> None:
        """Returns when Kafka has them. Raises PartError: run it again."""
        topic = (await message_topics(self.admin, self.topics))[-1]
        count = await self.admin.partitions(topic)
        batches: dict[TopicPartition, list[Record]] = {}
        for one in records:
            batches.setdefault(TopicPartition(topic, partition_of(one.timeline, count)), []).append(one.record)
        for place, some in batches.items():
            for piece in cut(some, self.max_batch_bytes):
                outcome = (await self.producer.produce({place: piece}))[place]
                if isinstance(outcome, PartError):
                    raise outcome

    async def stored(self) -> None:
        """Returns when persist has all that is in the log now. Raises PartAway."""
        names = await message_topics(self.admin, self.topics)
        places = [TopicPartition(name, n) for name in names for n in range(await self.admin.partitions(name))]
        ends = await self.admin.end_offsets(places)
        with trio.move_on_after(PATIENCE_S):
            while True:
                offsets = await read_offsets(self.database, places, missing=0)
                if all(offsets[p] >= ends[p] for p in places):
                    return
                await trio.sleep(LOOK_S)
        raise PartAway(
            "mysql", f"persist has not stored the whole log within {PATIENCE_S:.0f} s: see that it runs, then run this again"
        )


# ------------------------------------------------------------------ the steps


async def close_account(database: Database, user: int) -> None:
    """Step 1, besides tokens and sessions."""
    now = now_ms()
    await database.write(
        [
            Statement(
                "UPDATE users SET banned_at = COALESCE(banned_at, %s), password = 'deleted' WHERE id = %s", (now, user)
            ),
            Statement("INSERT IGNORE INTO deleted_users (user, deleted_at) VALUES (%s, %s)", (user, now)),
        ]
    )


async def tell_others(database: Database, log: Log, user: int, name: str) -> tuple[int, int]:
    """Step 2; how many groups and friends."""
    members, friends = await database.read(
        [
            Statement("SELECT DISTINCT chat_group FROM members WHERE user = %s AND to_position IS NULL", (user,)),
            Statement("SELECT user FROM friends WHERE other = %s", (user,)),
        ]
    )
    now, records = now_ms(), []
    for (group,) in members.rows:
        left = notice(
            "group_left", sender=user, group=group, sent_at=now, extra={"user": user, "name": name, "group": group}
        )
        records += message_records(left, [f"g{group}"])
    for (other,) in friends.rows:
        records += message_records(notice("friend_removed", sender=user, to=other, sent_at=now), [f"u{other}"])
    if records:
        await log.publish(records)
    return len(members.rows), len(friends.rows)


async def erase_cold(archiver: Archiver, user: int) -> tuple[int, int]:
    """Step 4 for slices; how many rows, how many slices. The archiver's lock must be held."""
    timeline = f"u{user}"
    gone = 0
    every = await slices(archiver.database, "id IN (SELECT slice FROM archive_index WHERE timeline = %s)", timeline)
    for one in every:
        gone += await archiver.rewriter.rewrite(one, lambda rows: rows.filter(pc.not_equal(rows["timeline"], timeline)))
    return gone, len(every)


async def erase_hot(database: Database, user: int) -> int:
    """Step 4 for MySQL's rows; how many."""
    gone = 0
    while True:
        (done,) = await database.write(
            [Statement("DELETE FROM messages WHERE timeline = %s ORDER BY position LIMIT %s", (f"u{user}", _BATCH))]
        )
        gone += done.changed
        if done.changed < _BATCH:
            return gone


async def erase_rest(database: Database, user: int) -> None:
    """Step 5. Others' blocks of him, and the intervals in which he was a member, stay: they are about others' history."""
    by_user = ("devices", "cursors", "friends", "blocks", "invitations", "read_marks", "delivered_marks", "tokens")
    await database.write(
        [
            *(Statement(f"DELETE FROM {table} WHERE user = %s", (user,)) for table in by_user),
            Statement("DELETE FROM invitations WHERE inviter = %s", (user,)),
            Statement("DELETE FROM group_requests WHERE owner = %s", (user,)),
            Statement("DELETE FROM streams WHERE timeline = %s", (f"u{user}",)),
        ]
    )
