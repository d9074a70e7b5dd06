"""Reads given partitions from given offsets, in no group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.structs import TopicPartition as DriverPartition

from chat.bridge.kafka_client import kafka_errors
from chat.bridge.kafka_fetch import consumer_settings, drain, driver_partition, lag, wait_for_records
from chat.bridge.loop import Background, call
from chat.config import KafkaConfig
from chat.records import Consumed, TopicPartition


class KafkaLogReader:
    """ports.LogReader. Open it with `open_log_reader`. Connects at the first `assign`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._seconds = config.request_timeout_ms / 1000 + 1
        self._consumer: Any = None  # AIOKafkaConsumer, once connected
        self._closing = Background()
        self._partitions: frozenset[DriverPartition] = frozenset()

    async def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Replaces what was assigned before."""
        await trio.lowlevel.checkpoint()
        with kafka_errors():
            if self._consumer is None:
                self._consumer = await call(self._seconds, self._start)
            places = {driver_partition(p): offset for p, offset in offsets.items()}
            self._partitions = frozenset(places)
            if not places:
                self._consumer.unsubscribe()
                return
            self._consumer.assign(list(places))
            for partition, offset in places.items():
                self._consumer.seek(partition, offset)

    async def poll(self, max_wait: float, max_records: int) -> Mapping[TopicPartition, Sequence[Consumed]]:
        deadline = trio.current_time() + max_wait
        await trio.lowlevel.checkpoint()
        consumer = self._consumer
        if consumer is None or not self._partitions:
            await trio.sleep(max_wait)
            return {}
        with kafka_errors():
            while True:
                records = drain(consumer, self._partitions, max_records)
                seconds = deadline - trio.current_time()
                if records or seconds <= 0:
                    return records
                await wait_for_records(consumer, trio.Event(), seconds)

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        """Records between what was read and the end, as last heard of."""
        await trio.lowlevel.checkpoint()
        return {} if self._consumer is None else lag(self._consumer, self._partitions)

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._closing.start(consumer.stop)
        await self._closing.finish()

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(**consumer_settings(self._config))
        try:
            await consumer.start()
        except (errors.KafkaError, OSError):
            self._closing.start(consumer.stop)
            raise
        return consumer


@asynccontextmanager
async def open_log_reader(config: KafkaConfig) -> AsyncIterator[KafkaLogReader]:
    reader = KafkaLogReader(config)
    try:
        yield reader
    finally:
        await reader.close()
