"""Persist ended at every place where it speaks with a server, before and behind the effect: MySQL is real, Kafka is the
fake, so that each place can be named.

Whatever happens, the tables hold what one undisturbed run makes of the same log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.config import MysqlConfig, PersistConfig
from chat.errors import PartAway, SetupError
from chat.metrics import PersistMetrics
from chat.persist import cycle
from chat.persist.cycle import Persist
from chat.persist.heads import Heads
from chat.persist.migrate import migrate
from chat.persist.offsets import check_offsets
from chat.persist.work import Work
from chat.ports import Database, Lock, Producer, Result, Statement
from chat.protocol import Message
from chat.records import Receipts, Record, TopicPartition, Topics, message_records, notice, receipts_record
from tests.fakes.kafka import FakeGroupConsumer, FakeKafka, FakeLogAdmin, FakeProducer
from tests.integration.pipeline import until

pytestmark = pytest.mark.servers

TOPICS = Topics("chat")
P = TopicPartition(TOPICS.messages, 0)
GROUP = "chat-persist"
TABLES = ("messages", "streams", "cursors", "friends", "members", "read_marks", "delivered_marks", "offsets")


class Killed(Exception):
    """The process is gone."""


class Crossings:
    """Counts the crossings, and ends the process at one of them, or breaks the connection there."""

    def __init__(self, at: int = 0, *, behind: bool = False, error: Callable[[], Exception] = Killed) -> None:
        self.at = at
        self.behind = behind
        self.error = error
        self.count = 0

    async def cross(self, work: Callable[[], Any]) -> Any:
        self.count += 1
        now = self.count == self.at
        if now and not self.behind:
            raise self.error()
        result = await work()
        if now:
            raise self.error()
        return result


class CrossedDatabase:
    def __init__(self, database: Database, crossings: Crossings) -> None:
        self._database = database
        self._crossings = crossings

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        found: list[Result] = await self._crossings.cross(lambda: self._database.read(statements))
        return found

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        return await self._database.snapshot(statements)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        found: list[Result] = await self._crossings.cross(lambda: self._database.write(statements))
        return found

    async def script(self, sql: Sequence[str]) -> None:
        await self._database.script(sql)

    def lock(self, name: str) -> Lock:
        return self._database.lock(name)


class CrossedProducer:
    def __init__(self, producer: Producer, crossings: Crossings) -> None:
        self._producer = producer
        self._crossings = crossings

    async def produce(self, batches: Any) -> Any:
        return await self._crossings.cross(lambda: self._producer.produce(batches))


@asynccontextmanager
async def persist(
    kafka: FakeKafka, database: Database, crossings: Crossings | None = None, **settings: Any
) -> AsyncIterator[PersistMetrics]:
    crossings = crossings or Crossings()
    consumer = FakeGroupConsumer(kafka, GROUP, [TOPICS.messages, TOPICS.receipts])
    crossed = CrossedDatabase(database, crossings)
    metrics, heads = PersistMetrics(), Heads(settings.pop("stream_entries", 1_000))
    producer = CrossedProducer(FakeProducer(kafka), crossings)
    work = Work(TOPICS, database=crossed, producer=producer, heads=heads, metrics=metrics, max_batch_bytes=900_000)
    member = Persist(
        PersistConfig(**settings),
        consumer=consumer,
        database=crossed,
        work=work,
        heads=heads,
        metrics=metrics,
        check=lambda: check_offsets(database, FakeLogAdmin(kafka), TOPICS, [TOPICS.messages]),
    )
    stop = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run, stop, lambda: None)
            yield metrics
            stop.set()
    finally:
        kafka.leave(GROUP, consumer)


def text(seq: int, said: str, stream: int = 5) -> Message:
    return Message(sender=1, to=2, stream=stream, seq=seq, sent_at=100 + seq, kind="text", text=said)


def a_log() -> FakeKafka:
    """Texts with resends, notices of every kind, receipts, and records that are dead for three reasons."""
    kafka = FakeKafka()
    kafka.create(TOPICS.messages)
    kafka.create(TOPICS.receipts)
    kafka.create(TOPICS.dead)

    def put(message: Message, *timelines: str) -> None:
        kafka.log(P).append(r.record for r in message_records(message, timelines))

    for seq in range(6):
        put(text(seq, f"text {seq}"), "u2", "u1")
        put(text(max(0, seq - 2), f"text {max(0, seq - 2)}"), "u2")
        if seq == 2:
            kafka.log(P).append([Record(b"u2", b"rubbish", 1)])
            put(text(1, "another"), "u2")
            put(text(0, "refused", stream=666), "u2")
    for kind, sender in (("friend_request", 1), ("friend_accepted", 2)):
        put(notice(kind, sender=sender, to=3 - sender, sent_at=5), "u1", "u2")
    for kind, user in (("group_joined", 1), ("group_joined", 2), ("group_left", 1), ("group_joined", 1)):
        put(notice(kind, sender=user, group=7, sent_at=6, extra={"user": user}), "g7")
    put(notice("read", sender=2, to=1, sent_at=7, extra={"sent_at": 104}), "u2", "u1")
    put(notice("delivered", sender=2, to=1, sent_at=8, extra={"to": 2, "stream": 5, "seq": 4}), "u1")
    acks = [receipts_record(Receipts(2, "device-two", {"u2": pos}), 1) for pos in (4, 9, 7)]
    kafka.log(TopicPartition(TOPICS.receipts, 0)).append(acks)
    return kafka


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "POLL_S", 0.01)


@pytest.fixture
async def database(mysql_config: MysqlConfig) -> AsyncIterator[Database]:
    async with open_database(replace(mysql_config, timeout_ms=3_000)) as database:
        await migrate(database)
        await database.script(
            [
                "CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW "
                "IF NEW.stream = 666 THEN SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = 'too long'; END IF"
            ]
        )
        yield database


async def place(database: Database, kafka: FakeKafka) -> None:
    await database.script([f"DELETE FROM {table}" for table in TABLES])
    await check_offsets(database, FakeLogAdmin(kafka), TOPICS, [TOPICS.messages])


async def tables(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    results = await database.read([Statement(f"SELECT * FROM {table}") for table in TABLES])
    return {table: sorted(result.rows, key=repr) for table, result in zip(TABLES, results, strict=True)}


async def run_to_the_end(kafka: FakeKafka, database: Database, crossings: Crossings | None = None) -> None:
    async with persist(kafka, database, crossings, max_records=15, linger_ms=0):
        await stored(kafka, database)


async def stored(kafka: FakeKafka, database: Database) -> None:
    async def all_of_it() -> bool:
        (result,) = await database.read([Statement("SELECT topic, topic_partition, next_offset FROM offsets")])
        return all(kafka.log(TopicPartition(t, p)).end == offset for t, p, offset in result.rows)

    await until(all_of_it)


def dead(kafka: FakeKafka) -> set[tuple[bytes, bytes]]:
    return {(r.value, dict(r.headers)["offset"]) for r in kafka.log(TopicPartition(TOPICS.dead, 0)).records}


async def test_ended_at_every_crossing_before_and_behind_the_effect(database: Database) -> None:
    kafka = a_log()
    await place(database, kafka)
    counting = Crossings()
    await run_to_the_end(kafka, database, counting)
    undisturbed, buried = await tables(database), dead(kafka)
    assert len(buried) == 3
    assert all(undisturbed.values())
    assert counting.count > 10
    for behind in (False, True):
        for at in range(1, counting.count + 1):
            kafka = a_log()
            await place(database, kafka)
            try:
                await run_to_the_end(kafka, database, Crossings(at, behind=behind))
            except* Killed:
                pass
            await run_to_the_end(kafka, database)
            assert await tables(database) == undisturbed, (behind, at)
            assert dead(kafka) == buried, (behind, at)


async def test_every_crossing_with_an_unknown_outcome(database: Database) -> None:
    kafka = a_log()
    await place(database, kafka)
    counting = Crossings()
    await run_to_the_end(kafka, database, counting)
    undisturbed, buried = await tables(database), dead(kafka)
    for behind in (False, True):
        for at in range(1, counting.count + 1):
            kafka = a_log()
            await place(database, kafka)
            lost = Crossings(at, behind=behind, error=lambda: PartAway("mysql", "connection lost"))
            await run_to_the_end(kafka, database, lost)
            assert await tables(database) == undisturbed, (behind, at)
            assert dead(kafka) == buried, (behind, at)


async def test_a_memory_of_one_stream_is_enough(database: Database) -> None:
    kafka = a_log()
    await place(database, kafka)
    await run_to_the_end(kafka, database)
    undisturbed = await tables(database)
    await place(database, kafka)
    async with persist(kafka, database, stream_entries=1, max_records=1, linger_ms=0):
        await stored(kafka, database)
    assert await tables(database) == undisturbed


class Asleep(Crossings):
    """Holds the first write until it is woken: a process that is stopped there, and does not know what goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep, self.wake = trio.Event(), trio.Event()

    async def hold(self) -> None:
        self.asleep.set()
        await self.wake.wait()


