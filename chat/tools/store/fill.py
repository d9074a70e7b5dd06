"""A store in MySQL: towns, each in one transaction, by the code that persist stores with.

What was cut off goes on where it was: a town is there or is not. The database must be the store's alone, since users and
groups have the numbers that the towns give them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from chat.admin.generation import NewGeneration
from chat.admin.online import Online
from chat.bridge import open_bridge, open_database, open_log_admin, open_log_reader, open_memory, open_producer
from chat.config import Config
from chat.errors import SetupError
from chat.persist.batch import Known, build
from chat.persist.migrate import migrate
from chat.persist.parse import Parsed, parse_messages
from chat.persist.relations import Groups
from chat.persist.store import transaction
from chat.ports import Database, LogAdmin, Statement
from chat.positions import position
from chat.records import Consumed, TopicPartition, Topics, partition_of
from chat.tools.project import ROOT
from chat.tools.store.corpus import Corpus
from chat.tools.store.town import DAY_MS, SPAN_MS, Size, Town
from chat.tools.topics import create_topics, load_topics

#: One town's transaction.
TOWN_S: Final = 600.0
LOGS: Final = ROOT / "tests" / "data" / "irc"

Say = Callable[[str], None]


class Standing(NamedTuple):
    """`towns` are there; their two years began at `since` (0: there are none)."""

    towns: int
    since: int


class Made(NamedTuple):
    rows: int  # all that are there, hot
    new_rows: int
    seconds: float


class Filled(NamedTuple):
    """A town, ready to be written."""

    statements: Sequence[Statement]
    moves: Mapping[TopicPartition, int]  # → next offset
    rows: int


def corpus_of(folder: Path | None) -> Corpus:
    """Of all *.log below the folder; default: the logs that come with the tests. Raises SetupError."""
    where = folder or LOGS
    files = sorted(where.glob("**/*.log"))
    if not files:
        raise SetupError(f"no *.log is in {where}: name a folder with IRC logs with --data")
    return Corpus([file.read_bytes() for file in files])


def name_of(corpus: Corpus, seed: int, user: int) -> str:
    """A user's name says of which store he is."""
    return f"{tag(corpus, seed)}{user}"


def tag(corpus: Corpus, seed: int) -> str:
    return f"store-{corpus.digest}-{seed}-"


async def make(config: Config, corpus: Corpus, *, rows: int, seed: int, size: Size | None = None, say: Say) -> Made:
    """Add towns until there are at least `rows` rows, and see that the log goes on in a generation of its own. Raises
    SetupError, PartError; cancelled, what is there stays and is gone on from."""
    size = size or Size()
    mysql = msgspec.structs.replace(config.mysql, timeout_ms=int(TOWN_S * 1_000))
    topics = Topics(config.kafka.namespace)
    async with open_bridge(), open_database(mysql) as database, open_log_admin(config.kafka) as admin:
        await migrate(database)
        await create_topics(admin, config.kafka.namespace, config.kafka.replication)
        standing = await look(database, corpus, seed, size)
        since = standing.since or (int(time.time() * 1_000) // DAY_MS) * DAY_MS - SPAN_MS
        places = await _places(database, admin, topics)
        wanted = math.ceil(rows / size.rows)
        towns = [Town(n, corpus, seed=seed, since=since, size=size) for n in range(standing.towns, wanted)]
        began, written = trio.current_time(), 0
        limiter = trio.CapacityLimiter(1)

        async def made(town: Town, begin: Mapping[TopicPartition, int]) -> Filled:
            return await trio.to_thread.run_sync(fill_town, town, corpus, seed, begin, limiter=limiter)

        ahead: Filled | None = await made(towns[0], places) if towns else None
        for number, _ in enumerate(towns):
            now = ahead
            assert now is not None
            ahead = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, database, now)
                if number + 1 < len(towns):
                    ahead = await made(towns[number + 1], now.moves)
            written += now.rows
            seconds = trio.current_time() - began
            say(f"{(standing.towns + number + 1) * size.rows:,} rows are there, {written / seconds:,.0f}/s")
        seconds = trio.current_time() - began
    await _new_generation(config, topics)
    return Made(max(wanted, standing.towns) * size.rows, written, round(seconds, 2))


