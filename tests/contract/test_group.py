from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from aiokafka import errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from msgspec.structs import replace

from chat.bridge import open_group_consumer
from chat.config import KafkaConfig
from chat.errors import PartAway
from chat.ports import GroupConsumer, GroupMoved, LogReader, OutOfRange
from chat.records import Consumed, Record, TopicPartition
from tests.contract.conftest import AnyKafka

LIMIT = 20.0


async def fill(kafka: AnyKafka, partitions: Collection[TopicPartition], count: int) -> None:
    async with kafka.producer() as producer:
        outcome = await producer.produce({p: [Record(None, b"%d" % i, 1_000 + i) for i in range(count)] for p in partitions})
        assert all(isinstance(o, int) for o in outcome.values()), outcome


async def regain(member: GroupConsumer) -> frozenset[TopicPartition]:
    """Poll until something is (re)assigned; nothing may be read before."""
    with trio.fail_after(LIMIT):
        while True:
            poll = await member.poll(0.5, 100)
            assert not poll.records
            if poll.regained:
                assert poll.regained == poll.assignment
                return poll.regained


async def poll_for_ever(log: GroupConsumer | LogReader) -> None:
    with trio.fail_after(LIMIT):
        while True:
            await log.poll(0.5, 10)


async def settle(places: set[TopicPartition], *members: GroupConsumer) -> list[frozenset[TopicPartition]]:
    """Poll all until each has its share; on a busy machine that may take more than one rebalance."""
    shares: list[frozenset[TopicPartition]] = [frozenset() for _ in members]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:

            async def poll(index: int) -> None:
                while True:
                    shares[index] = (await members[index].poll(0.2, 100)).assignment
                    if all(shares) and sorted(p for share in shares for p in share) == sorted(places):
                        nursery.cancel_scope.cancel()

            for index in range(len(members)):
                nursery.start_soon(poll, index)
    return shares


async def take(member: GroupConsumer, count: int) -> dict[TopicPartition, list[Consumed]]:
    found: dict[TopicPartition, list[Consumed]] = {}
    with trio.fail_after(LIMIT):
        while sum(map(len, found.values())) < count:
            poll = await member.poll(0.5, count - sum(map(len, found.values())))
            assert not poll.regained
            for partition, records in poll.records.items():
                found.setdefault(partition, []).extend(records)
    return found