class AsleepDatabase(CrossedDatabase):
    def __init__(self, database: Database, crossings: Asleep) -> None:
        super().__init__(database, crossings)
        self._asleep = crossings

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        if not self._asleep.asleep.is_set():
            await self._asleep.hold()
        return await super().write(statements)


async def test_a_zombie_changes_nothing_and_buries_nothing(database: Database) -> None:
    """It wakes with a batch that another process has stored meanwhile: its rows are duplicate keys now."""
    kafka = FakeKafka()
    for topic in (TOPICS.messages, TOPICS.receipts, TOPICS.dead):
        kafka.create(topic)
    await place(database, kafka)
    kafka.log(P).append(r.record for n in range(5) for r in message_records(text(n, str(n)), ["u2"]))
    asleep = Asleep()
    consumer = FakeGroupConsumer(kafka, GROUP, [TOPICS.messages, TOPICS.receipts])
    metrics, heads = PersistMetrics(), Heads(100)
    sleeper = AsleepDatabase(database, asleep)
    work = Work(
        TOPICS, database=sleeper, producer=FakeProducer(kafka), heads=heads, metrics=metrics, max_batch_bytes=900_000
    )
    zombie = Persist(
        PersistConfig(), consumer=consumer, database=sleeper, work=work, heads=heads, metrics=metrics, check=_never
    )
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zombie.run, stop, lambda: None)
        await asleep.asleep.wait()
        kafka.leave(GROUP, consumer)  # its session has timed out
        async with persist(kafka, database):
            await stored(kafka, database)
            whole = await tables(database)
            asleep.wake.set()

            async def noticed() -> bool:
                return bool(metrics.conflicts._value.get())

            await until(noticed)
            kafka.log(P).append(r.record for r in message_records(text(5, "5"), ["u2"]))
            kafka.tell()
            await stored(kafka, database)
        stop.set()
    after = await tables(database)
    assert set(whole["messages"]) <= set(after["messages"])
    assert [row[6] for row in after["messages"]] == list(range(6))
    assert dead(kafka) == set()