async def look(database: Database, corpus: Corpus, seed: int, size: Size) -> Standing:
    """Raises SetupError where the database is another's."""
    mine = tag(corpus, seed)
    (result,) = await database.read(
        [
            Statement(
                "SELECT COUNT(*), COALESCE(SUM(name LIKE %s), 0), COALESCE(MIN(created_at), 0), COALESCE(MAX(id), 0)"
                " FROM users",
                (f"{mine}%",),
            )
        ]
    )
    ((users, ours, since, highest),) = result.rows
    if users != ours or highest != users or users % size.users:
        raise SetupError(
            "the database has users that are not of this store, or of one of another seed, size or data: a store is made in "
            "a cluster of its own (`chat up --state FOLDER`)"
        )
    return Standing(int(users) // size.users, int(since))


async def _places(database: Database, admin: LogAdmin, topics: Topics) -> dict[TopicPartition, int]:
    """Where each partition of generation 0 goes on in MySQL; rows of `offsets` are made where persist has made none."""
    name = topics.messages
    (result,) = await database.read(
        [Statement("SELECT topic_partition, next_offset FROM offsets WHERE topic = %s", (name,))]
    )
    if result.rows:
        return {TopicPartition(name, number): next_offset for number, next_offset in result.rows}
    ids, count = await admin.topic_ids([name]), await admin.partitions(name)
    if name not in ids:
        raise SetupError(f"Kafka has no topic {name}: create the topics with `chat topics create`")
    places = [TopicPartition(name, n) for n in range(count)]
    values = ", ".join(["(%s, %s, %s, 0, 0)"] * count)
    await database.write(
        [
            Statement(
                f"INSERT INTO offsets (topic, topic_partition, topic_id, generation, next_offset) VALUES {values}",
                [value for place in places for value in (name, place.partition, ids[name])],
            )
        ]
    )
    return dict.fromkeys(places, 0)


def fill_town(town: Town, corpus: Corpus, seed: int, begin: Mapping[TopicPartition, int]) -> Filled:
    """The town's records as persist would store them, had they been read from these offsets on. Pure."""
    moves = dict(begin)
    topic = next(iter(begin)).topic
    by_partition: dict[TopicPartition, list[Consumed]] = {place: [] for place in begin}
    ends: dict[str, int] = {}
    where: dict[str, TopicPartition] = {}
    for timeline, record in town.records():
        place = where.get(timeline)
        if place is None:
            place = where[timeline] = TopicPartition(topic, partition_of(timeline, len(begin)))
        offset = moves[place]
        moves[place] = offset + 1
        ends[timeline] = position(0, offset)
        by_partition[place].append(Consumed(offset, record.timestamp, record.key, record.value, record.headers))
    parsed = Parsed([], list(town.receipts(ends)), [])
    for place, records in by_partition.items():
        parse_messages(parsed, place, 0, records)
    owners = {group.number: group.members[0] for group in town.groups}
    changes = build(parsed, Known(groups=Groups({}, owners)))
    if changes.dead or changes.unverified or changes.duplicates or changes.holes:
        raise AssertionError(f"town {town.number} is not what persist would store: {changes.dead[:1]}")
    changes.groups.new_owners.clear()  # owners that left and came back: the groups are made with who owns them now
    now = town.since
    users = ", ".join(f"({user}, '{name_of(corpus, seed, user)}', '!', {now})" for user in town.users)
    groups = ", ".join(f"({g.number}, '{g.name}', 0, {owners[g.number]}, {now})" for g in town.groups)
    statements = [
        Statement(f"INSERT INTO users (id, name, password, created_at) VALUES {users}", (), len(town.users)),
        Statement(f"INSERT INTO chat_groups (id, name, open, owner, created_at) VALUES {groups}", (), len(town.groups)),
        *transaction(changes, {p: (begin[p], end) for p, end in moves.items() if end > begin[p]}),
    ]
    return Filled(statements, moves, len(changes.rows))


async def _write(database: Database, town: Filled) -> None:
    await database.write(town.statements)


async def _new_generation(config: Config, topics: Topics) -> None:
    """As `chat admin new-generation` does where Kafka was lost, unless it is done. Raises SetupError where edges run."""
    async with (
        open_bridge(),
        open_database(config.mysql) as database,
        open_memory(config.redis) as memory,
        open_log_admin(config.kafka) as log,
        open_log_reader(config.kafka) as reader,
        open_producer(config.kafka) as producer,
    ):
        (result,) = await database.read([Statement("SELECT MAX(generation) FROM offsets")])
        if result.rows[0][0]:
            return
        online = Online(memory, config.redis.prefix)
        making = NewGeneration(
            topics, database=database, log=log, reader=reader, producer=producer, online=online,
            max_batch_bytes=config.kafka.max_batch_bytes,
        )  # fmt: skip
        spec = load_topics()["messages"]
        await making.make(spec.partitions, config.kafka.replication, spec.settings, 1.5 * config.edge.lease_ms / 1_000)
