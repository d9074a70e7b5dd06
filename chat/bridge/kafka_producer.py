"""The idempotent producer.

aiokafka's own producer retries for ever in the background and stays wedged after a batch is lost, and each of its calls
goes through a queue, a sender task and several futures. Here one `produce` is one request per leader, made and awaited
on the spot on the driver's client. What makes it idempotent is in the batch itself: producer id, epoch and the sequence
number of its first record. A retry sends the same bytes, and the broker knows a batch that it has already.

Nothing of a producer is sent behind a failed batch: there is one batch per partition in flight, and after any failure the
client is closed with what lies unsent in its sockets, and the next call begins with a new producer id. A late copy of the
failed batch, already with the broker, may still be appended; nothing else can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition as DriverPartition

from chat.bridge.kafka_client import RETRY_SECONDS, any_node, connect, translate
from chat.bridge.loop import Background, call
from chat.config import KafkaConfig
from chat.errors import BadData, PartAway, PartError
from chat.records import Record, TopicPartition

_log = structlog.get_logger(__name__)

#: A partition that stays unknown for this long after the metadata were asked for is not there.
UNKNOWN_SECONDS: Final = 1.0
#: Compression types of the record format.
COMPRESSION: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_NO_LIMIT: Final = 1 << 30
_NO_HEADERS: Final[list[tuple[str, bytes]]] = []
_SEQUENCE_MASK: Final = (1 << 31) - 1  # sequence numbers begin again at 0 behind 2^31 - 1

Outcome = dict[TopicPartition, int | PartError]


class _Driver:
    """One client with one producer id."""

    __slots__ = ("client", "epoch", "producer", "sequences")

    def __init__(self, client: AIOKafkaClient, producer: int, epoch: int) -> None:
        self.client = client
        self.producer = producer
        self.epoch = epoch
        self.sequences: dict[TopicPartition, int] = {}


class KafkaProducer:
    """ports.Producer. Open it with `open_producer`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._compression = COMPRESSION[config.compression]
        self._driver: _Driver | None = None
        self._closing = Background()

    async def produce(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Outcome:
        outcome: Outcome = {}
        try:
            await call(self._config.produce_timeout_ms / 1000, self._produce, batches, outcome)
        except (errors.KafkaError, OSError) as error:
            failure = translate(error)
        else:
            failure = PartAway("kafka", "no outcome")
        for partition in batches:
            outcome.setdefault(partition, failure)
        if any(isinstance(o, PartError) for o in outcome.values()):
            self._throw_away()
        return outcome

    async def close(self) -> None:
        self._throw_away()
        await self._closing.finish()

    def _throw_away(self) -> None:
        driver, self._driver = self._driver, None
        if driver is None:
            return
        for connection in driver.client._conns.values():  # close() alone would flush what is unsent
            if connection._writer is not None:
                connection._writer.transport.abort()
        self._closing.start(driver.client.close)
        _log.debug("kafka_producer_closed", producer=driver.producer)

    # ---------------------------------------------------------------- asyncio

    async def _produce(self, batches: Mapping[TopicPartition, Sequence[Record]], outcome: Outcome) -> None:
        driver = self._driver
        if driver is None:
            driver = self._driver = await self._open()
        waiting: dict[TopicPartition, bytes] = {}
        for partition, records in batches.items():
            data = self._build(driver, partition, records)
            if len(data) > self._config.max_batch_bytes:
                outcome[partition] = BadData("kafka", f"batch of {len(data)} bytes, {self._config.max_batch_bytes} may be")
            else:
                waiting[partition] = data
        clock = asyncio.get_running_loop().time
        unknown_until = clock() + UNKNOWN_SECONDS
        asked = False
        while waiting:
            by_leader, unknown = _by_leader(driver.client, waiting)
            if len(by_leader) == 1:
                for leader, group in by_leader.items():
                    await self._send(driver, leader, group, outcome)
            elif by_leader:
                await asyncio.gather(*(self._send(driver, leader, group, outcome) for leader, group in by_leader.items()))
            for partition in [p for p in waiting if p in outcome]:
                del waiting[partition]
                if type(outcome[partition]) is int:
                    done = driver.sequences.get(partition, 0) + len(batches[partition])
                    driver.sequences[partition] = done & _SEQUENCE_MASK
            if not waiting:
                return
            if unknown and clock() >= unknown_until:
                for partition in unknown:
                    outcome[partition] = translate(errors.UnknownTopicOrPartitionError(f"{partition}"))
                    del waiting[partition]
                    driver.client._topics.discard(partition.topic)  # it would be asked for ever after
                continue
            for partition in unknown:
                driver.client._topics.add(partition.topic)  # add_topic() would not ask again
            if asked:
                await asyncio.sleep(RETRY_SECONDS)
            asked = True
            await driver.client.force_metadata_update()

    async def _open(self) -> _Driver:
        client = await connect(self._config)
        try:
            while True:
                try:
                    answer = await client.send(any_node(client), InitProducerIdRequest(None, _SEQUENCE_MASK))
                    error = errors.for_code(answer.error_code)
                    if error is not errors.NoError:
                        raise error
                    break
                except errors.KafkaError as error:
                    if not error.retriable:
                        raise
                    await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            self._closing.start(client.close)
            raise
        _log.debug("kafka_producer_opened", producer=answer.producer_id)
        return _Driver(client, answer.producer_id, answer.producer_epoch)

    def _build(self, driver: _Driver, partition: TopicPartition, records: Sequence[Record]) -> bytes:
        builder = DefaultRecordBatchBuilder(
            2, self._compression, 0, driver.producer, driver.epoch, driver.sequences.get(partition, 0), _NO_LIMIT
        )
        append = builder.append
        for offset, (key, value, timestamp, headers) in enumerate(records):
            append(offset, timestamp, key, value, list(headers) if headers else _NO_HEADERS)
        return builder.build()  # type: ignore[no-any-return]

    async def _send(self, driver: _Driver, leader: int, group: Mapping[TopicPartition, bytes], outcome: Outcome) -> None:
        """One request. What may be retried gets no outcome."""
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for partition, data in group.items():
            topics.setdefault(partition.topic, []).append((partition.partition, data))
        try:
            answer = await driver.client.send(
                leader, ProduceRequest(None, -1, self._config.produce_timeout_ms, list(topics.items()))
            )
        except errors.KafkaError as error:
            if not error.retriable:
                outcome.update(dict.fromkeys(group, translate(error)))
            return
        for topic, answers in answer.topics:
            for number, code, offset, *_ in answers:
                partition = TopicPartition(topic, number)
                if code == 0:
                    outcome[partition] = offset
                    continue
                refusal = errors.for_code(code)
                if not refusal.retriable:
                    outcome[partition] = translate(refusal(f"{topic}/{number}"))


def _by_leader(
    client: AIOKafkaClient, partitions: Mapping[TopicPartition, bytes]
) -> tuple[dict[int, dict[TopicPartition, bytes]], list[TopicPartition]]:
    """What goes to which node; and the partitions that the metadata do not know."""
    by_leader: dict[int, dict[TopicPartition, bytes]] = {}
    unknown = []
    for partition, data in partitions.items():
        leader: Any = client.cluster.leader_for_partition(DriverPartition(*partition))
        if leader is None:
            unknown.append(partition)
        elif leader != -1:
            by_leader.setdefault(leader, {})[partition] = data
    return by_leader, unknown


@asynccontextmanager
async def open_producer(config: KafkaConfig) -> AsyncIterator[KafkaProducer]:
    """Connects at the first `produce`."""
    producer = KafkaProducer(config)
    try:
        yield producer
    finally:
        await producer.close()
