"""A consumer in a group: a member, and a fetcher that reads what the member owns, from where `seek` says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from zlib import crc32

import structlog
import trio
from aiokafka import errors

from chat.bridge.kafka_client import kafka_errors
from chat.bridge.kafka_fetch import Fetcher
from chat.bridge.kafka_member import Member
from chat.bridge.loop import Background, call
from chat.config import KafkaConfig
from chat.ports import Poll
from chat.records import TopicPartition

_log = structlog.get_logger(__name__)


class KafkaGroupConsumer:
    """ports.GroupConsumer. Open it with `open_group_consumer`. One task at a time uses it.

    Every rebalance takes all partitions away and gives some (or the same) anew: they are placed again by `seek`.
    """

    def __init__(self, config: KafkaConfig, group: str, topics: Sequence[str], instance: str) -> None:
        self._config = config
        self._group = group
        self._topics = list(topics)
        # To a static member that comes back the broker gives what it had, whatever it subscribes to by now.
        self._instance = f"{instance}-{crc32(','.join(self._topics).encode()):08x}" if instance else None
        self._seconds = config.request_timeout_ms / 1000 + 1
        self._fetcher = Fetcher(config)
        self._member: Member | None = None
        self._closing = Background()
        self._waiting = trio.CancelScope()  # cancelled by news of the assignment
        self._changed = False  # the assignment, since the last poll
        self._owned: frozenset[TopicPartition] = frozenset()
        self._regained: frozenset[TopicPartition] = frozenset()
        self._placed: set[TopicPartition] = set()  # sought since they were assigned
        self._joins = 0  # how often a driver was started; one that was thrown away is not listened to

    # ---------------------------------------------------------------- ports.GroupConsumer

    async def poll(self, max_wait: float, max_records: int) -> Poll:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        with kafka_errors():
            member = await self._joined()
            with member.polling():
                while True:
                    self._displace(self._regained & self._placed)  # sought by an offset from before the assignment
                    try:
                        member.check()
                    except errors.KafkaError:
                        self._leave_if_dead(member)
                        raise
                    records = self._fetcher.take(max_records)
                    if records or self._changed or trio.current_time() >= deadline:
                        regained, self._regained = self._regained, frozenset()
                        self._changed = False
                        poll = Poll(self._owned, regained, records)
                        if not waited:  # others have their turn, and what was taken is not lost to a cancellation
                            await trio.lowlevel.cancel_shielded_checkpoint()
                        return poll
                    await self._wait(deadline)
                    waited = True

    async def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        await trio.lowlevel.checkpoint()
        owned = {p: offset for p, offset in offsets.items() if p in self._owned}
        self._placed.update(owned)
        self._fetcher.place(owned)

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        with kafka_errors():
            member = await self._joined()
            return await call(self._seconds, member.committed, partitions)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        with kafka_errors():
            member = await self._joined()
            owned = self._owned

            def stands() -> bool:
                return self._owned is owned and offsets.keys() <= self._placed

            await call(self._seconds, member.commit, offsets, stands)

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        self._fetcher.pause(p for p in partitions if p in self._owned)

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        await trio.lowlevel.checkpoint()
        self._fetcher.resume(partitions)

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        await trio.lowlevel.checkpoint()
        return self._fetcher.lag()

    async def close(self) -> None:
        """Leaves the group."""
        self._fetcher.close()
        self._leave()
        await self._closing.finish()

    # ---------------------------------------------------------------- inside

    def _assigned(self, join: int, owned: frozenset[TopicPartition]) -> None:
        """Called by the member's listener: no I/O here."""
        if join != self._joins:
            return
        if owned or self._owned:
            self._changed = True
            self._waiting.cancel()
        self._displace(self._owned)
        self._owned = self._regained = owned

    def _displace(self, partitions: frozenset[TopicPartition]) -> None:
        self._placed -= partitions
        self._fetcher.remove(partitions)

    async def _wait(self, deadline: float) -> None:
        """For records or news of the assignment."""
        with trio.CancelScope() as self._waiting:
            if self._placed:
                await self._fetcher.fetch(deadline)
            else:
                await trio.sleep_until(deadline)

    async def _joined(self) -> Member:
        if self._member is None:
            self._joins += 1
            join = self._joins
            self._member = await call(
                self._seconds,
                Member.join,
                self._config,
                self._group,
                self._topics,
                self._instance,
                lambda owned: self._assigned(join, owned),
            )
            _log.debug("kafka_group_joined", group=self._group)
        return self._member

    def _leave_if_dead(self, member: Member) -> None:
        if member.dead:
            self._leave()

    def _leave(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._assigned(self._joins, frozenset())
            self._joins += 1
            self._closing.start(member.leave)
            _log.debug("kafka_group_left", group=self._group)


@asynccontextmanager
async def open_group_consumer(
    config: KafkaConfig, group: str, topics: Sequence[str], instance: str = ""
) -> AsyncIterator[KafkaGroupConsumer]:
    """A member of `group` that reads `topics`. With `instance` the membership is static: a process that was killed and comes
    back within the session time-out gets the same partitions at once, and nobody else's are touched. Two that live under
    one `instance` would throw each other out for ever. Joins at the first `poll`."""
    consumer = KafkaGroupConsumer(config, group, topics, instance)
    try:
        yield consumer
    finally:
        await consumer.close()
