"""Reads given partitions from given offsets, in no group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from chat.bridge.kafka_client import kafka_errors
from chat.bridge.kafka_fetch import Fetcher
from chat.config import KafkaConfig
from chat.records import Consumed, TopicPartition


class KafkaLogReader:
    """ports.LogReader. Open it with `open_log_reader`. Connects at the first `poll`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._fetcher = Fetcher(config)
        self._partitions: frozenset[TopicPartition] = frozenset()

    async def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Replaces what was assigned before."""
        await trio.lowlevel.checkpoint()
        self._fetcher.remove(self._partitions)
        self._partitions = frozenset(offsets)
        self._fetcher.place(offsets)

    async def poll(self, max_wait: float, max_records: int) -> Mapping[TopicPartition, Sequence[Consumed]]:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        with kafka_errors():
            while True:
                records = self._fetcher.take(max_records)
                if records or trio.current_time() >= deadline:
                    if not waited:  # others have their turn, and what was taken is not lost to a cancellation
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return records
                await self._fetcher.fetch(deadline)
                waited = True

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        """Records between what was read and the end, as last heard of."""
        await trio.lowlevel.checkpoint()
        return self._fetcher.lag()

    def position(self, partition: TopicPartition) -> int:
        """The offset of the next record of an assigned partition: behind what was read, and what the log has left out."""
        return self._fetcher.position(partition)

    def close(self) -> None:
        self._fetcher.close()


@asynccontextmanager
async def open_log_reader(config: KafkaConfig) -> AsyncIterator[KafkaLogReader]:
    reader = KafkaLogReader(config)
    try:
        yield reader
    finally:
        reader.close()
