"""The router against real servers: every record reaches the edges of its recipients, with a true prev or none."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
from msgspec.structs import replace

from chat.config import Config, RedisConfig
from chat.positions import position
from chat.protocol import Message, decode_event
from chat.records import Delivery, TopicPartition, message_records, unpack_deliveries
from tests.integration.pipeline import Pipeline, distinct, end, open_pipeline, records, text, until

pytestmark = pytest.mark.servers


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    async with open_pipeline(config) as line:
        yield line


def read(delivery: Delivery) -> Message:
    message = decode_event(delivery.payload)
    assert isinstance(message, Message)
    assert message.pos == delivery.pos
    return message


def chain(found: Sequence[Delivery], timeline: str) -> list[tuple[object, object]]:
    """(seq, prev) by position."""
    return [(m.seq, m.prev) for m in map(read, distinct(found, timeline))]


def count(timeline: str, number: int) -> object:
    return lambda found: len(distinct(found, timeline)) >= number


async def committed(line: Pipeline) -> bool:
    """The routers have committed all there is."""
    return await line.group_offsets("router") == await line.admin.end_offsets(list(line.partitions))


async def test_recipients_and_the_senders_own_devices_get_it_where_they_are(line: Pipeline) -> None:
    await line.edge("a", 11)
    await line.edge("b", 22)
    await line.online(2, "a", 11)
    await line.online(2, "b", 22)
    await line.online(1, "b", 22)
    await line.online(3, "a", 10)  # of an incarnation that is dead
    async with line.router():
        await line.send(text(0), text(0, to=3), text(1))
        at_a = await line.deliveries("a", lambda found: len(found) >= 2)
        at_b = await line.deliveries("b", lambda found: len(found) >= 5)
    assert [(d.timeline, read(d).seq) for d in at_a] == [("u2", 0), ("u2", 1)]
    assert chain(at_a, "u2") == [(0, 0), (1, at_a[0].pos)]
    assert sorted(d.timeline for d in at_b) == ["u1", "u1", "u1", "u2", "u2"]
    assert len(await line.deliveries("a", lambda found: len(found) >= 2)) == 2


async def test_a_group_is_delivered_once_to_each_edge_with_members(line: Pipeline) -> None:
    for name, incarnation in (("a", 1), ("b", 2), ("c", 3)):
        await line.edge(name, incarnation)
    fields = ("a", 1, "b", 2, "c", 4)
    await line.redis.pipeline([("HSET", line.key("group:7:edges"), *fields)])
    async with line.router():
        said = Message(sender=1, group=7, stream=5, seq=0, sent_at=9, kind="text", text="x")
        await line.write(*message_records(said, ["g7"]))
        for edge in ("a", "b"):
            (only,) = await line.deliveries(edge, lambda found: len(found) >= 1)
            assert (only.timeline, read(only).text) == ("g7", "x")
        await until(lambda: committed(line))
    where = TopicPartition(line.topics.edge("c"), 0)
    assert await line.admin.end_offsets([where]) == {where: 0}


async def test_what_was_written_before_the_first_router_is_delivered(line: Pipeline) -> None:
    await line.edge("a", 1)
    await line.online(2, "a", 1)
    await line.send(*(text(n) for n in range(3)))
    async with line.router():
        found = await line.deliveries("a", lambda found: len(found) >= 3)
    assert chain(found, "u2") == [(0, 0), (1, 1), (2, 2)]


async def test_after_a_restart_nothing_is_repeated_and_prev_is_known_again(line: Pipeline) -> None:
    await line.edge("a", 1)
    await line.online(2, "a", 1)
    warm = replace(line.config, router=replace(line.config.router, warm_records=2))
    async with line.router(warm):
        await line.send(*(text(n) for n in range(4)))
        await line.deliveries("a", lambda found: len(found) >= 4)
    async with line.router(warm):
        await line.send(text(4), text(0, sender=9))
        found = await line.deliveries("a", lambda found: len(found) >= 6)
    assert len(found) == 6
    assert [prev for _, prev in chain(found, "u2")][4:] == [4, 5]
    cold = replace(line.config, router=replace(line.config.router, warm_records=0))
    async with line.router(cold):
        await line.send(text(5))
        found = await line.deliveries("a", lambda found: len(found) >= 7)
    assert read(found[6]).prev is None


async def test_an_edge_whose_topic_is_gone_is_dead(line: Pipeline) -> None:
    await line.edge("a", 1)
    await line.redis.pipeline([("SET", line.key("edge:b"), b'{"incarnation":2}')])
    await line.online(2, "a", 1)
    await line.online(2, "b", 2)
    async with line.router():
        await line.send(text(0))
        assert len(await line.deliveries("a", lambda found: len(found) >= 1)) == 1
        await until(lambda: committed(line))


async def test_without_redis_every_edge_gets_everything(line: Pipeline, closed_redis: RedisConfig) -> None:
    await line.edge("a", 1)
    await line.edge("b", 2)
    await line.online(2, "a", 1)
    async with line.router(replace(line.config, redis=closed_redis)):
        await line.send(*(text(n) for n in range(10)))
        for edge in ("a", "b"):
            found = await line.deliveries(edge, lambda found: len(found) >= 20)
            assert [seq for seq, _ in chain(found, "u1")] == [seq for seq, _ in chain(found, "u2")] == list(range(10))
    where = TopicPartition(line.topics.edge("b"), 0)
    batches = [unpack_deliveries(r.value) for r in await line.read(where, 1)]
    assert {b.incarnation for b in batches} == {None}


@pytest.fixture
async def closed_redis(redis_config: RedisConfig) -> AsyncIterator[RedisConfig]:
    """A port that nobody listens on."""
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        yield replace(redis_config, url=f"redis://127.0.0.1:{held.getsockname()[1]}/0")


async def test_killed_again_and_again_nothing_is_missing_and_no_prev_is_false(line: Pipeline) -> None:
    total, done = 3_000, trio.Event()
    await line.edge("a", 1)
    await line.online(1, "a", 1)
    await line.online(2, "a", 1)

    async def write() -> None:
        for at in range(0, total, 50):
            await line.send(*(text(n) for n in range(at, at + 50)))
        done.set()

    where = TopicPartition(line.topics.edge("a"), 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for _ in range(3):
            process = line.process(
                "router", CHAT_ROUTER_MAX_RECORDS="100", CHAT_ROUTER_COMMIT_MS="100", CHAT_KAFKA_SESSION_TIMEOUT_MS="1000"
            )
            before = (await line.admin.end_offsets([where]))[where]

            async def moved(before: int = before) -> bool:
                return (await line.admin.end_offsets([where]))[where] > before + 3

            await until(moved, 60)
            assert await end(process, signal.SIGKILL) == -signal.SIGKILL
    process = line.process("router", CHAT_KAFKA_SESSION_TIMEOUT_MS="1000")
    await until(lambda: committed(line), 60)
    assert await end(process) == 0
    found = [d for r in await line.read(where, (await line.admin.end_offsets([where]))[where]) for d in _unpacked(r.value)]
    places = {t: [d.pos for d in distinct(found, t)] for t in ("u1", "u2")}
    for timeline, positions in places.items():
        assert [seq for seq, _ in chain(found, timeline)] == list(range(total))
        before = dict(zip(positions, [0, *positions], strict=False))
        for delivery in (d for d in found if d.timeline == timeline):
            assert read(delivery).prev in (None, before[delivery.pos])
    assert places["u2"][0] == position(0, 0)


def _unpacked(value: bytes) -> Sequence[Delivery]:
    return unpack_deliveries(value).deliveries


async def test_two_routers_share_the_partitions_and_take_over(line: Pipeline) -> None:
    await line.edge("a", 1)
    for user in range(1, 9):
        await line.online(user, "a", 1)
    many = [text(n, sender=1, to=to) for n in range(20) for to in range(2, 9)]
    async with line.router():
        await line.write(*(r for m in many[:70] for r in records(m)))
        async with line.router():
            await line.write(*(r for m in many[70:] for r in records(m)))

            def all_of_it(found: list[Delivery]) -> bool:
                return sum(len(distinct(found, f"u{user}")) for user in range(1, 9)) == 2 * len(many)

            found = await line.deliveries("a", all_of_it)
        await until(lambda: committed(line))
    for to in range(2, 9):
        assert [seq for seq, _ in chain(found, f"u{to}")] == list(range(20))


async def test_the_deleted_topic_of_a_live_edge_holds_up_nobody(line: Pipeline) -> None:
    await line.edge("a", 11)
    await line.edge("b", 22)
    await line.online(2, "a", 11)
    await line.online(3, "b", 22)
    async with line.router():
        await line.send(text(0, to=2), text(0, to=3))
        await line.deliveries("a", count("u2", 1))
        await line.deliveries("b", count("u3", 1))
        await line.admin.delete_topics([line.topics.edge("b")])
        for seq in range(1, 4):
            await line.send(text(seq, to=2), text(seq, to=3))
            await line.deliveries("a", count("u2", seq + 1))

        async def named() -> bool:
            (found,) = await line.redis.pipeline([("SMEMBERS", line.key("missed:b"))])
            return set(found) == {b"u3"}

        await until(named)
        await until(lambda: committed(line))
        where = TopicPartition(line.topics.edge("b"), 0)
        await line.admin.create_topic(where.topic, 1, 1, {})  # as the edge does

        async def taken_back() -> bool:
            return (await line.admin.end_offsets([where]))[where] >= 2  # a probe, and what makes all sync

        await until(taken_back)
        await line.send(text(4, to=3))
        (only,) = await line.deliveries("b", count("u3", 1))
        assert read(only).seq == 4
