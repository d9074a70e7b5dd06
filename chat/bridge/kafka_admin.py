"""Metadata and administration, as single requests on the driver's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import structlog
import trio
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest
from aiokafka.protocol.api import Request
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition as DriverPartition

from chat.bridge.kafka_client import RETRY_SECONDS, any_node, connect, kafka_errors, raise_for
from chat.bridge.kafka_metadata import TopicsRequest, show_id
from chat.bridge.loop import Background, call
from chat.config import KafkaConfig
from chat.records import TopicPartition

T = TypeVar("T")

_log = structlog.get_logger(__name__)

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
    errors.StaleMetadata,
)

ByTopic = dict[str, list[tuple[int, int]]]


class KafkaLogAdmin:
    """ports.LogAdmin. Open it with `open_log_admin`. Many tasks may use it. Connects at the first call."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._seconds = config.request_timeout_ms / 1000 + 1
        self._client: Any = None  # AIOKafkaClient, once connected
        self._connecting = trio.Lock()
        self._closing = Background()
        self._partitions: dict[str, int] = {}

    async def partitions(self, topic: str) -> int:
        if topic not in self._partitions:
            for name, _, numbers in await self._call(self._describe, [topic]):
                self._partitions[name] = len(numbers)
        return self._partitions.get(topic, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._call(self._offsets, dict.fromkeys(partitions, LATEST))

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._call(self._offsets, dict.fromkeys(partitions, EARLIEST))

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int | None]:
        found = await self._call(self._offsets, times)
        return {p: None if offset < 0 else offset for p, offset in found.items()}

    async def topics(self) -> frozenset[str]:
        return frozenset(name for name, _, _ in await self._call(self._describe, None))

    async def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        return {name: topic_id for name, topic_id, _ in await self._call(self._describe, list(topics))}

    async def create_topic(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> bool:
        """Returns when the topic can be written to."""
        return await self._call(self._create, name, partitions, replication, settings)

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Those that do not exist are passed over."""
        await self._call(self._delete, names)
        for name in names:
            self._partitions.pop(name, None)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        await self._call(self._delete_records, before)

    async def close(self) -> None:
        self._throw_away(self._client)
        await self._closing.finish()

    # ---------------------------------------------------------------- inside

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        with kafka_errors():
            async with self._connecting:
                if self._client is None:
                    self._client = await call(self._seconds, connect, self._config)
                client = self._client
            try:
                return await call(self._seconds, function, client, *args)
            except (errors.KafkaConnectionError, errors.NodeNotReadyError, errors.RequestTimedOutError, OSError):
                self._throw_away(client)  # the nodes that it knows may be gone: ask the bootstrap servers again
                raise

    def _throw_away(self, client: AIOKafkaClient | None) -> None:
        if client is not None and self._client is client:
            self._client = None
            self._closing.start(client.close)

    async def _describe(self, client: AIOKafkaClient, topics: list[str] | None) -> list[tuple[str, str, list[int]]]:
        """(name, id, partitions) of those that exist."""
        answer = await client.send(any_node(client), TopicsRequest(topics))
        found = []
        for code, name, topic_id, _, partitions, *_ in answer.topics:
            if code == _UNKNOWN_TOPIC:
                continue
            raise_for(code, name)
            found.append((name, show_id(topic_id), [p[1] for p in partitions]))
        return found

    async def _offsets(self, client: AIOKafkaClient, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        async def ask(node: int, by_topic: ByTopic) -> list[tuple[TopicPartition, int]]:
            answer = await client.send(node, OffsetRequest(-1, 0, list(by_topic.items())))
            found = []
            for topic, partitions in answer.topics:
                for partition, code, _, offset in partitions:
                    raise_for(code, f"{topic}/{partition}")
                    found.append((TopicPartition(topic, partition), offset))
            return found

        return dict(await self._at_leaders(client, times, ask))

    async def _delete_records(self, client: AIOKafkaClient, before: Mapping[TopicPartition, int]) -> None:
        async def ask(node: int, by_topic: ByTopic) -> list[None]:
            answer = await client.send(node, DeleteRecordsRequest(list(by_topic.items()), self._config.request_timeout_ms))
            for topic, partitions, *_tags in answer.topics:
                for partition, _low, code, *_ in partitions:
                    raise_for(code, f"{topic}/{partition}")
            return []

        await self._at_leaders(client, before, ask)

    async def _at_leaders(
        self,
        client: AIOKafkaClient,
        values: Mapping[TopicPartition, int],
        ask: Callable[[int, ByTopic], Coroutine[Any, Any, list[T]]],
    ) -> list[T]:
        """Ask each partition's leader, once; again only where the metadata were old."""
        clock = asyncio.get_running_loop().time
        settled = clock() + SETTLE_SECONDS
        while True:
            try:
                groups = _by_leader(client, values)
                answers = await asyncio.gather(*(ask(node, by_topic) for node, by_topic in groups.items()))
                return [one for answer in answers for one in answer]
            except UNSETTLED:
                if clock() >= settled:
                    raise
            await _refresh(client, {p.topic for p in values})
            if any(client.cluster.partitions_for_topic(p.topic) is None for p in values):
                await asyncio.sleep(RETRY_SECONDS)

    async def _create(
        self, client: AIOKafkaClient, name: str, partitions: int, replication: int, settings: Mapping[str, str]
    ) -> bool:
        topic: Any = (name, partitions, replication, [], list(settings.items()))
        created = await self._ask_controller(
            client, CreateTopicsRequest([topic], self._config.request_timeout_ms, False), _TOPIC_EXISTS
        )
        await self._offsets(client, {TopicPartition(name, p): LATEST for p in range(partitions)} if created else {})
        return created

    async def _delete(self, client: AIOKafkaClient, names: Sequence[str]) -> None:
        for name in names:
            await self._ask_controller(client, DeleteTopicsRequest([name], self._config.request_timeout_ms), _UNKNOWN_TOPIC)
            client._topics.discard(name)

    async def _ask_controller(self, client: AIOKafkaClient, request: Request[Any], not_done: int) -> bool:
        """In KRaft mode every broker passes these on. False where the answer is the code `not_done`."""
        answer = await client.send(any_node(client), request)
        codes: Iterable[Any] = answer.topic_errors if isinstance(request, CreateTopicsRequest) else answer.topic_error_codes
        for name, code, *said in codes:
            if code == not_done:
                return False
            raise_for(code, f"{name}: {said[0]}" if said and said[0] else name)
        return True


def _by_leader(client: AIOKafkaClient, values: Mapping[TopicPartition, int]) -> dict[int, ByTopic]:
    groups: dict[int, ByTopic] = {}
    for partition, value in values.items():
        leader = client.cluster.leader_for_partition(DriverPartition(*partition))
        if leader is None:
            raise errors.UnknownTopicOrPartitionError(f"{partition.topic}/{partition.partition}")
        if leader == -1:
            raise errors.LeaderNotAvailableError(f"{partition.topic}/{partition.partition}")
        groups.setdefault(leader, {}).setdefault(partition.topic, []).append((partition.partition, value))
    return groups


async def _refresh(client: AIOKafkaClient, topics: Iterable[str]) -> None:
    client._topics.update(topics)  # add_topic() would not ask again
    await client.force_metadata_update()


@asynccontextmanager
async def open_log_admin(config: KafkaConfig) -> AsyncIterator[KafkaLogAdmin]:
    admin = KafkaLogAdmin(config)
    try:
        yield admin
    finally:
        await admin.close()
