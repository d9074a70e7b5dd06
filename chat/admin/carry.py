"""Carrying over what edges wrote into a topic that cannot go on: accepted, but stored nowhere.

A record is stored if MySQL, or the archive, has a row at its position with its very bytes; the others are appended to the
new topic, each partition's in its order. Marks (`read`, `delivered`) and texts that were dropped as duplicates have no row
and are carried over too: both are harmless twice. So are records that a run before this one has copied; they are recognised
all the same, since notices would be shown twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import trio

from chat.errors import PartError, SetupError
from chat.fitting import owner_of
from chat.persist.offsets import Found
from chat.persist.queries import text
from chat.ports import Database, LogReader, Producer, Statement
from chat.positions import position
from chat.records import Consumed, Record, TopicPartition, cut, partition_of

if TYPE_CHECKING:  # it brings Arrow
    from chat.persist.archive.shelf import Shelf

AT_ONCE: Final = 300
POLL_S: Final = 0.5
STALLED_S: Final = 30.0


async def carry_over(
    old: Found,
    generation: int,
    new: Found,
    *,
    database: Database,
    reader: LogReader,
    producer: Producer,
    max_batch_bytes: int,
    archive: Shelf | None = None,
) -> int:
    """How many records. `archive`: where rows are that are not in MySQL any more. Raises PartError, SetupError; cancelled or
    failed, run it again."""
    done: set[bytes] = set()
    async with aclosing(read_all(reader, new)) as pieces:
        async for _, records in pieces:
            done.update(map(_digest, records))
    lost: list[tuple[TopicPartition, Consumed]] = []
    async with aclosing(read_all(reader, old)) as pieces:
        async for place, records in pieces:
            stored = await _stored(database, archive, generation, records)
            lost += [(place, r) for r in records if r.offset not in stored and _digest(r) not in done]
    # Where the number of partitions has changed, a timeline may lie in two; otherwise partitions are independent.
    lost.sort(key=lambda found: found[1].timestamp if len(old.starts) != len(new.starts) else found[0].partition)
    batches: dict[TopicPartition, list[Record]] = {}
    for _, r in lost:
        number = partition_of((r.key or b"").decode("latin-1"), len(new.starts))
        batches.setdefault(TopicPartition(new.topic, number), []).append(Record(r.key, r.value, r.timestamp, r.headers))
    for place, some in batches.items():
        for piece in cut(some, max_batch_bytes):
            outcome = (await producer.produce({place: piece}))[place]
            if isinstance(outcome, PartError):
                raise outcome
    return len(lost)


async def read_all(reader: LogReader, found: Found) -> AsyncGenerator[tuple[TopicPartition, Sequence[Consumed]], None]:
    """All records of a topic, from its starts to the ends that were found, by partition in pieces."""
    left = {
        TopicPartition(found.topic, n): end
        for n, (start, end) in enumerate(zip(found.starts, found.ends, strict=True))
        if start < end
    }
    await reader.assign({p: found.starts[p.partition] for p in left})
    heard = trio.current_time()
    while left:
        batches = await reader.poll(POLL_S, AT_ONCE)
        if batches:
            heard = trio.current_time()
        elif trio.current_time() > heard + STALLED_S:
            raise SetupError(f"{found.topic} cannot be read to its end: {', '.join(map(str, left))}; run this again")
        for place, records in batches.items():
            wanted = [r for r in records if place in left and r.offset < left[place]]
            if wanted:
                yield place, wanted
            if place in left and records and records[-1].offset >= left[place] - 1:
                del left[place]


async def _stored(database: Database, archive: Shelf | None, generation: int, records: Sequence[Consumed]) -> set[int]:
    """The offsets of those that MySQL has, or the archive. (Rows only ever move from the one to the other.)"""
    keys = {(r.key.decode(), position(generation, r.offset)): r for r in records if r.key is not None and owner_of(r.key)}
    if not keys:
        return set()
    wanted = ",".join(f"('{timeline}',{pos})" for timeline, pos in keys)
    (result,) = await database.read(
        [Statement(f"SELECT timeline, position, SHA2(body, 256) FROM messages WHERE (timeline, position) IN ({wanted})")]
    )
    found = {(text(timeline), pos): text(digest) for timeline, pos, digest in result.rows}
    if archive is not None and len(found) < len(keys):
        found |= await archive.digests(keys.keys() - found.keys())
    return {r.offset for key, r in keys.items() if found.get(key) == sha256(r.value).hexdigest()}


def _digest(record: Consumed) -> bytes:
    return sha256(b"%b\0%b" % (record.key or b"", record.value)).digest()
