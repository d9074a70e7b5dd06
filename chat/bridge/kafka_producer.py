"""The idempotent producer.

aiokafka's own producer retries for ever in the background, stays wedged after a batch is lost, and passes each call
through a queue, a sender task and several futures. Here one `produce` is one request per leader, made and awaited on the
spot. What makes it idempotent is in the batch itself: producer id, epoch and the sequence number of its first record. A
retry sends the same bytes, and the broker knows a batch that it has already.

Nothing of a producer is sent behind a failed batch: there is one batch per partition in flight, and after any failure the
connections are closed with what lies unsent in them, and the next call begins with a new producer id. A late copy of the
failed batch, already with the broker, may still be appended; nothing else can.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio
from aiokafka import errors
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from chat.bridge import kafka_hot
from chat.bridge.kafka_client import RETRY_SECONDS, translate
from chat.bridge.kafka_wire import BROKEN, Brokers
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


class _Session:
    """One producer id, and the connections under it."""

    __slots__ = ("brokers", "epoch", "producer", "sequences")

    def __init__(self, brokers: Brokers, producer: int, epoch: int) -> None:
        self.brokers = brokers
        self.producer = producer
        self.epoch = epoch
        self.sequences: dict[TopicPartition, int] = {}


class KafkaProducer:
    """ports.Producer. Open it with `open_producer`."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._seconds = config.produce_timeout_ms / 1000
        self._compression = COMPRESSION[config.compression]
        self._session: _Session | None = None

    async def produce(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Outcome:
        await trio.lowlevel.checkpoint_if_cancelled()
        outcome: Outcome = {}
        failure: PartError = PartAway("kafka", f"no outcome within {self._seconds:g} s")
        with trio.move_on_after(self._seconds, shield=True):
            try:
                await self._produce(batches, outcome)
            except (errors.KafkaError, *BROKEN) as error:
                failure = translate(error)
        lost = len(outcome) < len(batches)
        for partition in batches:
            known = outcome.setdefault(partition, failure)
            lost = lost or (isinstance(known, PartError) and not isinstance(known, _Unsent))
        if lost:
            self.close()
        return outcome

    def close(self) -> None:
        """Throw the connections and the producer id away, with what lies unsent."""
        session, self._session = self._session, None
        if session is not None:
            session.brokers.close()
            _log.debug("kafka_producer_closed", producer=session.producer)

    # ---------------------------------------------------------------- inside

    async def _produce(self, batches: Mapping[TopicPartition, Sequence[Record]], outcome: Outcome) -> None:
        session = self._session
        if session is None:
            session = self._session = await self._open()
        waiting: dict[TopicPartition, bytes] = {}
        for partition, records in batches.items():
            data = self._build(session, partition, records)
            if len(data) > self._config.max_batch_bytes:
                outcome[partition] = _Unsent("kafka", f"a batch of {len(data)} bytes, {self._config.max_batch_bytes} may be")
            else:
                waiting[partition] = data
        unknown_until = trio.current_time() + UNKNOWN_SECONDS
        asked = False
        while waiting:
            by_leader, unknown = _by_leader(session.brokers, waiting)
            if len(by_leader) == 1:
                for leader, group in by_leader.items():
                    await self._send(session, leader, group, outcome)
            elif by_leader:
                async with trio.open_nursery() as nursery:
                    for leader, group in by_leader.items():
                        nursery.start_soon(self._send, session, leader, group, outcome)
            for partition in [p for p in waiting if p in outcome]:
                del waiting[partition]
                if type(outcome[partition]) is int:
                    done = session.sequences.get(partition, 0) + len(batches[partition])
                    session.sequences[partition] = done & _SEQUENCE_MASK
            if not waiting:
                return
            if unknown and trio.current_time() >= unknown_until:
                for partition in unknown:
                    outcome[partition] = translate(errors.UnknownTopicOrPartitionError(f"{partition}"))
                    del waiting[partition]
                continue
            if asked:
                await trio.sleep(RETRY_SECONDS)
            asked = True
            try:
                await session.brokers.refresh({p.topic for p in waiting})
            except (errors.KafkaError, *BROKEN):  # the next round tries again, until the time is over
                await trio.sleep(RETRY_SECONDS)

    async def _open(self) -> _Session:
        brokers = Brokers(self._config)
        try:
            while True:
                try:
                    answer = await (await brokers.any()).ask(InitProducerIdRequest(None, _SEQUENCE_MASK))
                    if answer.error_code == 0:
                        break
                    raise errors.for_code(answer.error_code)
                except errors.KafkaError as error:
                    if not error.retriable or isinstance(error, errors.KafkaConnectionError):
                        raise
                await trio.sleep(RETRY_SECONDS)
        except BaseException:
            brokers.close()
            raise
        _log.debug("kafka_producer_opened", producer=answer.producer_id)
        return _Session(brokers, answer.producer_id, answer.producer_epoch)

    def _build(self, session: _Session, partition: TopicPartition, records: Sequence[Record]) -> bytes:
        first = session.sequences.get(partition, 0)
        builder = DefaultRecordBatchBuilder(2, self._compression, 0, session.producer, session.epoch, first, _NO_LIMIT)
        append = builder.append
        for offset, (key, value, timestamp, headers) in enumerate(records):
            append(offset, timestamp, key, value, list(headers) if headers else _NO_HEADERS)
        return builder.build()  # type: ignore[no-any-return]

    async def _send(self, session: _Session, leader: int, group: Mapping[TopicPartition, bytes], outcome: Outcome) -> None:
        """One request. What may be tried again gets no outcome."""
        try:
            wire = await session.brokers.node(leader)
            answer: list[kafka_hot.Produced] = await wire.ask(kafka_hot.produce(group, self._config.produce_timeout_ms))
        except errors.KafkaError as error:
            if not error.retriable:
                outcome.update(dict.fromkeys(group, translate(error)))
            return
        except BROKEN:
            return
        for partition, code, offset in answer:
            if code == 0:
                outcome[partition] = offset
                continue
            refusal = errors.for_code(code)
            if not refusal.retriable:
                outcome[partition] = translate(refusal(f"{partition.topic}/{partition.partition}"))


class _Unsent(BadData):
    """Refused before anything was sent: the producer is sound."""


def _by_leader(
    brokers: Brokers, partitions: Mapping[TopicPartition, bytes]
) -> tuple[dict[int, dict[TopicPartition, bytes]], list[TopicPartition]]:
    """What goes to which node; and the partitions that are not known."""
    by_leader: dict[int, dict[TopicPartition, bytes]] = {}
    unknown = []
    for partition, data in partitions.items():
        leader = brokers.leader(partition)
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
        producer.close()
