"""`chat replay` against real servers: the same range gives the same bytes, the live cluster is left as it was, the sandbox
shows what was planted."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from aiokafka.admin import AIOKafkaAdminClient
from msgspec.structs import replace

from chat.bridge import open_database
from chat.bridge.loop import call
from chat.config import Config, PersistConfig
from chat.errors import SetupError
from chat.ports import Statement
from chat.protocol import Message
from chat.records import (
    PresenceEvent,
    Receipts,
    Record,
    TopicPartition,
    message_records,
    notice,
    presence_record,
    receipts_record,
)
from chat.tools.logsource import Limits, open_log_source
from chat.tools.replay.asked import Asked, Options, asked_of, wanted_of
from chat.tools.replay.explain.gather import Gatherer
from chat.tools.replay.explain.run import as_delivered, in_log_order
from chat.tools.replay.lines import Lines
from chat.tools.replay.output import Output
from chat.tools.replay.printing import print_all
from chat.tools.replay.sandbox.run import Report, for_people, into_sandbox
from tests.integration.pipeline import PATIENCE_S, Pipeline, open_pipeline, text

pytestmark = pytest.mark.servers

DEVICE = "device-two"


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    config = replace(config, persist=replace(config.persist, linger_ms=1.0, retain_days=0.0))
    async with open_pipeline(config) as line:
        yield line


async def _groups(line: Pipeline) -> set[str]:
    """Consumer groups, as Kafka knows them."""

    async def ask() -> set[str]:
        client = AIOKafkaAdminClient(bootstrap_servers=line.config.kafka.bootstrap)
        await client.start()
        try:
            return {name for name, *_ in await client.list_consumer_groups()}
        finally:
            await client.close()

    return await call(PATIENCE_S, ask)


async def _ends(line: Pipeline) -> dict[TopicPartition, int]:
    names = sorted(t for t in await line.admin.topics() if t.startswith(f"{line.config.kafka.namespace}."))
    where = [TopicPartition(t, n) for t in names for n in range(await line.admin.partitions(t))]
    return dict(await line.admin.end_offsets(where))


@contextlib.asynccontextmanager
async def _untouched(line: Pipeline) -> AsyncIterator[None]:
    """Whatever is done inside: no group comes, no topic grows."""
    mine = line.config.kafka.namespace
    groups, ends = await _groups(line), await _ends(line)
    yield
    assert await _ends(line) == ends
    assert {g for g in await _groups(line) if g not in groups and g.startswith(mine)} == set()


async def _replayed(config: Config, options: Options, *, as_json: bool, speed: float | None = None) -> bytes:
    stream = io.BytesIO()
    async with open_log_source(config.kafka) as source:
        asked = await asked_of(options, source, None)
        reading = source.read(await source.spans(asked.topics, asked.limits), wanted_of(asked, options.topic))
        await print_all(reading, Lines(source.topics, as_json=as_json), Output(stream), speed=speed, quiet=True)
    return stream.getvalue()


async def _fill(line: Pipeline) -> None:
    for seq in range(20):
        await line.send(text(seq), text(seq, sender=2, to=1, stream=9), text(seq, sender=3, to=2, stream=4))
    await line.send(text(3))  # a resend
    for user in (1, 2):
        extra = {"user": user, "group": 7}
        joined = notice("group_joined", sender=1, group=7, sent_at=text(0).sent_at, extra=extra)
        told = notice("group_joined", sender=1, to=user, sent_at=text(0).sent_at, extra=extra)
        await line.write(*message_records(joined, ["g7"]), *message_records(told, [f"u{user}"]))
    for seq in range(5):
        said = text(seq, stream=6)
        await line.write(*message_records(Message(
            sender=1, group=7, stream=6, seq=seq, sent_at=said.sent_at, kind="text", text="to all"
        ), ["g7"]))  # fmt: skip
    read = notice("read", sender=2, to=1, sent_at=text(0).sent_at, extra={"sent_at": 4})
    await line.write(*message_records(read, ["u2", "u1"]))
    receipts = receipts_record(Receipts(2, DEVICE, {"u2": 1}), text(0).sent_at)
    await line.produce({TopicPartition(line.topics.receipts, 0): [receipts]})


async def test_the_same_range_gives_the_same_bytes_and_nothing_is_touched(line: Pipeline) -> None:
    await _fill(line)
    async with _untouched(line):
        for options in (Options(), Options(user="id:2"), Options(topic="receipts"), Options(partitions=(1, 2), first=2)):
            for as_json in (True, False):
                first = await _replayed(line.config, options, as_json=as_json)
                assert first == await _replayed(line.config, options, as_json=as_json)
                assert first
        whole = (await _replayed(line.config, Options(), as_json=True)).splitlines()
        of_two = (await _replayed(line.config, Options(user="id:2"), as_json=True)).splitlines()
        assert [one for one in whole if one in set(of_two)] == of_two  # in the same order
        assert {json.loads(one)["key"] for one in whole} == {"u1", "u2", "u3", "g7"}
        (resent, again) = (await _replayed(line.config, Options(message="1/u2/5/3", user="id:2"), as_json=True)).splitlines()
        assert json.loads(resent)["id"] == json.loads(again)["id"] == "1/u2/5/3"
        times = [json.loads(one)["time"] for one in whole]
        middle = sorted(times)[len(times) // 2]
        early = await _replayed(line.config, Options(until=str(middle)), as_json=True)
        late = await _replayed(line.config, Options(since=str(middle)), as_json=True)
        assert sorted([*early.splitlines(), *late.splitlines()]) == sorted(whole)
        slowly = await _replayed(line.config, Options(), as_json=True, speed=1e6)
        assert slowly.splitlines() == whole
    with pytest.raises(SetupError, match="no topic"):
        await _replayed(line.config, Options(generation=3), as_json=True)


async def _sandboxed(config: Config, **limits: Any) -> Report:
    async with open_log_source(config.kafka) as source, open_database(config.mysql) as database:
        asked = await asked_of(Options(**limits), source, database)
        return await into_sandbox(config, source, asked, url=None, keep=False, quiet=True)


def _found(report: Report) -> set[tuple[str, str, str]]:
    return {(d.what, d.table, d.where) for d in report.differences}


async def test_a_sandbox_is_the_same_until_a_difference_is_planted(line: Pipeline) -> None:
    async with line.persist():
        await _fill(line)
        await line.produce({line.place("u2"): [Record(b"u2", b"{", text(0).sent_at)]})  # a dead one
        await line.stored()
    await line.send(text(20))  # not stored yet
    before = set(await line.rows("SHOW DATABASES"))
    async with _untouched(line):
        report = await _sandboxed(line.config)
    assert report.same, for_people(report)
    assert (report.waiting, len(report.dead), report.duplicates) == (2, 1, 2)
    assert report.compared.rows == len(await line.rows("SELECT 1 FROM messages"))
    assert report.compared[1:] == (7, 1, 1)

    (pos,) = next(iter(await line.rows("SELECT position FROM messages WHERE timeline = 'u2' AND stream = 5 AND seq = 7")))
    (other,) = next(iter(await line.rows("SELECT position FROM messages WHERE timeline = 'u1' AND stream = 9 AND seq = 2")))
    stored = {p for (p,) in await line.rows("SELECT position FROM messages WHERE timeline = 'u1'")}
    hole = min(set(range(1, max(stored))) - stored)  # there is one at least: the resend's
    await line.database.write(
        [
            Statement("DELETE FROM messages WHERE timeline = 'u2' AND position = %s", (pos,), 1),
            Statement("UPDATE messages SET sent_at = 5 WHERE timeline = 'u1' AND position = %s", (other,), 1),
            Statement(
                "INSERT INTO messages (timeline, position, conversation, sent_at, sender, kind, body)"
                " VALUES ('u1', %s, 'u2', 1, 1, 'text', 'x')",
                (hole,),
                1,
            ),
            Statement("UPDATE streams SET next_seq = 3 WHERE timeline = 'g7'", (), 1),
            Statement("DELETE FROM cursors", (), 1),
            Statement("UPDATE read_marks SET sent_at = 1", (), 1),
        ]
    )
    planted = {
        ("missing", "messages", f"u2@{pos}"),
        ("different", "messages", f"u1@{other}"),
        ("extra", "messages", f"u1@{hole}"),
        ("different", "streams", "g7 1/g7/6"),
        ("missing", "cursors", f"2 {DEVICE} u2"),
        ("different", "read_marks", "2 u1"),
    }
    report = await _sandboxed(line.config)
    assert _found(report) == planted
    # a range from the middle: what came before is known from the rows below it
    offset = pos - 3
    number = line.place("u2").partition
    report = await _sandboxed(line.config, partitions=(number,), first=offset, user="id:2")
    assert _found(report) == {("missing", "messages", f"u2@{pos}"), ("different", "read_marks", "2 u1")}
    assert f"missing   messages u2@{pos}: from 1 in u1: 5/7" in for_people(report)
    report = await _sandboxed(line.config, user="id:3")
    assert report.same
    assert set(await line.rows("SHOW DATABASES")) == before


async def test_a_sandbox_that_may_not_be_created_says_what_is_needed(line: Pipeline) -> None:
    async with line.persist(replace(line.config, persist=PersistConfig(retain_days=0.0))):
        await line.send(text(0))
        await line.stored()
    async with open_log_source(line.config.kafka) as source:
        asked = Asked(await source.message_topics(), Limits(), (await asked_of(Options(), source, None)).which)
        here = line.config.mysql
        url = f"{here.user}:{here.password}@{here.host}:{here.port}/{here.database}"
        with pytest.raises(SetupError, match="is the live database"):
            await into_sandbox(line.config, source, asked, url=url, keep=False, quiet=True)
        other = url.replace(here.host, "localhost" if here.host == "127.0.0.1" else here.host)
        with pytest.raises(SetupError, match="exists"):
            await into_sandbox(line.config, source, asked, url=other, keep=False, quiet=True)
        nobody = "mysql://nobody:wrong@" + url.rpartition("@")[2].replace(here.database, "x_replay")
        with pytest.raises(SetupError, match="may not create"):
            await into_sandbox(line.config, source, asked, url=nobody, keep=False, quiet=True)


async def test_what_a_device_did(line: Pipeline) -> None:
    async with line.persist():
        await _fill(line)
        await line.stored()
    async with open_log_source(line.config.kafka) as source, _untouched(line):
        gatherer = Gatherer(source, line.database, 2, DEVICE)
        case = await gatherer.case(await source.message_topics(), Limits(), from_nothing=False)
        assert case.tracks.keys() == {"u2", "g7"}
        said = [one for step in in_log_order(case, 2, from_nothing=False) for one in step]
        shown = [(s.timeline, s.pos) for s in said if s.did == "shown"]
        assert len(shown) == len(set(shown))
        rows = await line.rows("SELECT timeline, position FROM messages WHERE timeline IN ('u2', 'g7')")
        kept = {(t, p) for t, p in rows if t == "u2" or case.tracks["g7"].sees(p)}
        assert set(shown) >= kept  # and the read mark, which is no row
        (duplicate,) = [s for s in said if s.did == "duplicate"]
        assert duplicate.id == "1/u2/5/3"


async def test_what_really_arrived(line: Pipeline) -> None:
    """Through the real router, to an edge's topic; then one delivery is left out by hand."""
    await line.edge("e1", 77)
    await line.online(2, "e1", 77)
    login = presence_record(
        PresenceEvent(event="login", user=2, at=text(0).sent_at, edge="e1", incarnation=77, session="s", device=DEVICE)
    )
    await line.produce({TopicPartition(line.topics.presence, 0): [login]})
    async with line.persist(), line.router():
        for seq in range(4):
            await line.send(text(seq))
            await line.deliveries("e1", lambda found, n=seq: len({d.pos for d in found if d.timeline == "u2"}) > n)  # type: ignore[misc]
        await line.stored()
    async with open_log_source(line.config.kafka) as source:
        gatherer = Gatherer(source, line.database, 2, DEVICE)
        case = await gatherer.case(await source.message_topics(), Limits(), from_nothing=False)
        sessions = await gatherer.sessions(None)
        came = await gatherer.deliveries(case.tracks, Limits())
        assert [s.edge for s in sessions] == ["e1"]
        lost = came[2].message.pos
        came = [c for c in came if c.message.pos != lost]
        said = [one for step in as_delivered(case, 2, sessions, came, from_nothing=False) for one in step]
    shown = {s.pos: s.by for s in said if s.did == "shown"}
    assert len(shown) == 4
    assert shown[lost] == "sync"  # type: ignore[index]
    assert not [s for s in said if s.did == "missed"]


async def test_cancelled_the_sandbox_is_gone(line: Pipeline) -> None:
    async with line.persist():
        await line.send(*(text(seq) for seq in range(50)))
        await line.stored()
    before = set(await line.rows("SHOW DATABASES"))
    async with open_log_source(line.config.kafka) as source, open_database(line.config.mysql) as database:
        asked = await asked_of(Options(), source, database)
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await into_sandbox(line.config, source, asked, url=None, keep=False, quiet=True)

            nursery.start_soon(run)
            with trio.fail_after(PATIENCE_S):
                while set(await line.rows("SHOW DATABASES")) == before:  # noqa: ASYNC110 - it is about the server
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert set(await line.rows("SHOW DATABASES")) == before
