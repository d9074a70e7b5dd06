from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_log_admin, open_log_reader
from chat.config import KafkaConfig
from chat.errors import BadData, PartAway
from chat.ports import LogReader, NoSuchTopic, OutOfRange
from chat.records import Consumed, Record, TopicPartition
from tests.contract.conftest import AnyKafka
from tests.contract.test_group import LIMIT, fill, poll_for_ever, regain


async def take(reader: LogReader, count: int) -> dict[TopicPartition, list[Consumed]]:
    found: dict[TopicPartition, list[Consumed]] = {}
    with trio.fail_after(LIMIT):
        while sum(map(len, found.values())) < count:
            for partition, records in (await reader.poll(0.5, 100)).items():
                found.setdefault(partition, []).extend(records)
    return found


async def test_reads_from_where_it_is_told(kafka: AnyKafka) -> None:
    topic = await kafka.topic(3)
    first, second, third = (TopicPartition(topic, n) for n in range(3))
    await fill(kafka, [first, second, third], 4)
    async with kafka.reader() as reader:
        assert await reader.poll(0.01, 10) == {}
        await reader.assign({first: 3, second: 2})
        found = await take(reader, 3)
        assert {p: [r.offset for r in rs] for p, rs in found.items()} == {first: [3], second: [2, 3]}
        await reader.assign({third: 4})  # the end
        assert await reader.poll(0.1, 10) == {}
        await fill(kafka, [first, third], 1)
        assert [r.offset for r in (await take(reader, 1))[third]] == [4]
        await reader.assign({})
        assert await reader.poll(0.01, 10) == {}


async def test_a_waiting_reader_hears_at_once(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    place = TopicPartition(topic, 0)
    async with kafka.reader() as reader, kafka.producer() as producer, trio.open_nursery() as nursery:
        await reader.assign({place: 0})
        await producer.produce({place: [Record(None, b"first", 1)]})
        await take(reader, 1)

        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked(0.05)
            await producer.produce({place: [Record(None, b"second", 1)]})

        nursery.start_soon(later)
        with trio.fail_after(5):
            found = await reader.poll(60.0, 10)
        assert [r.value for r in found[place]] == [b"second"]


async def test_outside_the_log(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    low, high = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await fill(kafka, [low, high], 4)
    async with kafka.reader() as reader, kafka.admin() as admin:
        await admin.delete_records({low: 2})
        assert await admin.start_offsets([low, high]) == {low: 2, high: 0}
        for place, offset in ((low, 1), (high, 9)):
            await reader.assign({place: offset})
            with pytest.raises(OutOfRange) as caught:
                await poll_for_ever(reader)
            assert caught.value.partitions == {place: offset}
        await reader.assign({low: 2})
        assert [r.offset for r in (await take(reader, 2))[low]] == [2, 3]


async def test_offsets(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with kafka.admin() as admin:
        assert await admin.end_offsets([first, second]) == {first: 0, second: 0}
        await fill(kafka, [first], 3)  # with the times 1000, 1001, 1002
        assert await admin.end_offsets([first, second]) == {first: 3, second: 0}
        assert await admin.start_offsets([first]) == {first: 0}
        assert await admin.offsets_at({first: 1_001}) == {first: 1}
        assert await admin.offsets_at({first: 1_003, second: 0}) == {first: None, second: None}
        assert await admin.end_offsets([]) == {}
        with pytest.raises(NoSuchTopic):
            await admin.end_offsets([TopicPartition(f"{kafka.ns}.missing", 0)])


async def test_topics_come_and_go(kafka: AnyKafka) -> None:
    name = f"{kafka.ns}.coming"
    async with kafka.admin() as admin:
        assert await admin.partitions(name) == 0
        assert await admin.create_topic(name, 3, 1, {"retention.ms": "60000"})
        assert not await admin.create_topic(name, 3, 1, {})
        assert await admin.partitions(name) == 3
        assert name in await admin.topics()
        before = await admin.topic_ids([name, f"{kafka.ns}.missing"])
        assert set(before) == {name}
        await fill(kafka, [TopicPartition(name, 2)], 3)
        await admin.delete_topics([name, f"{kafka.ns}.missing"])
        with trio.fail_after(LIMIT):
            while name in await admin.topics():
                await trio.lowlevel.checkpoint()
        assert await admin.partitions(name) == 0
        assert await admin.topic_ids([name]) == {}
        assert await admin.create_topic(name, 3, 1, {})
        after = await admin.topic_ids([name])
        assert after[name] != before[name]
        assert await admin.end_offsets([TopicPartition(name, 2)]) == {TopicPartition(name, 2): 0}


async def test_a_topic_that_another_has_made_anew_is_seen_as_it_is_now(kafka: AnyKafka) -> None:
    name = await kafka.topic(2)
    async with kafka.admin() as admin, kafka.admin() as other:
        assert await admin.partitions(name) == 2
        await other.delete_topics([name])
        with trio.fail_after(LIMIT):
            while name in await other.topics():
                await trio.lowlevel.checkpoint()
        assert await other.create_topic(name, 5, 1, {})
        with trio.fail_after(LIMIT):
            while await admin.partitions(name) != 5:
                await trio.lowlevel.checkpoint()
        place = TopicPartition(name, 4)
        assert await admin.end_offsets([place]) == {place: 0}


@pytest.mark.servers
@pytest.mark.parametrize("kafka", ["real"], indirect=True)
async def test_settings_that_are_refused(kafka: AnyKafka) -> None:
    async with kafka.admin() as admin:
        with pytest.raises(BadData):
            await admin.create_topic(f"{kafka.ns}.bad", 1, 1, {"no.such.setting": "1"})
        with pytest.raises(BadData):
            await admin.create_topic(f"{kafka.ns}.bad", 1, 99, {})
        with pytest.raises(BadData):
            await admin.create_topic("not a name!", 1, 1, {})


@pytest.mark.servers
async def test_nobody_listens(kafka_config: KafkaConfig, bridge: None, closed_port: int) -> None:
    config = replace(kafka_config, bootstrap=f"127.0.0.1:{closed_port}")
    with trio.fail_after(5):
        async with open_log_admin(config) as admin, open_log_reader(config) as reader:
            with pytest.raises(PartAway):
                await admin.topics()
            await reader.assign({TopicPartition("any", 0): 0})
            with pytest.raises(PartAway):
                await reader.poll(1.0, 1)


@pytest.mark.servers
@pytest.mark.parametrize("kafka", ["real"], indirect=True)
async def test_many_ask_at_once(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    place = TopicPartition(topic, 0)
    async with kafka.admin() as admin, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(admin.end_offsets, [place])


async def test_what_a_group_has_committed(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    missing = TopicPartition(f"{kafka.ns}.missing", 0)
    await fill(kafka, [first], 3)
    async with kafka.member([topic]) as member, kafka.admin() as admin:
        assert await admin.group_offsets(kafka.ns, [first, second]) == {first: None, second: None}
        await regain(member)
        await member.seek({first: 0, second: 0})
        await member.commit({first: 2})
        assert await admin.group_offsets(kafka.ns, [first, second, missing]) == {first: 2, second: None, missing: None}
        assert await admin.group_offsets(kafka.ns, []) == {}
