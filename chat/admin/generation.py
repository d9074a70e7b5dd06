"""A new generation: a new topic of messages, in which positions go on above all that were ever given out.

Two reasons for one:

* **read out**: the topic is whole, but another number of partitions is wanted. Edges are stopped, persist and the routers
  have read all of it.
* **lost**: the topic is gone, was made anew, or ends below what MySQL has stored. MySQL's record is kept; what edges have
  written into what is there now (accepted, never stored) is carried over.

Refused in every other state. Order: the topic is made, what is to be carried over is copied, and only then its rows in
`offsets` are written. So a run that was cut off is seen (a topic without rows) and finished by the next run; what was
copied already is not copied again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chat.admin.carry import carry_over
from chat.admin.online import Online
from chat.errors import SetupError
from chat.persist.offsets import Found, Row
from chat.ports import Database, LogAdmin, LogReader, Producer, Statement
from chat.positions import MAX_GENERATION
from chat.records import TopicPartition, Topics

if TYPE_CHECKING:  # it brings Arrow
    from chat.persist.archive.shelf import Shelf

LOOK_S: Final = 0.25


class Standing(NamedTuple):
    """What there is. `old`: the generation that is to be followed; `old_topic`: as Kafka has it, None: it is gone; `rows`:
    its offsets in MySQL; `routed`: what the routers have committed of it, by partition. `new`: the generation to be made;
    `begun`: its topic is there already."""

    old: int
    old_topic: Found | None
    rows: Mapping[int, Row]
    routed: Mapping[int, int | None]
    new: int
    begun: bool


class Verdict(NamedTuple):
    """`lost`: why Kafka's topic cannot go on; empty: it is whole. `blockers`: why there can be no new generation yet."""

    lost: str
    blockers: Sequence[str]


class Made(NamedTuple):
    topic: str
    generation: int
    partitions: int
    lost: str
    carried: int
    old_topic: str


def judge(topic: str, standing: Standing, partitions: int) -> Verdict:
    """Pure. `topic`: the name of the old one. `partitions`: how many are wanted."""
    found, rows = standing.old_topic, standing.rows
    if found is None and not rows:
        return Verdict("", [f"neither Kafka nor MySQL knows {topic}: create the topics with `chat topics create`"])
    if found is None:
        return Verdict(f"Kafka has no topic {topic} any more", ())
    if not rows:
        return Verdict("", [f"MySQL knows nothing of {topic}: persist has never run on it. Start `chat persist` first"])
    ids = {row.topic_id for row in rows.values()} - {found.topic_id}
    if ids:
        return Verdict(f"{topic} was made anew: MySQL has stored from {', '.join(sorted(ids))}, it is {found.topic_id}", ())
    if len(rows) != len(found.starts):
        return Verdict(f"{topic} has {len(found.starts)} partitions, MySQL knows {len(rows)}", ())
    short = [
        f"{topic}/{n} ends at offset {found.ends[n]}, MySQL has stored up to {row.next_offset}"
        for n, row in sorted(rows.items())
        if row.next_offset > found.ends[n]
    ]
    if short:
        return Verdict("; ".join(short), ())
    if len(found.starts) == partitions and not standing.begun:
        return Verdict("", [f"{topic} is whole and has {partitions} partitions already: there is no reason for a new one"])
    return Verdict("", _unread(topic, found, rows, standing.routed))


def _unread(topic: str, found: Found, rows: Mapping[int, Row], routed: Mapping[int, int | None]) -> list[str]:
    blockers = []
    for n, (start, end) in enumerate(zip(found.starts, found.ends, strict=True)):
        stored, done = rows[n].next_offset, routed.get(n)
        if stored < start:
            blockers.append(
                f"{topic}/{n} begins at offset {start}, but only {stored} is stored: see what `chat persist` says"
            )
        elif stored < end:
            blockers.append(f"{topic}/{n}: persist has stored up to {stored} of {end}. Let `chat persist` read it out")
        if (done or 0) < end and start < end:
            blockers.append(f"{topic}/{n}: the routers are at {done or 0} of {end}. Let `chat router` read it out")
    return blockers