async def test_nothing_is_read_before_seek(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    places = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    await fill(kafka, places, 5)
    async with kafka.member([topic]) as member:
        assert await regain(member) == places
        assert not (await member.poll(0.3, 100)).records
        assert await member.committed(list(places)) == dict.fromkeys(places)
        await member.seek({TopicPartition(topic, 0): 3})
        found = await take(member, 2)
        assert {p: [r.offset for r in records] for p, records in found.items()} == {TopicPartition(topic, 0): [3, 4]}
        await member.seek(dict.fromkeys(places, 0))
        assert sum(map(len, (await take(member, 10)).values())) == 10
        lag = await member.position_lag()
        assert lag == dict.fromkeys(places, 0)


async def test_no_more_records_than_asked_for_and_none_is_lost(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    place = TopicPartition(topic, 0)
    await fill(kafka, [place], 10)
    async with kafka.member([topic]) as member:
        await member.seek(dict.fromkeys(await regain(member), 0))
        offsets: list[int] = []
        with trio.fail_after(LIMIT):
            while len(offsets) < 10:
                records = (await member.poll(0.5, 3)).records.get(place, ())
                assert len(records) <= 3
                offsets += [r.offset for r in records]
        assert offsets == list(range(10))


async def test_commits_are_kept(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    place = TopicPartition(topic, 0)
    async with kafka.member([topic]) as member:
        await member.seek(dict.fromkeys(await regain(member), 0))
        await member.commit({place: 7})
        assert await member.committed([place]) == {place: 7}
    async with kafka.member([topic]) as member:
        assert await member.committed([place]) == {place: 7}


async def test_a_second_member_takes_its_share(kafka: AnyKafka) -> None:
    topic = await kafka.topic(4)
    places = {TopicPartition(topic, n) for n in range(4)}
    await fill(kafka, places, 2)
    async with kafka.member([topic]) as first:
        assert await regain(first) == places
        await first.seek(dict.fromkeys(places, 0))
        await take(first, 8)
        async with kafka.member([topic]) as second:
            shares = await settle(places, first, second)
            # what was read before the rebalance cannot be committed after it, kept partitions included
            kept, lost = min(shares[0]), min(shares[1])
            for place in (kept, lost):
                with pytest.raises(GroupMoved):
                    await first.commit({place: 2})
            await first.seek({kept: 1, lost: 1})  # the lost one is passed over
            found = await take(first, 1)
            assert [r.offset for r in found[kept]] == [1]
            await first.commit({kept: 2})
        assert await regain(first) == places


async def test_a_paused_partition_keeps_its_place(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    quiet, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with kafka.member([topic]) as member:
        await member.seek(dict.fromkeys(await regain(member), 0))
        await member.pause([quiet])
        await fill(kafka, [quiet, other], 3)
        assert set(await take(member, 3)) == {other}
        assert not (await member.poll(0.3, 10)).records
        await member.resume([quiet])
        assert [r.offset for r in (await take(member, 3))[quiet]] == [0, 1, 2]


async def test_positions_that_were_trimmed(kafka: AnyKafka) -> None:
    topic = await kafka.topic(2)
    trimmed, whole = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await fill(kafka, [trimmed, whole], 5)
    async with kafka.admin() as admin:
        await admin.delete_records({trimmed: 3})
    async with kafka.member([topic]) as member:
        await regain(member)
        await member.seek({trimmed: 1})
        with pytest.raises(OutOfRange) as caught:
            await poll_for_ever(member)
        assert caught.value.partitions == {trimmed: 1}
        await member.seek({trimmed: 3, whole: 0})
        found = await take(member, 7)
        assert [r.offset for r in found[trimmed]] == [3, 4]


async def test_a_cancelled_poll_loses_nothing(kafka: AnyKafka) -> None:
    topic = await kafka.topic()
    place = TopicPartition(topic, 0)
    async with kafka.member([topic]) as member:
        await member.seek(dict.fromkeys(await regain(member), 0))
        seen: list[int] = []
        for round_ in range(10):
            with trio.move_on_after(0.002 * round_):
                while True:
                    seen += [r.offset for r in (await member.poll(1.0, 2)).records.get(place, ())]
            await fill(kafka, [place], 2)
        seen += [r.offset for r in (await take(member, 20 - len(seen))).get(place, ())]
        assert seen == list(range(20))


async def test_a_position_from_before_a_rebalance_does_not_stand(kafka: AnyKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = await kafka.topic(2)
    places = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    await fill(kafka, places, 3)
    async with kafka.member([topic]) as member:
        assert await regain(member) == places
        async with kafka.member([topic]) as other, trio.open_nursery() as nursery:
            nursery.start_soon(regain, other)
            await regain(member)
        # the other has left: member gets all back, at some time, without having polled
        async with kafka.member([topic]):
            with trio.fail_after(LIMIT):
                while True:
                    await member.seek(dict.fromkeys(places, 0))
                    poll = await member.poll(0.0, 10)
                    if poll.regained:
                        break
            assert not set(poll.records) & poll.regained
            assert not (await member.poll(0.3, 10)).records.keys() & poll.regained


@pytest.mark.servers
async def test_nobody_listens(kafka_config: KafkaConfig, bridge: None, closed_port: int) -> None:
    config = replace(kafka_config, bootstrap=f"127.0.0.1:{closed_port}")
    with trio.fail_after(5):
        async with open_group_consumer(config, "any", ["any"]) as member:
            with pytest.raises(PartAway):
                await member.poll(1.0, 10)


async def test_nobody_answers(bridge: None, silent_port: int) -> None:
    config = KafkaConfig(bootstrap=f"127.0.0.1:{silent_port}", request_timeout_ms=300)
    with trio.fail_after(5):
        async with open_group_consumer(config, "any", ["any"]) as member:
            with pytest.raises(PartAway):
                await member.poll(1.0, 10)


@pytest.mark.servers
async def test_a_heartbeat_that_fails_for_good_is_followed_by_a_new_membership(
    kafka_config: KafkaConfig, namespace: str, bridge: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = AnyKafka(kafka_config, namespace)
    place = TopicPartition(await kafka.topic(), 0)
    failed = trio.Event()

    async def refused(coordinator: GroupCoordinator) -> bool:
        monkeypatch.undo()
        failed.set()
        raise errors.KafkaError("the broker said something unexpected")

    async with kafka.member([place.topic]) as member:
        await member.seek(dict.fromkeys(await regain(member), 0))
        monkeypatch.setattr(GroupCoordinator, "_do_heartbeat", refused)
        with trio.fail_after(LIMIT):
            await failed.wait()
            while True:
                try:
                    if (await member.poll(0.2, 10)).regained:
                        break
                except PartAway:
                    continue
    await kafka.clean()
