"""What a group's member and a lone reader have in common: taking fetched records out of aiokafka's fetcher.

aiokafka's `getmany` costs an asyncio task, a wait and a timer per call, and makes an object of eleven fields per record.
Here the fetcher's buffer is drained by plain calls (we are on the same thread as the asyncio loop), records are made as
`Consumed` at once, and only a wait for more goes through a future. Draining never suspends, so a cancelled poll has
either taken nothing or returns what it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import trio
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.structs import TopicPartition as DriverPartition

from chat.bridge.kafka_client import client_settings
from chat.config import KafkaConfig
from chat.ports import OutOfRange
from chat.records import Consumed, TopicPartition

#: A fetch that finds nothing is answered after this long; one that finds a record at once.
FETCH_WAIT_MS = 500
#: Of one partition in one fetch. A record above it is still returned.
FETCH_BYTES = 2 << 20


def consumer_settings(config: KafkaConfig) -> dict[str, Any]:
    return {
        **client_settings(config),
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "fetch_min_bytes": 1,
        "max_partition_fetch_bytes": FETCH_BYTES,
    }


def driver_partition(partition: TopicPartition) -> DriverPartition:
    return DriverPartition(partition.topic, partition.partition)


def consumed(_: DriverPartition, record: Any) -> Consumed:
    return Consumed(record.offset, record.timestamp, record.key, record.value, tuple(record.headers))


def drain(
    consumer: AIOKafkaConsumer, partitions: Collection[DriverPartition], max_records: int
) -> dict[TopicPartition, list[Consumed]]:
    """Take up to `max_records` records of `partitions` that have been fetched. Raises the driver's errors, and OutOfRange
    with every partition that is."""
    consumer._coordinator.check_errors()
    fetcher = consumer._fetcher
    if fetcher.error_future.done():
        fetcher.error_future.result()
        raise errors.ConsumerStoppedError
    if consumer._subscription.reassignment_in_progress:
        return {}
    taken: dict[TopicPartition, list[Consumed]] = {}
    out_of_range: dict[TopicPartition, int] = {}
    buffer = fetcher._records
    for partition in [p for p in buffer if p in partitions]:
        result = buffer[partition]
        if (error := getattr(result, "_error", None)) is not None:
            if taken:
                continue  # it is raised by the next poll, with nothing in hand
            del buffer[partition]
            if not isinstance(error, errors.OffsetOutOfRangeError):
                raise error
            for bad, offset in error.args[0].items():
                out_of_range[TopicPartition(*bad)] = offset
            continue
        if out_of_range:
            continue
        if result.has_more():
            result._partition_records._consumer_record = consumed
        records = result.getall(max_records)
        if not result.has_more():
            del buffer[partition]
        if records:
            taken[TopicPartition(*partition)] = records
            max_records -= len(records)
            if not max_records:
                break
    if taken or out_of_range:
        fetcher._notify(fetcher._wait_consume_future)  # there is room: fetch on
    if out_of_range:
        raise OutOfRange(out_of_range)
    return taken


async def wait_for_records(consumer: AIOKafkaConsumer, news: trio.Event, seconds: float) -> None:
    """Until the fetcher has got something, `news` is set, or `seconds` are over."""
    waiter: asyncio.Future[None] = consumer._fetcher._create_fetch_waiter()

    def done(future: asyncio.Future[None]) -> None:
        if not future.cancelled():
            future.exception()  # the same is raised by the next drain
        news.set()

    waiter.add_done_callback(done)
    try:
        with trio.move_on_after(seconds):
            await news.wait()
    finally:
        waiter.cancel()


def lag(consumer: AIOKafkaConsumer, partitions: Collection[DriverPartition]) -> dict[TopicPartition, int]:
    """Records between the position and the end, for those whose end has been heard of."""
    subscription = consumer._subscription.subscription
    found: dict[TopicPartition, int] = {}
    if subscription is None or subscription.assignment is None:
        return found
    for partition in partitions:
        state = subscription.assignment.state_value(partition)
        if state is not None and state.highwater is not None and state.has_valid_position:
            found[TopicPartition(*partition)] = max(0, cast(int, state.highwater) - cast(int, state.position))
    return found