class NewGeneration:
    """All methods raise PartError, SetupError."""

    def __init__(
        self,
        topics: Topics,
        *,
        database: Database,
        log: LogAdmin,
        reader: LogReader,
        producer: Producer,
        online: Online,
        max_batch_bytes: int,
        archive: Shelf | None = None,
    ) -> None:
        self._topics = topics
        self._archive = archive
        self._database = database
        self._log = log
        self._reader = reader
        self._producer = producer
        self._online = online
        self._max_bytes = max_batch_bytes

    async def standing(self) -> Standing:
        (result,) = await self._database.read(
            [Statement("SELECT topic, topic_partition, topic_id, next_offset FROM offsets")]
        )
        rows: dict[int, dict[int, Row]] = {}
        for topic, number, topic_id, next_offset in result.rows:
            if (generation := self._topics.generation_of(topic)) is not None:
                rows.setdefault(generation, {})[number] = Row(topic_id, next_offset)
        there = {g for name in await self._log.topics() if (g := self._topics.generation_of(name)) is not None}
        stored, newest = max(rows, default=0), max(there, default=0)
        begun = newest > stored
        new = newest if begun else stored + 1
        if new > MAX_GENERATION:
            raise SetupError(f"generation {MAX_GENERATION} is the last that positions can hold")
        old = stored
        found = await self._found(self._topics.generation_topic(old)) if old in there else None
        routed: dict[int, int | None] = {}
        if found is not None:
            places = [TopicPartition(found.topic, n) for n in range(len(found.starts))]
            committed = await self._log.group_offsets(f"{self._topics.namespace}-router", places)
            routed = {p.partition: offset for p, offset in committed.items()}
        return Standing(old, found, rows.get(old, {}), routed, new, begun)

    async def blockers(self, standing: Standing, partitions: int) -> Verdict:
        """`judge`, and whether an edge may still be writing."""
        verdict = judge(self._topics.generation_topic(standing.old), standing, partitions)
        running = [f"{name} holds a lease: stop it" for name in sorted(await self._online.leases())]
        return Verdict(verdict.lost, [*running, *verdict.blockers])

    async def make(self, partitions: int, replication: int, settings: Mapping[str, str], quiet_s: float) -> Made:
        """Do it. `quiet_s`: for so long nobody may lease or write first (an edge that had no lease, because Redis was away,
        has one by then). Cancelled: run it again."""
        standing = await self.standing()
        await self._refuse(standing, partitions)
        await self._quiet(standing, quiet_s)
        standing = await self.standing()
        verdict = await self._refuse(standing, partitions)
        topic, old_topic = self._topics.generation_topic(standing.new), self._topics.generation_topic(standing.old)
        await self._log.create_topic(topic, partitions, replication, settings)
        new = await self._found(topic)
        if new is None:
            raise SetupError(f"{topic} was created, but Kafka does not show it: run this again")
        carried = 0
        if verdict.lost and standing.old_topic is not None:
            carried = await carry_over(
                standing.old_topic,
                standing.old,
                new,
                database=self._database,
                reader=self._reader,
                producer=self._producer,
                max_batch_bytes=self._max_bytes,
                archive=self._archive,
            )
        await self._refuse(standing, partitions)  # nobody has come meanwhile
        await self._database.write(
            [
                Statement(
                    "INSERT INTO offsets (topic, topic_partition, topic_id, generation, next_offset)"
                    " VALUES (%s, %s, %s, %s, 0)",
                    (topic, number, new.topic_id, standing.new),
                )
                for number in range(len(new.starts))
            ]
        )
        return Made(topic, standing.new, len(new.starts), verdict.lost, carried, old_topic)

    async def _refuse(self, standing: Standing, partitions: int) -> Verdict:
        verdict = await self.blockers(standing, partitions)
        if verdict.blockers:
            raise SetupError("no new generation yet:\n" + "\n".join(f"  - {line}" for line in verdict.blockers))
        return verdict

    async def _quiet(self, before: Standing, seconds: float) -> None:
        """Raises SetupError where somebody leases or writes."""
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(LOOK_S)
                if leases := await self._online.leases():
                    raise SetupError(f"no new generation yet: {', '.join(sorted(leases))} has just leased: stop it")
                if before.old_topic is not None:
                    now = await self._found(before.old_topic.topic)
                    if now is None or now.ends != before.old_topic.ends:
                        raise SetupError(
                            f"no new generation yet: somebody still writes to {before.old_topic.topic}, an edge without a "
                            "lease: stop it"
                        )

    async def _found(self, topic: str) -> Found | None:
        ids = await self._log.topic_ids([topic])
        count = await self._log.partitions(topic)
        if topic not in ids or not count:
            return None
        places = [TopicPartition(topic, n) for n in range(count)]
        starts, ends = await self._log.start_offsets(places), await self._log.end_offsets(places)
        return Found(topic, ids[topic], [starts[p] for p in places], [ends[p] for p in places])
