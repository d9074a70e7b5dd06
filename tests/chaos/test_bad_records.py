"""Records that cannot be used: in the messages' topic, in the receipts', in an edge's own; rows that MySQL refuses. Nobody
waits behind them, and they lie in `chat.dead`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chat import protocol
from chat.bridge import open_database, open_log_admin, open_log_reader, open_producer
from chat.client.sdk import Client
from chat.client.store import Store
from chat.config import Config
from chat.records import Consumed, Record, TopicPartition, Topics, partition_of
from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

VALUES = (
    b"", b"\xff\x00\x01", b"\xff}", b"{}", b"not json}", b"[" * 5_000 + b"}", b'{"type":"message"}',
    b'{"type":"send","to":1}',
    json.dumps({"type": "message", "from": 1, "to": 2, "stream": 1, "seq": 2**60, "sent_at": 1, "kind": "text",
                "text": "a seq beyond all"}).encode(),
    json.dumps({"type": "message", "from": 2**70, "to": 2, "sent_at": 1, "kind": "read", "extra": {}}).encode(),
    json.dumps({"type": "message", "from": 1, "group": 999_999, "stream": 1, "seq": 0, "sent_at": 1, "kind": "text",
                "text": "in another's timeline"}).encode(),
    b'{"type":"message","from":1,"sent_at":1,"kind":"text","text":"\xed\xa0\x80"}',
)  # fmt: skip
KEYS = (None, b"", b"u0", b"nobody", b"\xff", b"u99999999999999999999")


async def dead_of(config: Config, since: int) -> list[Consumed]:
    """What was buried from this offset on, up to now."""
    place = TopicPartition(Topics(config.kafka.namespace).dead, 0)
    found: list[Consumed] = []
    async with open_log_admin(config.kafka) as admin, open_log_reader(config.kafka) as reader:
        end = (await admin.end_offsets([place]))[place]
        await reader.assign({place: since})
        while since + len(found) < end:
            found += (await reader.poll(1.0, 1_000)).get(place, ())
    return found


async def end_of_dead(config: Config) -> int:
    place = TopicPartition(Topics(config.kafka.namespace).dead, 0)
    async with open_log_admin(config.kafka) as admin:
        return (await admin.end_offsets([place]))[place]


@pytest.mark.short
async def test_undecodable_records(harmed: Cluster, bridge: None) -> None:
    config = harmed.config
    topics = Topics(config.kafka.namespace)
    before = await end_of_dead(config)
    restarts = {entry.name: entry.restarts for entry in harmed.processes.processes}
    put = 0

    async def cruel(scene: Scene) -> None:
        nonlocal put
        now = int(time.time() * 1000)
        batches: dict[TopicPartition, list[Record]] = {}

        def add(place: TopicPartition, key: bytes | None, value: bytes) -> None:
            batches.setdefault(place, []).append(Record(key, value, now))

        async with open_log_admin(config.kafka) as admin, open_producer(config.kafka) as producer:
            messages = await admin.partitions(topics.messages)
            receipts = await admin.partitions(topics.receipts)
            timelines = [f"u{user}" for user in scene.users] + [f"g{group}" for group in scene.ledger.members]
            for timeline in timelines:  # between what is written to people who are on line
                for value in VALUES:
                    add(TopicPartition(topics.messages, partition_of(timeline, messages)), timeline.encode(), value)
            for partition in range(messages):
                for key in KEYS:
                    add(TopicPartition(topics.messages, partition), key, VALUES[6])
            for partition in range(receipts):
                for value in VALUES:
                    add(TopicPartition(topics.receipts, partition), b"u1", value)
            put = sum(map(len, batches.values()))
            for value in VALUES:
                add(TopicPartition(topics.presence, 0), b"u1", value)
                for edge in harmed.names("edge"):
                    add(TopicPartition(topics.edge(edge), 0), None, value)
            scene.begin()
            outcome = await producer.produce(batches)
            assert all(isinstance(offset, int) for offset in outcome.values()), outcome
        await scene.recovered()

    await play(harmed, "records that cannot be decoded", cruel, section="records")
    buried = await dead_of(config, before)
    places = {
        tuple(value for name, value in record.headers if name in ("topic", "partition", "offset")) for record in buried
    }
    assert len(places) == put, (len(places), put)
    assert restarts == {entry.name: entry.restarts for entry in harmed.processes.processes}  # nothing ended by it


@asynccontextmanager
async def refusing(config: Config, make: str, drop: str) -> AsyncIterator[None]:
    """MySQL takes no row with certain words in it: a trigger says so, or a constraint."""
    async with open_database(config.mysql) as database:
        await database.script([make])
        try:
            yield
        finally:
            await database.script([drop])


TRIGGER = (
    "CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW IF NEW.body LIKE '%{words}%' THEN SIGNAL {signal}; END IF"
)
NO_TRIGGER = "DROP TRIGGER refuses"
REFUSALS = {
    "too long": (TRIGGER.replace("{signal}", "SQLSTATE '22001' SET MYSQL_ERRNO = 1406"), NO_TRIGGER),
    "a trigger's own": (TRIGGER.replace("{signal}", "SQLSTATE '45000'"), NO_TRIGGER),
    "a constraint": (
        "ALTER TABLE messages ADD CONSTRAINT refuses CHECK (body NOT LIKE '%{words}%')",
        "ALTER TABLE messages DROP CONSTRAINT refuses",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_a_row_that_mysql_refuses(harmed: Cluster, bridge: None, why: str) -> None:
    """Two more people say what the database does not take, between others things: those are stored and read."""
    config, words = harmed.config, f"refused-{secrets.token_hex(4)}"
    before = await end_of_dead(config)
    texts = ["one", words, "two", f"{words} again", "three"]

    make, drop = REFUSALS[why]

    async def cruel(scene: Scene) -> None:
        async with refusing(config, make.replace("{words}", words), drop), trio.open_nursery() as nursery:
            scene.begin()
            alice, bob = (
                Client(
                    [harmed.front],
                    f"{name}-{secrets.token_hex(4)}",
                    Store(":memory:"),
                    password="long enough",
                    register=True,
                )
                for name in ("alice", "bob")
            )
            for client in (alice, bob):
                nursery.start_soon(client.run)
                await client.wait_connected()
            for _ in range(5):
                for text in texts:
                    alice.send_text(f"u{bob.user}", text)
            with trio.fail_after(30 * PATIENCE):
                while len(alice.sending):  # noqa: ASYNC110 - many things make it so
                    await trio.sleep(0.05)
            await scene.recovered()
            with trio.fail_after(30 * PATIENCE):
                while True:
                    rows = (await bob.ask(protocol.History(to=alice.user, limit=100), protocol.HistoryReply)).messages
                    if len(rows) >= 15:
                        break
                    await trio.sleep(0.1)
            assert [row.text for row in reversed(rows)] == ["one", "two", "three"] * 5
            nursery.cancel_scope.cancel()

    await play(harmed, f"rows that MySQL refuses: {why}", cruel, section="records")
    with trio.fail_after(30 * PATIENCE):  # in both timelines; the other's persist may be behind
        while sum(words.encode() in record.value for record in await dead_of(config, before)) < 20:  # noqa: ASYNC110
            await trio.sleep(0.1)
