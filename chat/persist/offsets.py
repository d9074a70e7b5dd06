"""Persist's offsets: rows in MySQL, one per partition, and the truth about what is stored.

At start the topics are held against them, and what does not fit is refused by name: a topic that was made anew would give
old positions to new messages, and records that are gone from Kafka before they were stored are lost; neither may pass in
silence. For receipts both are harmless (they are cumulative, and only save a device from hearing things again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from chat.errors import SetupError
from chat.ports import Database, LogAdmin, Statement
from chat.records import TopicPartition, Topics

log = structlog.get_logger()


class Found(NamedTuple):
    """A topic as Kafka has it. `starts`, `ends`: by partition number."""

    topic: str
    topic_id: str
    starts: Sequence[int]
    ends: Sequence[int]


class Row(NamedTuple):
    topic_id: str
    next_offset: int


class Place(NamedTuple):
    """`mended`: how often `chat admin dead retry` has changed what lies in the partition's timelines; a transaction that was
    made ready before that must not be committed after it."""

    next_offset: int
    mended: int


async def check_offsets(database: Database, admin: LogAdmin, topics: Topics, generations: Sequence[str]) -> list[str]:
    """See that every partition has a row that fits it, and make those of new topics; `generations`: topics of messages,
    oldest first. Returns the topics to read: an old generation that does not fit any more is left out. Raises SetupError,
    PartError. May be cancelled, and run by several processes at once."""
    await _not_behind(database, topics, generations)
    fit = []
    for name in (*generations, topics.receipts):
        try:
            await _check(database, admin, topics, name)
        except SetupError as error:
            if name not in generations[:-1]:
                raise
            log.warning("an old generation is not read", topic=name, why=str(error))
        else:
            fit.append(name)
    return fit


async def _not_behind(database: Database, topics: Topics, generations: Sequence[str]) -> None:
    """Raises SetupError where MySQL knows a newer generation than Kafka: positions would go back."""
    (result,) = await database.read([Statement("SELECT MAX(generation) FROM offsets")])
    stored = result.rows[0][0] if result.rows else None
    newest = topics.generation_of(generations[-1]) or 0
    if stored is not None and stored > newest:
        raise SetupError(
            f"Kafka has no topic {topics.generation_topic(stored)}, from which MySQL has stored; its newest is "
            f"{generations[-1]}: Kafka has lost records or was restored from an older state. Stop the edges. Restore it, "
            "or run `chat admin new-generation` to go on in a new topic"
        )


async def _check(database: Database, admin: LogAdmin, topics: Topics, name: str) -> None:
    count = await admin.partitions(name)
    ids = await admin.topic_ids([name])
    if not count or name not in ids:
        raise SetupError(f"Kafka has no topic {name}: create the topics with `chat topics create`")
    partitions = [TopicPartition(name, n) for n in range(count)]
    # In this order, since others store and trim meanwhile: what is stored was never trimmed before, and lies below the end.
    starts = await admin.start_offsets(partitions)
    (result,) = await database.read(
        [Statement("SELECT topic_partition, topic_id, next_offset FROM offsets WHERE topic = %s", (name,))]
    )
    ends = await admin.end_offsets(partitions)
    found = Found(name, ids[name], [starts[p] for p in partitions], [ends[p] for p in partitions])
    rows = {number: Row(topic_id, next_offset) for number, topic_id, next_offset in result.rows}
    generation = topics.generation_of(name)
    if generation is None:
        placed = judge_receipts(found, rows)
    else:
        judge_messages(found, rows)
        placed = {} if rows else dict.fromkeys(range(count), 0)
    statements = [_placed(found, number, generation or 0, rows.get(number), offset) for number, offset in placed.items()]
    if statements:
        await database.write(statements)


def _placed(found: Found, number: int, generation: int, row: Row | None, offset: int) -> Statement:
    """A row made, or set anew; without effect where another process was faster."""
    if row is None:
        return Statement(
            "INSERT INTO offsets (topic, topic_partition, topic_id, generation, next_offset) VALUES (%s, %s, %s, %s, %s) "
            "ON DUPLICATE KEY UPDATE next_offset = next_offset",
            (found.topic, number, found.topic_id, generation, offset),
        )
    return Statement(
        "UPDATE offsets SET next_offset = %s, topic_id = %s "
        "WHERE topic = %s AND topic_partition = %s AND next_offset = %s AND topic_id = %s",
        (offset, found.topic_id, found.topic, number, row.next_offset, row.topic_id),
    )


def judge_messages(found: Found, rows: Mapping[int, Row]) -> None:
    """Raises SetupError with what was found and what to do."""
    name = found.topic
    for number, (start, end) in enumerate(zip(found.starts, found.ends, strict=True)):
        row = rows.get(number, Row(found.topic_id, 0))
        if rows and len(rows) != len(found.starts):
            raise SetupError(
                f"{name} has {len(found.starts)} partitions, but MySQL knows {len(rows)}: timelines would move between "
                "them. The number never changes within a generation; for another number run `chat admin new-generation`"
            )
        if row.topic_id != found.topic_id:
            raise SetupError(
                f"{name} has the id {found.topic_id}, but MySQL has stored from {row.topic_id} up to offset "
                f"{row.next_offset} of partition {number}: the topic was deleted and made anew, and its positions would be "
                "given out twice. Run `chat admin new-generation` to go on in a new topic"
            )
        if row.next_offset > end:
            raise SetupError(
                f"{name}/{number} ends at offset {end}, but MySQL has stored up to {row.next_offset}: Kafka has lost "
                "records or was restored from an older state. Restore it, or run `chat admin new-generation` to go on in a "
                "new topic"
            )
        if row.next_offset < start:
            raise SetupError(
                f"{name}/{number} begins at offset {start}, but MySQL has stored only up to {row.next_offset}: the records "
                "between are gone. Restore Kafka's data or MySQL's; or accept the loss: UPDATE offsets SET next_offset = "
                f"{start} WHERE topic = '{name}' AND topic_partition = {number}"
            )


def judge_receipts(found: Found, rows: Mapping[int, Row]) -> dict[int, int]:
    """The rows to be made or set anew: partition → next offset."""
    placed = {}
    for number, (start, end) in enumerate(zip(found.starts, found.ends, strict=True)):
        row = rows.get(number)
        if row is None:
            placed[number] = start
        elif row.topic_id != found.topic_id or not start <= row.next_offset <= end:
            log.warning("receipts are read from their start", topic=found.topic, partition=number, stored=row.next_offset)
            placed[number] = start
    return placed


async def read_offsets(
    database: Database, partitions: Sequence[TopicPartition], missing: int | None = None
) -> dict[TopicPartition, int]:
    """Where to read from. `missing`: the offset of a partition without a row; None: raises SetupError. Raises PartError."""
    standing = None if missing is None else Place(missing, 0)
    return {p: place.next_offset for p, place in (await read_places(database, partitions, standing)).items()}


async def read_places(
    database: Database, partitions: Sequence[TopicPartition], missing: Place | None = None
) -> dict[TopicPartition, Place]:
    """The same, with how often each was mended."""
    if not partitions:
        return {}
    keys = ",".join(f"('{p.topic}',{p.partition})" for p in partitions)
    (result,) = await database.read(
        [
            Statement(
                f"SELECT topic, topic_partition, next_offset, mended FROM offsets WHERE (topic, topic_partition) IN ({keys})"
            )
        ]
    )
    found = {TopicPartition(topic, number): Place(next_offset, mended) for topic, number, next_offset, mended in result.rows}
    places = {}
    for p in partitions:
        place = found.get(p, missing)
        if place is None:
            raise SetupError(
                f"{p.topic}/{p.partition} has no row in `offsets`: the topic got more partitions while persist was running, "
                "or the database was emptied. Restart `chat persist`, it says what does not fit"
            )
        places[p] = place
    return places
