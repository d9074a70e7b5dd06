"""Membership of a consumer group: joining, heartbeats, rebalances, commits. aiokafka's coordinator does it, on asyncio: it
is rare work. Its fetcher is not started; records are read by `kafka_fetch`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import ConsumerRebalanceListener, errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import OffsetAndMetadata

from chat.bridge.kafka_client import RETRY_SECONDS, connect
from chat.config import KafkaConfig
from chat.ports import GroupMoved
from chat.records import TopicPartition


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Only notes: no I/O."""

    def __init__(self, assigned: Callable[[frozenset[TopicPartition]], None]) -> None:
        self._assigned = assigned

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        self._assigned(frozenset())

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self._assigned(frozenset(TopicPartition(*p) for p in assigned))


class Member:
    """Asyncio, but for the plain functions."""

    def __init__(self, client: Any, subscription: Any, coordinator: Any) -> None:
        self._client = client
        self._subscription = subscription
        self._coordinator = coordinator

    @classmethod
    async def join(
        cls,
        config: KafkaConfig,
        group: str,
        topics: Sequence[str],
        instance: str | None,
        assigned: Callable[[frozenset[TopicPartition]], None],
    ) -> Member:
        """Begins to; `assigned` is called, by the asyncio loop, with what is owned from then on: nothing when a
        rebalance begins, the new share when it has ended."""
        client = await connect(config)
        client.set_topics(topics)
        subscription = SubscriptionState()
        subscription.register_fetch_waiters(set())
        coordinator = GroupCoordinator(
            client,
            subscription,
            group_id=group,
            group_instance_id=instance,
            session_timeout_ms=config.session_timeout_ms,
            rebalance_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            retry_backoff_ms=int(RETRY_SECONDS * 1000),
            enable_auto_commit=False,
        )
        subscription.subscribe(topics=set(topics), listener=_Listener(assigned))
        return cls(client, subscription, coordinator)

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Around a poll: a member that does not poll for minutes leaves its group."""
        self._subscription._fetch_count = 1
        try:
            yield
        finally:
            self._subscription._fetch_count = 0
            self._subscription._last_fetch_ended = time.monotonic()

    def check(self) -> None:
        """Raises what the background tasks ran into."""
        self._coordinator.check_errors()

    @property
    def dead(self) -> bool:
        """A background task has ended: it never recovers. (aiokafka starts no heartbeat again after one that failed, and
        tells of it for ever.)"""
        heartbeat = self._coordinator._heartbeat_task
        failed = heartbeat is not None and heartbeat.done() and not heartbeat.cancelled() and heartbeat.exception()
        return bool(failed or self._coordinator._coordination_task.done())

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        found = await self._coordinator.fetch_committed_offsets(list(partitions))
        return {p: found[p].offset if p in found and found[p].offset >= 0 else None for p in partitions}

    async def commit(self, offsets: Mapping[TopicPartition, int], stands: Callable[[], bool]) -> None:
        """The broker knows a member's generation, not whose partition it is. So `stands` is asked at the moment when the
        request is made: is what is committed still owned, under the assignment that it was read under?"""
        coordinator = self._coordinator
        what = {p: OffsetAndMetadata(offset, "") for p, offset in offsets.items()}
        while True:
            await coordinator.ensure_coordinator_known()
            async with coordinator._commit_lock:
                if not stands():
                    raise GroupMoved("partitions were assigned anew")
                try:
                    await coordinator._do_commit_offsets(None, what)
                    return
                except errors.KafkaError as error:
                    if not error.retriable:
                        raise
            await asyncio.sleep(RETRY_SECONDS)

    async def leave(self) -> None:
        """Leaves the group, a static member too: what it had goes to the others now, not after the session time-out."""
        self._coordinator._group_instance_id = None  # aiokafka leaves only without it
        try:
            await self._coordinator.close()
        finally:
            await self._client.close()
