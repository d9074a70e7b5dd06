"""Metadata and administration: single requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import trio
from aiokafka import errors
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.offset import OffsetRequest

from chat.bridge.kafka_client import RETRY_SECONDS, kafka_errors, raise_for
from chat.bridge.kafka_metadata import TopicsRequest, show_id
from chat.bridge.kafka_wire import Brokers, Wire
from chat.config import KafkaConfig
from chat.records import TopicPartition

T = TypeVar("T")

LATEST: Final = -1
EARLIEST: Final = -2
_UNKNOWN_TOPIC: Final = 3
_TOPIC_EXISTS: Final = 36
#: A topic that was just created or moved is not known to every broker at once.
SETTLE_SECONDS: Final = 2.0
#: The errors that this passes over.
UNSETTLED = (
    errors.UnknownTopicOrPartitionError,
    errors.NotLeaderForPartitionError,
    errors.LeaderNotAvailableError,
)
#: A group's coordinator is coming up, or has just moved.
UNSETTLED_GROUP = (
    errors.GroupLoadInProgressError,
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
)

ByTopic = dict[str, list[tuple[int, int]]]


class KafkaLogAdmin:
    """ports.LogAdmin. Open it with `open_log_admin`. Many tasks may use it. Connects when it is used.

    A cancelled call returns only when its answer is there, or its time is over.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._ms = config.request_timeout_ms
        self._brokers = Brokers(config)

    async def partitions(self, topic: str) -> int:
        return sum(len(numbers) for _, _, numbers in await self._bounded(self._describe, [topic]))

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._bounded(self._offsets, dict.fromkeys(partitions, LATEST))

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._bounded(self._offsets, dict.fromkeys(partitions, EARLIEST))

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int | None]:
        found = await self._bounded(self._offsets, times)
        return {p: None if offset < 0 else offset for p, offset in found.items()}

    async def group_offsets(self, group: str, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return await self._bounded(lambda wanted: self._committed(group, wanted), partitions)

    async def topics(self) -> frozenset[str]:
        return frozenset(name for name, _, _ in await self._bounded(self._describe, None))

    async def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        found = await self._bounded(self._describe, list(topics)) if topics else []
        return {name: topic_id for name, topic_id, _ in found}

    async def create_topic(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> bool:
        """Returns when the topic can be written to."""
        return await self._bounded(self._create, (name, partitions, replication, [], list(settings.items())))

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Those that do not exist are passed over."""
        await self._bounded(self._delete, names)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        await self._bounded(self._delete_records, before)

    def close(self) -> None:
        self._brokers.close()

    # ---------------------------------------------------------------- inside

    async def _bounded(self, function: Callable[[Any], Awaitable[T]], argument: Any) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        with kafka_errors():
            with trio.move_on_after(self._ms / 1000, shield=True):
                return await function(argument)
            raise TimeoutError(f"no answer within {self._ms} ms")

    async def _describe(self, topics: list[str] | None) -> list[tuple[str, str, list[int]]]:
        """(name, id, partitions) of those that exist."""
        answer = await (await self._brokers.any()).ask(TopicsRequest(topics))
        found = []
        for code, name, topic_id, _, partitions, *_ in answer.topics:
            if code == _UNKNOWN_TOPIC:
                continue
            raise_for(code, name)
            found.append((name, show_id(topic_id), [p[1] for p in partitions]))
        return found

    async def _offsets(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}

        async def ask(node: int, by_topic: ByTopic) -> None:
            answer = await (await self._brokers.node(node)).ask(OffsetRequest(-1, 0, list(by_topic.items())))
            for topic, partitions in answer.topics:
                for partition, code, _, offset in partitions:
                    raise_for(code, f"{topic}/{partition}")
                    found[TopicPartition(topic, partition)] = offset

        await self._at_leaders(times, ask)
        return found

    async def _committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        by_topic: dict[str, list[int]] = {}
        for partition in partitions:
            by_topic.setdefault(partition.topic, []).append(partition.partition)
        settled = trio.current_time() + SETTLE_SECONDS
        while True:
            try:
                wire = await self._coordinator(group)
                answer = await wire.ask(OffsetFetchRequest(group, list(by_topic.items())))
                raise_for(answer.error_code, group)
                break
            except UNSETTLED_GROUP:
                if trio.current_time() >= settled:
                    raise
            await trio.sleep(RETRY_SECONDS)
        found: dict[TopicPartition, int | None] = dict.fromkeys(partitions)
        for topic, numbers in answer.topics:
            for number, offset, _, code in numbers:
                if code == _UNKNOWN_TOPIC:
                    continue
                raise_for(code, f"{topic}/{number}")
                found[TopicPartition(topic, number)] = None if offset < 0 else offset
        return found

    async def _coordinator(self, group: str) -> Wire:
        answer = await (await self._brokers.any()).ask(FindCoordinatorRequest(group, 0))
        raise_for(answer.error_code, group)
        await self._brokers.refresh(())  # who is which node
        return await self._brokers.node(answer.coordinator_id)

    async def _delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        async def ask(node: int, by_topic: ByTopic) -> None:
            answer = await (await self._brokers.node(node)).ask(DeleteRecordsRequest(list(by_topic.items()), self._ms))
            for topic, partitions, *_tags in answer.topics:
                for partition, _low, code, *_ in partitions:
                    raise_for(code, f"{topic}/{partition}")

        await self._at_leaders(before, ask)

    async def _at_leaders(
        self, values: Mapping[TopicPartition, int], ask: Callable[[int, ByTopic], Awaitable[None]]
    ) -> None:
        """Ask each partition's leader, once; again only where what we knew of the cluster was old."""
        settled = trio.current_time() + SETTLE_SECONDS
        asked = False
        while True:
            try:
                for node, by_topic in self._by_leader(values).items():
                    await ask(node, by_topic)
                return
            except UNSETTLED:
                if trio.current_time() >= settled:
                    raise
            if asked:
                await trio.sleep(RETRY_SECONDS)
            asked = True
            await self._brokers.refresh({p.topic for p in values})

    def _by_leader(self, values: Mapping[TopicPartition, int]) -> dict[int, ByTopic]:
        groups: dict[int, ByTopic] = {}
        for partition, value in values.items():
            leader = self._brokers.leader(partition)
            if leader is None:
                raise errors.UnknownTopicOrPartitionError(f"{partition.topic}/{partition.partition}")
            if leader == -1:
                raise errors.LeaderNotAvailableError(f"{partition.topic}/{partition.partition}")
            groups.setdefault(leader, {}).setdefault(partition.topic, []).append((partition.partition, value))
        return groups

    async def _create(self, topic: tuple[str, int, int, list[Any], list[tuple[str, str]]]) -> bool:
        wire = await self._brokers.any()  # in KRaft mode every broker passes it on
        ((name, code, said),) = (await wire.ask(CreateTopicsRequest([topic], self._ms, False))).topic_errors
        if code == _TOPIC_EXISTS:
            return False
        raise_for(code, f"{name}: {said}")
        await self._offsets({TopicPartition(name, number): LATEST for number in range(topic[1])})
        return True

    async def _delete(self, names: Sequence[str]) -> None:
        if not names:
            return
        answer = await (await self._brokers.any()).ask(DeleteTopicsRequest(list(names), self._ms))
        for name, code in answer.topic_error_codes:
            if code != _UNKNOWN_TOPIC:
                raise_for(code, name)


@asynccontextmanager
async def open_log_admin(config: KafkaConfig) -> AsyncIterator[KafkaLogAdmin]:
    admin = KafkaLogAdmin(config)
    try:
        yield admin
    finally:
        admin.close()
