"""Static membership: a process that is killed and comes back under its name has its share again at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from aiokafka.consumer.group_coordinator import GroupCoordinator

from chat.bridge import open_group_consumer, open_log_admin
from chat.bridge.kafka_group import KafkaGroupConsumer
from chat.config import KafkaConfig
from chat.records import TopicPartition
from tests.contract.test_group import LIMIT, regain, settle

pytestmark = pytest.mark.servers


class Group:
    def __init__(self, config: KafkaConfig, name: str) -> None:
        self._config = config
        self.name = name
        self.topics: list[str] = []

    async def topic(self, partitions: int) -> set[TopicPartition]:
        topic = f"{self.name}.topic{len(self.topics)}"
        async with open_log_admin(self._config) as admin:
            await admin.create_topic(topic, partitions, 1, {})
        self.topics.append(topic)
        return {TopicPartition(topic, n) for n in range(partitions)}

    def member(self, instance: str, topics: Sequence[str] | None = None) -> AbstractAsyncContextManager[KafkaGroupConsumer]:
        return open_group_consumer(self._config, self.name, topics or self.topics, instance)

    async def clean(self) -> None:
        async with open_log_admin(self._config) as admin:
            await admin.delete_topics(self.topics)


@pytest.fixture
async def group(kafka_config: KafkaConfig, namespace: str, bridge: None) -> AsyncIterator[Group]:
    group = Group(kafka_config, namespace)
    yield group
    await group.clean()


@asynccontextmanager
async def killed(member: AbstractAsyncContextManager[KafkaGroupConsumer]) -> AsyncIterator[KafkaGroupConsumer]:
    """A member that ends without a word to the group."""

    async def no_word(coordinator: GroupCoordinator) -> None:
        coordinator.reset_generation()

    with pytest.MonkeyPatch.context() as patch:
        async with member as opened:
            yield opened
            patch.setattr(GroupCoordinator, "_maybe_leave_group", no_word)


async def test_killed_and_back_it_has_its_share_and_the_others_keep_theirs(group: Group) -> None:
    places = await group.topic(4)
    async with group.member("b") as b:
        async with killed(group.member("a")) as a:
            mine, theirs = await settle(places, a, b)
        async with group.member("a") as again:
            with trio.fail_after(LIMIT):
                assert await regain(again) == mine
            poll = await b.poll(1.0, 10)  # a heartbeat or two
            assert (poll.assignment, poll.regained) == (theirs, frozenset())


async def test_what_it_subscribes_to_now_counts(group: Group) -> None:
    places = await group.topic(1)
    async with killed(group.member("a")) as a:
        assert await regain(a) == places
    places |= await group.topic(1)  # a new generation
    async with group.member("a") as again:
        await settle(places, again)


async def test_ended_in_good_order_it_leaves_at_once(group: Group) -> None:
    places = await group.topic(2)
    async with group.member("b") as b:
        async with group.member("a") as a:
            await settle(places, a, b)
        with trio.fail_after(2):  # the session time-out is longer
            assert await regain(b) == places
