"""Persist against real servers: what is in the log is in MySQL once, whatever ends in between."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.config import Config, PersistConfig
from chat.errors import SetupError
from chat.persist.service import run_persist
from chat.ports import Database, Statement
from chat.protocol import Message, decode_message
from chat.records import Receipts, Record, TopicPartition, message_records, notice, receipts_record
from tests.integration.pipeline import Pipeline, end, open_pipeline, records, text, until

pytestmark = pytest.mark.servers


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    async with open_pipeline(config) as line:
        yield line


async def test_messages_marks_and_relations_reach_their_tables(line: Pipeline) -> None:
    await line.rows("SELECT 1")
    both = ["u1", "u2"]
    async with line.persist():
        await line.send(
            text(0), text(1), text(0), Message(sender=2, to=1, stream=8, seq=0, sent_at=9, kind="text", text="né")
        )
        for kind, sender in (("friend_request", 1), ("friend_accepted", 2)):
            await line.write(*message_records(notice(kind, sender=sender, to=3 - sender, sent_at=5), both))
        await line.write(*message_records(notice("read", sender=2, to=1, sent_at=6, extra={"sent_at": 4}), both))
        await line.write(
            *message_records(notice("delivered", sender=2, to=1, sent_at=6, extra={"to": 2, "stream": 5, "seq": 1}), ["u1"])
        )
        for user in (1, 2):
            joined = notice(
                "group_joined", sender=1, group=7, sent_at=5 + user, extra={"user": user, "group": 7, "name": "g"}
            )
            await line.write(*message_records(joined, ["g7"]))
        await line.write(*message_records(notice("group_left", sender=1, group=7, sent_at=9, extra={"user": 1}), ["g7"]))
        await line.produce(
            {
                TopicPartition(line.topics.receipts, 0): [
                    receipts_record(Receipts(2, "device-two", {"u2": p}), 1) for p in (3, 2)
                ]
            }
        )
        await line.stored()
    for timeline, other in (("u2", "u1"), ("u1", "u2")):
        rows = await line.rows(
            "SELECT conversation, sender, stream, seq, body FROM messages "
            "WHERE timeline = %s AND kind = 'text' ORDER BY position",
            timeline,
        )
        assert [r[:4] for r in rows] == [(other, 1, 5, 0), (other, 1, 5, 1), (other, 2, 8, 0)]
        assert decode_message(rows[2][4]).text == "né"
    heads = await line.rows("SELECT timeline, sender, stream, next_seq FROM streams ORDER BY timeline, stream")
    assert heads == [("u1", 1, 5, 2), ("u1", 2, 8, 1), ("u2", 1, 5, 2), ("u2", 2, 8, 1)]
    assert await line.rows("SELECT user, other, state FROM friends ORDER BY user") == [(1, 2, "friend"), (2, 1, "friend")]
    assert await line.rows("SELECT user, conversation, sent_at FROM read_marks") == [(2, "u1", 4)]
    assert await line.rows("SELECT user, conversation, stream, seq FROM delivered_marks") == [(1, "u2", 5, 1)]
    assert await line.rows("SELECT user, device, timeline, position FROM cursors") == [(2, "device-two", "u2", 3)]
    stays = await line.rows("SELECT user, to_position IS NULL, joined_at FROM members WHERE chat_group = 7 ORDER BY user")
    assert stays == [(1, 0, 6), (2, 1, 7)]


async def test_the_owner_who_leaves_is_followed_by_the_longest_member(line: Pipeline) -> None:
    await line.database.script(["INSERT INTO chat_groups (id, name, open, owner, created_at) VALUES (7, 'g', 0, 1, 1)"])
    for kind, user in (("group_joined", 1), ("group_joined", 3), ("group_joined", 2), ("group_left", 1)):
        said = notice(kind, sender=user, group=7, sent_at=5, extra={"user": user, "group": 7, "name": "g"})
        await line.write(*message_records(said, ["g7"]))
    async with line.persist():
        await line.stored()
    assert await line.rows("SELECT owner FROM chat_groups") == [(3,)]


async def test_dead_records_go_aside_and_their_partition_goes_on(line: Pipeline) -> None:
    where = line.place("u2")
    good, twin = records(text(0))[0].record, records(text(0, said="another"))[0].record
    # MySQL itself refuses a conversation that is too long for its column only by its row: a trigger stands for it
    await line.database.script(
        [
            "CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW "
            "IF NEW.stream = 666 THEN SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = 'too long'; END IF"
        ]
    )
    refused = records(text(0, stream=666))[0].record
    rubbish = Record(b"u2", b"rubbish", 1, (("k", b"text"),))
    await line.produce({where: [good, rubbish, refused, twin, *(records(text(n))[0].record for n in range(1, 9))]})
    await line.produce({TopicPartition(line.topics.receipts, 0): [Record(b"u2", b"[]", 1)]})
    async with line.persist():
        await line.stored()
    assert await line.seqs("u2") == list(range(9))
    dead = {(d.value, dict(d.headers)["why"].split(b":")[0]): dict(d.headers) for d in await line.dead()}
    assert {value for value, _ in dead} == {b"rubbish", refused.value, twin.value, b"[]"}
    whys = dict(dead.keys())
    assert len(await line.dead()) == 4
    assert whys[b"rubbish"] == b"not a message"
    assert whys[refused.value] == b"MySQL refuses it"
    assert b"another text" in whys[twin.value]
    offsets = {value: (h["topic"], h["offset"]) for (value, _), h in dead.items()}
    assert offsets[refused.value] == (where.topic.encode(), b"2")


async def test_what_is_not_a_records_fault_buries_nothing(line: Pipeline) -> None:
    await line.database.script(["ALTER TABLE messages RENAME TO away"])
    async with line.persist():
        await line.send(text(0))
        with trio.move_on_after(1.0):
            await line.stored()
        assert await line.lag() > 0
        await line.database.script(["ALTER TABLE away RENAME TO messages"])
        await line.stored()
    assert await line.seqs("u2") == [0]
    assert await line.dead() == []


async def test_killed_again_and_again_it_stores_once_and_in_order(line: Pipeline) -> None:
    total, done = 4_000, trio.Event()

    async def write() -> None:
        for at in range(0, total, 50):
            await line.send(*(text(n) for n in range(at, at + 50)), *(text(n) for n in range(max(0, at - 3), at)))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for kill in range(4):
            process = line.process("persist", CHAT_PERSIST_MAX_RECORDS="150", CHAT_KAFKA_SESSION_TIMEOUT_MS="1000")
            before = await _stored(line)

            async def moved(before: int = before, kill: int = kill) -> bool:
                return await _stored(line) > before + 100 * kill or (done.is_set() and await line.lag() == 0)

            await until(moved, 60)
            assert await end(process, signal.SIGKILL) == -signal.SIGKILL
    process = line.process("persist", CHAT_KAFKA_SESSION_TIMEOUT_MS="1000")
    await line.stored()
    assert await end(process) == 0
    assert await line.seqs("u1") == await line.seqs("u2") == list(range(total))
    assert await line.dead() == []


async def _stored(line: Pipeline) -> int:
    return int((await line.rows("SELECT COALESCE(SUM(next_offset), 0) FROM offsets"))[0][0])


async def test_two_processes_share_the_work_and_take_over(line: Pipeline) -> None:
    quick = replace(line.config, kafka=replace(line.config.kafka, session_timeout_ms=1_000))
    async with line.persist(quick):
        await line.send(*(text(n) for n in range(100)))
        async with line.persist(quick):
            await line.send(*(text(n) for n in range(100, 200)))
            await line.stored()
        await line.send(*(text(n) for n in range(190, 300)))
        await line.stored()
    assert await line.seqs("u1") == await line.seqs("u2") == list(range(300))


async def test_a_database_restored_from_a_dump_catches_up_from_its_own_offsets(line: Pipeline) -> None:
    async with line.persist():
        await line.send(*(text(n) for n in range(5)))
        await line.stored()
        offsets = await line.rows("SELECT topic, topic_partition, next_offset FROM offsets")
        await line.send(*(text(n) for n in range(5, 9)))
        await line.stored()
    for topic, partition, offset in offsets:
        await line.database.script(
            [f"UPDATE offsets SET next_offset = {offset} WHERE topic = '{topic}' AND topic_partition = {partition}"]
        )
    await line.database.script(["DELETE FROM messages WHERE seq > 4", "UPDATE streams SET next_seq = 5"])
    async with line.persist():
        await line.stored()
    assert await line.seqs("u2") == list(range(9))


async def test_a_topic_made_anew_is_refused_by_name(line: Pipeline) -> None:
    async with line.persist():
        await line.send(text(0))
        await line.stored()
    await line.admin.delete_topics([line.topics.messages])

    async def gone() -> bool:
        return line.topics.messages not in await line.admin.topics()

    await until(gone)
    await line.admin.create_topic(line.topics.messages, 4, 1, {})
    refusal = pytest.RaisesExc(SetupError, match=r"made anew.*new-generation")
    with pytest.RaisesGroup(refusal, flatten_subgroups=True), trio.fail_after(30):
        await run_persist(line.config, stop=trio.Event())


async def test_it_waits_for_mysql_in_its_group_and_goes_on(line: Pipeline) -> None:
    """The offsets are locked away, so that every transaction times out."""
    config = replace(line.config, mysql=replace(line.config.mysql, timeout_ms=1_000))
    async with line.persist(config):
        await line.send(text(0))
        await line.stored()
        async with _locked(line):
            await line.send(text(1))
            with trio.move_on_after(3.0):
                await line.stored()
            assert await line.seqs("u2") == [0]
        await line.stored()
    assert await line.seqs("u2") == [0, 1]


@asynccontextmanager
async def _locked(line: Pipeline) -> AsyncIterator[None]:
    """Every row of the offsets is held by another transaction, for eight seconds at most."""
    patient = replace(line.config.mysql, timeout_ms=12_000)

    async def hold(database: Database) -> None:
        await database.write([Statement("SELECT * FROM offsets FOR UPDATE"), Statement("SELECT SLEEP(8) AS held")])

    async def held() -> bool:
        asleep = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User sleep'"
        return await line.rows(asleep) == [(1,)]

    async with open_database(patient) as database, trio.open_nursery() as nursery:
        nursery.start_soon(hold, database)
        await until(held)
        yield


async def test_the_janitor_trims_what_is_stored_and_old_and_removes_topics_of_dead_edges(line: Pipeline) -> None:
    settings = PersistConfig(retain_days=1e-9, janitor_s=0.2, edge_topic_hours=1e-9)
    await line.edge("alive", 5)
    await line.admin.create_topic(line.topics.edge("gone"), 1, 1, {})
    await line.send(*(text(n) for n in range(5)))
    where = line.place("u2")
    async with line.persist(replace(line.config, persist=settings)):
        await line.stored()

        async def trimmed() -> bool:
            start = (await line.admin.start_offsets([where]))[where]
            return start == 5 and line.topics.edge("gone") not in await line.admin.topics()

        await until(trimmed)
        assert line.topics.edge("alive") in await line.admin.topics()
        await line.send(text(5))
        await line.stored()
    assert await line.seqs("u2") == list(range(6))
    async with line.persist():
        await line.send(text(6))
        await line.stored()
    assert await line.seqs("u2") == list(range(7))
