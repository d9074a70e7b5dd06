"""A member of a consumer group.

aiokafka gives a newly assigned partition the group's committed offset by itself. Here it must wait for `seek`, so the
rebalance listener (which does no I/O) pauses each new partition at a made-up position; `seek` sets the true one and lets
it run. That way no committed offset is looked up behind our back, and a missing one is no error.

A commit is built only while the assignment under which its partitions were sought still stands: the broker knows a
member's generation, not whose partition it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, errors
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as DriverPartition

from chat.bridge.kafka_client import RETRY_SECONDS, kafka_errors
from chat.bridge.kafka_fetch import consumer_settings, drain, driver_partition, lag, wait_for_records
from chat.bridge.loop import Background, call
from chat.config import KafkaConfig
from chat.ports import GroupMoved, Poll
from chat.records import TopicPartition

_log = structlog.get_logger(__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, member: KafkaGroupConsumer, consumer: AIOKafkaConsumer) -> None:
        self._member = member
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Collection[DriverPartition]) -> None:
        self._member.assigned(self._consumer, frozenset())

    def on_partitions_assigned(self, assigned: Collection[DriverPartition]) -> None:
        self._member.assigned(self._consumer, frozenset(assigned))


class KafkaGroupConsumer:
    """ports.GroupConsumer. Open it with `open_group_consumer`. One task at a time uses it."""

    def __init__(self, config: KafkaConfig, group: str, topics: Sequence[str], instance: str | None) -> None:
        self._config = config
        self._group = group
        self._topics = list(topics)
        self._instance = instance
        self._seconds = config.request_timeout_ms / 1000 + 1
        self._consumer: Any = None  # AIOKafkaConsumer, once connected
        self._closing = Background()
        self._news = trio.Event()
        self._changed = False  # the assignment, since the last poll
        self._owned: frozenset[DriverPartition] = frozenset()
        self._regained: set[DriverPartition] = set()
        self._placed: set[DriverPartition] = set()  # sought since they were assigned
        self._paused: set[DriverPartition] = set()  # by the caller

    # ---------------------------------------------------------------- called by the listener: no I/O

    def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[DriverPartition]) -> None:
        if consumer is not self._consumer:
            return  # one that was thrown away
        for partition in partitions:
            consumer.pause(partition)
            consumer.seek(partition, 0)
        self._assigned(partitions)

    def _assigned(self, owned: frozenset[DriverPartition]) -> None:
        if owned or self._owned:
            self._changed = True
            self._news.set()
        self._owned = owned
        self._regained = set(owned)
        self._placed.clear()
        self._paused.clear()

    # ---------------------------------------------------------------- ports.GroupConsumer

    async def poll(self, max_wait: float, max_records: int) -> Poll:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint()
        with kafka_errors():
            consumer = await self._connected()
            with consumer._subscription.fetch_context():  # it is what keeps an idle member in the group
                while True:
                    regained = self._take_regained(consumer)
                    try:
                        records = drain(consumer, self._placed - self._paused, max_records)
                    except errors.KafkaError:
                        self._throw_away_if_dead(consumer)
                        raise
                    seconds = deadline - trio.current_time()
                    if records or self._changed or seconds <= 0:
                        self._changed = False
                        owned = frozenset(TopicPartition(*p) for p in self._owned)
                        return Poll(owned, frozenset(TopicPartition(*p) for p in regained), records)
                    self._news = trio.Event()
                    await wait_for_records(consumer, self._news, seconds)

    async def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        await trio.lowlevel.checkpoint()
        with kafka_errors():
            consumer = await self._connected()
            for partition, offset in offsets.items():
                place = driver_partition(partition)
                if place in self._owned:
                    consumer.seek(place, offset)
                    self._placed.add(place)
                    if place not in self._paused:
                        consumer.resume(place)

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        with kafka_errors():
            consumer = await self._connected()
            wanted = [driver_partition(p) for p in partitions]
            found = await call(self._seconds, consumer._coordinator.fetch_committed_offsets, wanted)
        offsets = {p: found.get(p) for p in wanted}
        return {TopicPartition(*p): None if o is None or o.offset < 0 else o.offset for p, o in offsets.items()}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        with kafka_errors():
            consumer = await self._connected()
            what = {driver_partition(p): OffsetAndMetadata(o, "") for p, o in offsets.items()}
            await call(self._seconds, self._commit, consumer, what)

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        if self._consumer is not None:
            for partition in (driver_partition(p) for p in partitions):
                if partition in self._owned:
                    self._paused.add(partition)
                    self._consumer.pause(partition)

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        if self._consumer is not None:
            for partition in (driver_partition(p) for p in partitions):
                self._paused.discard(partition)
                if partition in self._placed:
                    self._consumer.resume(partition)

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        await trio.lowlevel.checkpoint()
        return {} if self._consumer is None else lag(self._consumer, self._placed)

    async def close(self) -> None:
        """Leaves the group (unless the membership is static)."""
        self._throw_away()
        await self._closing.finish()

    # ---------------------------------------------------------------- inside

    def _take_regained(self, consumer: AIOKafkaConsumer) -> set[DriverPartition]:
        regained, self._regained = self._regained, set()
        for partition in regained & self._placed:  # sought by an offset that was read before it was assigned anew
            self._placed.discard(partition)
            consumer.pause(partition)
            consumer.seek(partition, 0)
        return regained

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await call(self._seconds, self._start)
            self._consumer.subscribe(self._topics, listener=_Listener(self, self._consumer))
            _log.debug("kafka_consumer_opened", group=self._group)
        return self._consumer

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **consumer_settings(self._config),
            group_id=self._group,
            group_instance_id=self._instance,
            session_timeout_ms=self._config.session_timeout_ms,
            heartbeat_interval_ms=self._config.heartbeat_interval_ms,
        )
        try:
            await consumer.start()
        except BaseException:
            self._closing.start(consumer.stop)
            raise
        return consumer

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: Mapping[DriverPartition, OffsetAndMetadata]) -> None:
        coordinator = consumer._coordinator
        placed_under = self._owned
        while True:
            await coordinator.ensure_coordinator_known()
            async with coordinator._commit_lock:
                if self._owned is not placed_under or not offsets.keys() <= self._placed:
                    raise GroupMoved("partitions were assigned anew")
                try:
                    await coordinator._do_commit_offsets(None, offsets)
                    return
                except errors.KafkaError as error:
                    if not error.retriable:
                        raise
            await asyncio.sleep(RETRY_SECONDS)

    def _throw_away_if_dead(self, consumer: AIOKafkaConsumer) -> None:
        """A driver whose background task has ended never recovers; a new one joins the group at the next call."""
        if consumer._coordinator._coordination_task.done() or consumer._fetcher.error_future.done():
            self._throw_away()

    def _throw_away(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._assigned(frozenset())
            self._closing.start(consumer.stop)
            _log.debug("kafka_consumer_closed", group=self._group)


@asynccontextmanager
async def open_group_consumer(
    config: KafkaConfig, group: str, topics: Sequence[str], instance: str | None = None
) -> AsyncIterator[KafkaGroupConsumer]:
    """A member of `group` that reads `topics`. With `instance` (unique within the group) the membership is static: a
    process that comes back within the session time-out gets the same partitions without a rebalance. Joins at the
    first `poll`."""
    consumer = KafkaGroupConsumer(config, group, topics, instance)
    try:
        yield consumer
    finally:
        await consumer.close()
