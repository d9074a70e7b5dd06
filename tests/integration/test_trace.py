"""`chat trace` against real servers: what it finds, what it says, how quickly, and that it leaves no trace of itself."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from msgspec.structs import replace

from chat.config import Config, RedisConfig
from chat.errors import PartAway, SetupError
from chat.message_id import MessageId
from chat.persist.archive.service import open_archiver
from chat.ports import Statement
from chat.positions import offset_of
from chat.protocol import Message
from chat.records import (
    PresenceEvent,
    Receipts,
    Record,
    TimelineRecord,
    TopicPartition,
    message_records,
    notice,
    partition_of,
    presence_record,
    receipts_record,
)
from chat.tools.trace.asked import Asked, At, Last
from chat.tools.trace.facts import Facts
from chat.tools.trace.gather import find_out
from chat.tools.trace.hops import hops
from chat.tools.trace.verdict import State, Verdict, judge
from tests.harness.cluster import Cluster
from tests.integration.pipeline import Pipeline, open_pipeline, records, text, until
from tests.integration.test_client import Device, running, unique

pytestmark = pytest.mark.servers

#: Promised; the machine may be busy with other things.
LIMIT_S: Final = 2.0 * float(os.environ.get("CHAT_PATIENCE", "1"))
ALICE, BOB, CAROL = 1, 2, 3
IDS: Final = {ALICE: "alices-0001", BOB: "bobs-phone-1", CAROL: "carols-0001"}


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    """Alice and Bob have accounts and devices."""
    async with open_pipeline(config) as line:
        await line.edge("a", 1)
        await line.edge("b", 2)
        for user, name in ((ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")):
            await line.database.write(
                [
                    Statement("INSERT INTO users (id, name, password, created_at) VALUES (%s, %s, 'x', 1)", (user, name)),
                    Statement("INSERT INTO devices VALUES (%s, %s, '', 1, 1)", (user, IDS[user])),
                ]
            )
        yield line


@pytest.fixture
async def away(redis_config: RedisConfig) -> AsyncIterator[int]:
    """A port that nobody listens on."""
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def traced(line: Pipeline, asked: Asked, config: Config | None = None, seconds: float = 1.2) -> tuple[Facts, Verdict]:
    began = trio.current_time()
    facts = await find_out(config or line.config, asked, seconds)
    assert trio.current_time() - began < LIMIT_S
    verdict = judge(facts)
    print(facts.id, verdict, facts.unknown, *hops(facts), sep="\n  ")
    return facts, verdict


def message(seq: int = 0, *, ago: int = 10_000, said: str = "") -> Message:
    """From Alice to Bob, old enough to be judged."""
    one = text(seq, said=said)
    return replace(one, sent_at=one.sent_at - ago)


ID: Final = MessageId(ALICE, "u2", 5, 0)


async def logged(line: Pipeline, user: int, edge: str, run: int, *, event: Any = "login", ago: int = 20_000) -> None:
    at = int(time.time() * 1000) - ago
    one = PresenceEvent(event=event, user=user, at=at, edge=edge, incarnation=run, session=f"s{user}", device=IDS[user])
    await line.produce({TopicPartition(line.topics.presence, 0): [presence_record(one)]})


async def acknowledged(line: Pipeline, user: int, timeline: str, pos: int) -> None:
    record = receipts_record(Receipts(user, IDS[user], {timeline: pos}), int(time.time() * 1000))
    where = TopicPartition(line.topics.receipts, partition_of(f"u{user}", 4))
    await line.produce({where: [record]})


async def everyone_on_line(line: Pipeline) -> None:
    await line.online(BOB, "a", 1)
    await line.online(ALICE, "b", 2)
    await logged(line, BOB, "a", 1)
    await logged(line, ALICE, "b", 2)


async def everyone_acknowledges(line: Pipeline, pos: int = 1 << 40) -> None:
    await acknowledged(line, BOB, "u2", pos)
    await acknowledged(line, ALICE, "u1", pos)


async def handed_on(line: Pipeline, edges: Sequence[str] = ("a", "b")) -> None:
    for edge in edges:
        await line.deliveries(edge, lambda found: len(found) >= 1)


def told(facts: Facts) -> list[tuple[str, str]]:
    return [(hop.what, hop.process) for hop in hops(facts)]


async def test_all_went_well(line: Pipeline) -> None:
    await everyone_on_line(line)
    one = records(message())
    own = one[1].record._replace(headers=(("e", b"b"),))
    async with line.router(), line.persist():
        await line.write(one[0], TimelineRecord("u1", own))
        await handed_on(line)
        await everyone_acknowledges(line)
        await line.stored()
    before = await _ends(line)
    for asked in (ID, Last("alice", None), Last("id:1", "bob"), At("u2", 1)):
        facts, verdict = await traced(line, asked)
        assert (facts.id, verdict.state, facts.unknown) == (ID, State.DELIVERED, [])
        where = [f"{p.topic}/{p.partition}" for p in map(line.place, ("u2", "u1"))]
        assert set(told(facts)) == {
            ("taken in", "b"), ("in the log", where[0]), ("in the log", where[1]), ("fetched", "router-1"),
            ("handed on", "router-1"), ("written", "a"), ("written", "b"), ("acknowledged", "a"), ("acknowledged", "b"),
            ("stored", "MySQL"),
        }  # fmt: skip
        assert all(h.how == "redis" for way in facts.ways for h in way.handed)
    assert await _ends(line) == before  # nothing written anywhere


async def _ends(line: Pipeline) -> dict[TopicPartition, int]:
    topics = [t for t in await line.admin.topics() if t.startswith(f"{line.topics.namespace}.")]
    places = [TopicPartition(t, n) for t in topics for n in range(await line.admin.partitions(t))]
    return dict(await line.admin.end_offsets(places))


async def test_no_router_runs(line: Pipeline) -> None:
    await everyone_on_line(line)
    async with line.persist():
        await line.send(message())
        await line.stored()
        facts, verdict = await traced(line, ID)
        assert (verdict.state, facts.ways[0].routed) == (State.NOT_ROUTED, False)
        assert any("no router has come so far" in w for w in verdict.words)
        await line.send(message(1, ago=0))
        assert (await traced(line, ID._replace(seq=1)))[1].state is State.UNDER_WAY


async def test_the_recipient_is_off_line(line: Pipeline) -> None:
    await logged(line, BOB, "a", 1)
    await logged(line, BOB, "a", 1, event="logout", ago=15_000)
    async with line.router(), line.persist():
        await line.send(message())
        await line.stored()
        await until(lambda: _routed(line))
        _, verdict = await traced(line, ID)
    assert verdict.state is State.WAITING
    assert verdict.words[0].startswith(f"bob's device {IDS[BOB]} was off line since ")
    assert "a router has passed it and handed it to no edge: nobody was on line" in verdict.words


async def _routed(line: Pipeline) -> bool:
    committed = await line.group_offsets("router")
    return sum(committed.values()) == sum((await line.admin.end_offsets(line.partitions)).values())


async def test_a_location_is_missing(line: Pipeline) -> None:
    """Bob was on line, as the presence topic tells, but Redis had lost it."""
    await logged(line, BOB, "a", 1)
    async with line.router(), line.persist():
        await line.send(message())
        await until(lambda: _routed(line))
        await line.stored()
        _, verdict = await traced(line, ID)
    assert verdict.state is State.NOT_CHOSEN
    assert "its location in Redis was missing" in verdict.words[0]


async def test_redis_is_away(line: Pipeline, away: int) -> None:
    await everyone_on_line(line)
    lonely = replace(line.config, redis=replace(line.config.redis, url=f"redis://127.0.0.1:{away}/0"))
    async with line.router(lonely), line.persist():
        await line.send(message())
        await handed_on(line)
        await line.stored()
        facts, verdict = await traced(line, ID)
    assert verdict.state is State.NOT_ACKNOWLEDGED
    assert {(h.edge, h.how, h.incarnation) for h in facts.ways[0].handed} == {("a", "all", None), ("b", "all", None)}
    assert any("to every edge: Redis was away" in hop.text for hop in hops(facts))


async def test_sent_again(line: Pipeline) -> None:
    await everyone_on_line(line)
    async with line.router(), line.persist():
        await line.send(message(), message(1), message(ago=4_000))
        await handed_on(line)
        await everyone_acknowledges(line)
        await line.stored()
        await until(lambda: _routed(line))
        facts, verdict = await traced(line, ID)
    assert verdict.state is State.DELIVERED
    assert [len(way.copies) for way in facts.ways] == [2, 2]
    assert sum("sent again" in hop.text for hop in hops(facts)) == 1


async def test_a_group(line: Pipeline) -> None:
    await everyone_on_line(line)
    await line.redis.pipeline([("HSET", line.key("group:7:edges"), "a", 1, "b", 2)])
    joined = [
        message_records(notice("group_joined", sender=u, sent_at=5, group=7, extra={"user": u, "group": 7}), ["g7"])[0]
        for u in (ALICE, BOB)
    ]
    late = message_records(notice("group_joined", sender=3, sent_at=9, group=7, extra={"user": 3, "group": 7}), ["g7"])[0]
    said = replace(message(), to=None, group=7)
    async with line.router(), line.persist():
        await line.write(*joined, *message_records(said, ["g7"]), late)
        await handed_on(line)
        await acknowledged(line, BOB, "g7", 1 << 40)
        await line.stored()
        asked = ID._replace(conversation="g7")
        facts, verdict = await traced(line, asked)
        assert (verdict.state, facts.ways[0].readers) == (State.DELIVERED, [ALICE, BOB])
        assert (await traced(line, Last("alice", "group:7")))[0].id == asked
        assert (await traced(line, Last("alice", None)))[0].id == asked


async def test_a_dead_record(line: Pipeline) -> None:
    await line.database.script(
        [
            "CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW "
            "IF NEW.timeline = 'u2' THEN SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = 'too long'; END IF"
        ]
    )
    async with line.persist():
        await line.send(message())
        await line.stored()
        facts, verdict = await traced(line, ID)
    assert (verdict.state, facts.dead[0].number) == (State.DEAD, 0)
    assert "too long" in verdict.words[0]


async def test_half_of_it(line: Pipeline) -> None:
    async with line.persist():
        await line.write(records(message())[0])
        await line.stored()
        _, verdict = await traced(line, ID)
    assert verdict.state is State.HALF


async def test_what_is_not_there(line: Pipeline) -> None:
    async with line.persist():
        await line.send(message())
        await line.stored()
    assert (await traced(line, ID._replace(seq=9)))[1].state is State.NOT_FOUND
    with pytest.raises(SetupError, match="no record at u2@77"):
        await traced(line, At("u2", 77))
    with pytest.raises(SetupError, match="there is no user dave"):
        await traced(line, Last("dave", None))
    with pytest.raises(SetupError, match="bob has sent no message"):
        await traced(line, Last("bob", None))


async def test_from_the_topics_alone(line: Pipeline, away: int) -> None:
    await everyone_on_line(line)
    without = replace(line.config, mysql=replace(line.config.mysql, port=away))
    async with line.router():
        await line.send(message())
        await handed_on(line)
        await everyone_acknowledges(line)
        await until(lambda: _routed(line))
    for asked in (ID, Last("id:1", "id:2"), Last("id:1", None)):
        facts, verdict = await traced(line, asked, without)
        assert (facts.id, verdict.state) == (ID, State.DELIVERED)
        assert "MySQL cannot be read" in facts.unknown[0]
    with pytest.raises(SetupError, match="say id:NUMBER"):
        await traced(line, Last("alice", None), without)


async def test_from_mysql_alone(line: Pipeline, away: int) -> None:
    await everyone_on_line(line)
    async with line.router(), line.persist():
        await line.send(message())
        await handed_on(line)
        await everyone_acknowledges(line)
        await line.stored()
    kafka = replace(line.config.kafka, bootstrap=f"127.0.0.1:{away}")
    facts, verdict = await traced(line, ID, replace(line.config, kafka=kafka))
    assert verdict.state is State.DELIVERED
    assert "Kafka cannot be read" in facts.unknown[0]
    ends = await line.admin.end_offsets(line.partitions)
    await line.admin.delete_records(ends)
    facts, verdict = await traced(line, ID)
    assert (verdict.state, facts.ways[0].copies) == (State.DELIVERED, [])
    nobody = replace(line.config, kafka=kafka, mysql=replace(line.config.mysql, port=away))
    with pytest.raises(PartAway):
        await traced(line, ID, nobody)


async def test_archived(line: Pipeline, tmp_path: Path) -> None:
    """Kafka has let go of it, MySQL has moved it into a slice."""
    config = replace(line.config, archive=replace(line.config.archive, url=str(tmp_path)))
    async with line.router(), line.persist():
        await line.send(message(), message(1))
        await everyone_acknowledges(line)
        await line.stored()
    async with open_archiver(config) as archiver, archiver.holding() as held:
        assert held
        await archiver.run(int(time.time() * 1000), "asked")
    facts, verdict = await traced(line, ID, config)
    assert (verdict.state, [way.archived for way in facts.ways]) == (State.DELIVERED, [w.copies[0].pos for w in facts.ways])
    assert verdict.words[-1].startswith("stored, and archived since in slice ")
    assert [hop.what for hop in hops(facts)].count("archived") == 2
    await line.admin.delete_records(await line.admin.end_offsets(line.partitions))
    facts, verdict = await traced(line, ID, config)
    assert (verdict.state, facts.ways[0].copies) == (State.DELIVERED, [])
    facts, verdict = await traced(line, ID)  # not told where the archive is
    assert verdict.state is State.UNKNOWN


async def test_among_many(line: Pipeline) -> None:
    """Within its time, and telling how far it came, where there is more than can be read."""
    count = 30_000
    now = int(time.time() * 1000) - 100_000
    one = records(text(0))[0].record
    value = one.value.replace(b'"stream":5', b'"stream":6')
    many = [Record(b"u2", value.replace(b'"seq":0', b'"seq":%d' % n), now + n, ()) for n in range(count)]
    where = line.place("u2")
    for begin in range(0, count, 2_000):
        await line.produce({where: many[begin : begin + 2_000]})
        if begin == 14_000:
            await line.write(*(TimelineRecord(t, r._replace(timestamp=now + begin)) for t, r in records(message())))
    facts, _ = await traced(line, ID, seconds=1.5)
    assert facts.ways[0].copies
    assert offset_of(facts.ways[0].copies[0].pos) >= 14_000
    facts, _ = await traced(line, ID, seconds=0.1)
    assert facts.unknown


# ------------------------------------------------------------------ a whole cluster


async def trace(cluster: Cluster, *words: str) -> tuple[int, str, float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "chat", "trace", "--config", str(cluster.state.settings), *words]
    environment = {k: v for k, v in os.environ.items() if k != "CHAT_CONFIG"}
    done = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env=environment | {"NO_COLOR": "1"}
    )
    print(done.stdout.decode(), done.stderr.decode())
    return done.returncode, done.stdout.decode() or done.stderr.decode(), time.monotonic() - began


async def test_a_message_of_a_cluster(cluster: Cluster) -> None:
    here, there = (cluster.address(name) for name in cluster.names("edge")[:2])
    name, hers = unique("bob"), unique("alice")
    alice, bob, phone = Device(here, hers), Device(there, name), Device(cluster.front, name)
    async with running(alice):
        async with running(bob), running(phone):
            user = await alice.client.find_user(name)
            alice.client.send_text(f"u{user}", "hello 中文 👍")
            for device in (alice, bob, phone):
                await device.until(lambda d=device: d.texts == ["hello 中文 👍"])
            with trio.fail_after(20):
                while (ended := await trace(cluster, "--from", hers, "--to", name, "--last"))[0]:
                    assert "acknowledged" in ended[1]
            assert min([ended[2], *[(await trace(cluster, "--from", hers, "--last"))[2] for _ in range(2)]]) < LIMIT_S
            code, said, _ = await trace(cluster, "--from", hers, "--last", "--json")
            found = json.loads(said)
            assert (code, found["verdict"], found["arrived"]) == (0, "delivered", True)
            assert [d["acknowledged"] for d in found["ways"][0]["devices"]] == [True, True]
            assert {hop["process"] for hop in found["hops"] if hop["what"] == "taken in"} == {cluster.names("edge")[0]}
            code, again, _ = await trace(cluster, found["id"])
            assert (code, "  stored\n" in again) == (0, True)
        alice.client.send_text(f"u{user}", "are you there?")
        await alice.until(lambda: "accepted" in alice.marks("are you there?"))
        with trio.fail_after(20):
            while not (ended := await trace(cluster, "--from", hers, "--last"))[1].count("nobody was on line"):
                assert ended[0] == 1
        assert "waiting" in ended[1]


async def test_usage(cluster: Cluster) -> None:
    assert (await trace(cluster, "hello"))[0] == 2
    assert (await trace(cluster, "--from", "alice"))[0] == 2
    code, said, _ = await trace(cluster, "--from", f"nobody-{secrets.token_hex(4)}", "--last")
    assert (code, "there is no user" in said) == (1, True)
    nowhere = ("--kafka-bootstrap", "127.0.0.1:1", "--mysql-port", "1", "--log-level", "error")
    assert (await trace(cluster, "1/u2/3/4", *nowhere))[0] == 3