async def _never() -> None:
    raise AssertionError("nothing is out of range")


# ------------------------------------------------------------------ what is away, what is missing


async def test_kafka_away_and_back(database: Database) -> None:
    kafka = a_log()
    await place(database, kafka)
    async with persist(kafka, database) as metrics:
        await stored(kafka, database)
        kafka.away = True

        async def noticed() -> bool:
            return bool(metrics.failures.labels("kafka")._value.get())

        await until(noticed)
        kafka.log(P).append(r.record for r in message_records(text(6, "6"), ["u2"]))
        kafka.away = False
        await stored(kafka, database)


async def test_receipts_that_are_gone_are_passed_over_while_it_runs(database: Database) -> None:
    kafka, where = a_log(), TopicPartition(TOPICS.receipts, 0)
    await place(database, kafka)
    kafka.log(where).trim(2)
    async with persist(kafka, database):
        await stored(kafka, database)
    assert (await tables(database))["cursors"] == [(2, "device-two", "u2", 7)]


async def test_messages_that_are_gone_unstored_end_it_by_name(database: Database) -> None:
    kafka = a_log()
    await place(database, kafka)
    kafka.log(P).trim(2)
    refusal = pytest.RaisesExc(SetupError, match=r"begins at offset 2.*UPDATE offsets")
    with pytest.RaisesGroup(refusal, flatten_subgroups=True), trio.fail_after(30):
        async with persist(kafka, database):
            await trio.sleep_forever()


async def test_offsets_left_out_are_asked_for_again_once(database: Database) -> None:
    """As if a fetch had gone astray; and then as if the log itself had the hole."""
    kafka = FakeKafka()
    for topic in (TOPICS.messages, TOPICS.receipts, TOPICS.dead):
        kafka.create(topic)
    await place(database, kafka)
    kafka.log(P).append(r.record for n in range(6) for r in message_records(text(n, str(n)), ["u2"]))
    whole, read = kafka.read, 0

    def astray(partition: TopicPartition, offset: int, most: int) -> list[Any]:
        nonlocal read
        found = whole(partition, offset, most)
        if partition == P and found:
            read += 1
            if read == 1:
                return found[2:]
            return [r for r in found if r.offset != 4]
        return found

    kafka.read = astray  # type: ignore[method-assign]
    async with persist(kafka, database):
        await stored(kafka, database)
    assert read > 2
    assert [row[6] for row in (await tables(database))["messages"]] == [0, 1, 2, 3, 5]
