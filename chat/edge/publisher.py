"""Produces by batches: one request in flight over all partitions; what gathers meanwhile is the next. Idle, a record goes
at once; busy, a cycle does not start sooner than a while after the start of the one before (see `chat/linger.py`).

**A failed batch means unknown, not failed.** Then

1. what is queued behind it, in any partition, is dropped (the driver has thrown its producer away, and what is behind must
   never come into the log before what is ahead of it);
2. every connection with a message in the failed batches or in what was dropped is closed with 2001: it resends its outbox;
   who waits for a notice gets `unavailable`: notices are idempotent;
3. for a back-off, sends are refused `unavailable`; then the queue is open again.

**A batch that is refused as bad data is certainly not in the log.** It goes back to the head of its partition's queue and
is tried by halves until the record is alone; then its notice is refused. A message alone is not refused to the client (its
other record may be in the log, so its seq is used up): its connection ends with 1004, what it has queued is dropped, and
the outbox keeps the message. Intake bounds the size of a message, so this takes a broker that is set up wrongly.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from zlib import crc32

import structlog
import trio

from chat.busy import Busy
from chat.config import EdgeConfig, KafkaConfig
from chat.edge.connection import CLOSING, Connection
from chat.errors import BadData, ChatError, Goodbye, PartAway, PartError, Unavailable
from chat.linger import Linger
from chat.metrics import EdgeMetrics
from chat.ports import Producer
from chat.positions import position
from chat.records import (
    Headers,
    PresenceEvent,
    Record,
    TimelineRecord,
    TopicPartition,
    Topics,
    partition_of,
    presence_record,
)

RECORD_OVERHEAD: Final = 80  # bytes of a record in a batch besides key and value, headers included
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 2.0
TELL_S: Final = 3.0  # an event for the other edges
NOTICE_S: Final = 15.0  # a notice waits this long; longer than a cycle that times out

_log = structlog.get_logger()


class Parcel:
    """What belongs together: acknowledged when all its records are. `left`: records not yet acknowledged."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class MessageParcel(Parcel):
    """A message of a client."""

    __slots__ = ("at", "conn", "conversation", "seq", "stream")

    def __init__(  # noqa: PLR0917  # made for every message
        self, left: int, conn: Connection, conversation: str, stream: int, seq: int, at: float
    ) -> None:
        super().__init__(left)
        self.conn = conn
        self.conversation = conversation
        self.stream = stream
        self.seq = seq
        self.at = at


class NoticeParcel(Parcel):
    """Notices that a handler (or nobody: `failed` hears of it) waits for."""

    __slots__ = ("error", "event", "failed", "positions")

    def __init__(self, left: int, failed: Callable[[ChatError], None] | None = None) -> None:
        super().__init__(left)
        self.positions = [0] * left
        self.event = trio.Event() if failed is None else None
        self.error: ChatError | None = None
        self.failed = failed

    def finish(self, error: ChatError | None) -> None:
        if error is not None and self.error is None:
            self.error = error
            if self.failed is not None:
                self.failed(error)
        if self.event is not None:
            self.event.set()


#: A record; the parcel it belongs to (None: nobody minds); which of the parcel's records it is.
Entry = tuple[Record, Parcel | None, int]


def size_of(record: Record) -> int:
    return len(record.value) + RECORD_OVERHEAD + (len(record.key) if record.key else 0)


class EdgePublisher:
    """See the module, and context.Publisher. `hold` and `release` frame the work that follows a cycle, so that what it
    queues on connections is written at its end."""

    def __init__(
        self,
        config: EdgeConfig,
        kafka: KafkaConfig,
        producer: Producer,
        *,
        messages: str,
        generation: int,
        partitions: Mapping[str, int],
        metrics: EdgeMetrics,
        hold: Callable[[], None] = lambda: None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`messages`: the topic of the newest generation. `partitions`: how many each topic has that is written to."""
        self.generation = generation
        self._config = config
        self._most = kafka.max_batch_bytes
        self._topics = Topics(kafka.namespace)
        self._producer = producer
        self._metrics = metrics
        self._hold, self._release = hold, release
        self._places: dict[str, list[TopicPartition]] = {
            topic: [TopicPartition(topic, i) for i in range(n)] for topic, n in partitions.items()
        }
        self._message_places = self._places[messages]
        self._queues: dict[TopicPartition, deque[Entry]] = {}
        self._limits: dict[TopicPartition, int] = {}  # records a batch, while a bad one is looked for
        self._bytes = 0
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._linger = Linger(config.linger_ms / 1_000, config.linger_most_ms / 1_000)
        self._busy = Busy()
        self._refuse_until = 0.0
        self._backoff = BACKOFF_FIRST_S
        #: next offset behind the last record acknowledged here
        self.ends: dict[TopicPartition, int] = {}

    # ------------------------------------------------------------------ in

    def partition(self, timeline: str) -> TopicPartition:
        places = self._message_places
        return places[partition_of(timeline, len(places))]

    def check(self, now: float) -> None:
        """Raises Unavailable where nothing more is taken for now."""
        if self._bytes >= self._config.publish_queue_bytes or now < self._refuse_until:
            raise Unavailable("kafka")

    def offer(self, records: Sequence[TimelineRecord], parcel: Parcel | None) -> None:
        """Queue records of the message topic; `parcel.left` is their number."""
        for i, (timeline, record) in enumerate(records):
            self.put(self.partition(timeline), record, parcel, i)

    def offer_text(self, timeline: str, value: bytes, sent_at: int, headers: Headers, parcel: MessageParcel) -> None:
        """Queue one record of a client's message."""
        key = timeline.encode()
        places = self._message_places
        self.put(places[crc32(key) % len(places)], Record(key, value, sent_at, headers), parcel)

    def put(self, place: TopicPartition, record: Record, parcel: Parcel | None = None, nth: int = 0) -> None:
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = deque()
        queue.append((record, parcel, nth))
        self._bytes += len(record.value) + RECORD_OVERHEAD + (len(record.key) if record.key else 0)
        self._wake.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    def put_keyed(self, topic: str, records: Sequence[Record]) -> None:
        """Records that nobody waits for, by their key (receipts, presence)."""
        if self._bytes >= self._config.publish_queue_bytes:
            _log.warning("not published, the queue is full", topic=topic, records=len(records))
            return
        places = self._places[topic]
        for record in records:
            self.put(places[partition_of((record.key or b"").decode(), len(places))], record)

    async def publish(self, records: Sequence[TimelineRecord]) -> list[int]:
        """See context.Publisher. Cancelling leaves the outcome unknown."""
        self.check(trio.current_time())
        parcel = NoticeParcel(len(records))
        if not records:
            return []
        self.offer(records, parcel)
        await self._outcome(parcel, NOTICE_S)
        return parcel.positions

    async def tell(self, events: Sequence[PresenceEvent]) -> None:
        """See context.Publisher."""
        self.check(trio.current_time())
        parcel = NoticeParcel(len(events))
        places = self._places[self._topics.presence]
        for nth, event in enumerate(events):
            record = presence_record(event)
            self.put(places[partition_of((record.key or b"").decode(), len(places))], record, parcel, nth)
        await self._outcome(parcel, TELL_S)

    @staticmethod
    async def _outcome(parcel: NoticeParcel, seconds: float) -> None:
        assert parcel.event is not None
        with trio.move_on_after(seconds):
            await parcel.event.wait()
        if parcel.error is not None:
            raise parcel.error
        if parcel.left:
            raise Unavailable("kafka")

    def post_events(self, events: Sequence[PresenceEvent]) -> None:
        """Events for all edges, best effort: logged where Kafka is away."""
        self.put_keyed(self._topics.presence, [presence_record(e) for e in events])

    async def drained(self) -> None:
        """Wait until nothing is queued or under way."""
        await self._idle.wait()

    # ------------------------------------------------------------------ the cycle

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Produce until cancelled."""
        task_status.started()
        linger, begun = self._linger, -1.0
        while True:
            if not self._any():
                self._idle.set()
                self._wake = trio.Event()
                await self._wake.wait()
            if trio.current_time() < begun + linger.seconds:
                await trio.sleep_until(begun + linger.seconds)
            begun = trio.current_time()
            await self._cycle(begun)

    def _any(self) -> bool:
        return any(self._queues.values())

    async def _cycle(self, begun: float) -> None:
        cycle = {place: batch for place, queue in self._queues.items() if queue and (batch := self._cut(place, queue))}
        size = sum(size_of(entry[0]) for batch in cycle.values() for entry in batch) if self._any() else self._bytes
        outcome: Mapping[TopicPartition, int | PartError]
        try:
            outcome = await self._producer.produce({p: [entry[0] for entry in batch] for p, batch in cycle.items()})
        except PartError as error:
            outcome = dict.fromkeys(cycle, error)
        self._bytes -= size
        self._busy.tell(self._linger)
        self._metrics.cycle.observe(trio.current_time() - begun)
        self._metrics.cycle_records.observe(sum(map(len, cycle.values())))
        self._metrics.queue.set(self._bytes)
        self._hold()
        try:
            self._settle(cycle, outcome)
        finally:
            self._release()

    def _cut(self, place: TopicPartition, queue: deque[Entry]) -> list[Entry]:
        """The head of the queue, as much as a batch takes."""
        most, count, size = self._limits.get(place), 0, 0
        if most is None:
            if self._bytes <= self._most:  # all that is queued, anywhere, would fit
                batch = list(queue)
                queue.clear()
                return batch
            most = len(queue)
        for entry in queue:
            size += size_of(entry[0])
            if count and (size > self._most or count >= most):
                break
            count += 1
        return [queue.popleft() for _ in range(count)]

    # ------------------------------------------------------------------ the outcome

    def _settle(self, cycle: dict[TopicPartition, list[Entry]], outcome: Mapping[TopicPartition, int | PartError]) -> None:
        unknown: list[Entry] = []
        away: PartError | None = None
        done: list[MessageParcel] = []
        for place, batch in cycle.items():
            result = outcome.get(place, PartAway("kafka", "no outcome"))
            if isinstance(result, int):
                self._acknowledged(place, batch, result, done)
            elif isinstance(result, BadData):
                self._refused(place, batch, result)
            else:
                away = result
                unknown += batch
        self._accept(done)
        if away is not None:
            self._failed(unknown, away)
        else:
            self._backoff = BACKOFF_FIRST_S

    def _acknowledged(self, place: TopicPartition, batch: list[Entry], base: int, done: list[MessageParcel]) -> None:
        self.ends[place] = base + len(batch)
        if place in self._limits:
            self._limits[place] *= 2
            if self._limits[place] > 4_096:
                del self._limits[place]
        for i, (_, parcel, nth) in enumerate(batch):
            if parcel is None:
                continue
            parcel.left -= 1
            if type(parcel) is MessageParcel:
                if not parcel.left:
                    done.append(parcel)
            elif isinstance(parcel, NoticeParcel):
                parcel.positions[nth] = position(self.generation, base + i)
                if not parcel.left:
                    parcel.finish(None)

    def _accept(self, done: list[MessageParcel]) -> None:
        """`accepted` once per stream and conversation, up to the highest that is contiguous."""
        if not done:
            return
        told: dict[tuple[Connection, str, int], int] = {}
        leaving: list[Connection] = []
        for parcel in done:
            conn = parcel.conn
            conn.unacknowledged -= 1
            if conn.state < CLOSING and conn.window is not None:
                upto = conn.window.acknowledge(parcel.conversation, parcel.stream, parcel.seq)
                if upto is not None:
                    told[conn, parcel.conversation, parcel.stream] = upto
                if conn.ending is not None:
                    leaving.append(conn)
        for (conn, conversation, stream), seq in told.items():
            conn.send(accepted(conversation, stream, seq))
        for conn in leaving:
            conn.settled()
        self._metrics.accepted.inc(len(done))
        self._metrics.accept.observe(trio.current_time() - min(p.at for p in done))

    def _failed(self, unknown: list[Entry], error: PartError) -> None:
        dropped = [entry for queue in self._queues.values() for entry in queue]
        self._queues.clear()
        self._limits.clear()
        self._bytes = 0
        self._metrics.failed_cycles.inc()
        self._refuse_until = trio.current_time() + self._backoff * random.uniform(0.5, 1.0)
        self._backoff = min(2 * self._backoff, BACKOFF_MOST_S)
        owners: set[Connection] = set()
        away = Unavailable("kafka")
        for _, parcel, _ in unknown + dropped:
            if type(parcel) is MessageParcel:
                owners.add(parcel.conn)
            elif isinstance(parcel, NoticeParcel):
                parcel.finish(away)
        _log.warning(
            "produce failed", error=error.message, unknown=len(unknown), dropped=len(dropped), connections=len(owners)
        )
        for conn in owners:
            conn.close(Goodbye.OUTCOME_UNKNOWN, "the outcome of a send is unknown")

    def _refused(self, place: TopicPartition, batch: list[Entry], error: BadData) -> None:
        if len(batch) > 1:
            self._queues[place].extendleft(reversed(batch))
            self._bytes += sum(size_of(entry[0]) for entry in batch)
            self._limits[place] = max(1, len(batch) // 2)
            return
        self._limits.pop(place, None)
        parcel = batch[0][1]
        _log.error("Kafka refuses a record", topic=place.topic, partition=place.partition, error=error.message)
        if isinstance(parcel, NoticeParcel):
            parcel.finish(ChatError("bad_request", "the log refuses this"))
        elif type(parcel) is MessageParcel:
            self._purge(parcel.conn)
            parcel.conn.close(Goodbye.PROTOCOL, "the log refuses a message")

    def _purge(self, conn: Connection) -> None:
        """Drop what the connection has queued: nothing of a stream may follow a message that is not in the log."""

        def theirs(entry: Entry) -> bool:
            return type(entry[1]) is MessageParcel and entry[1].conn is conn

        for place, queue in self._queues.items():
            self._bytes -= sum(size_of(entry[0]) for entry in queue if theirs(entry))
            self._queues[place] = deque(e for e in queue if not theirs(e))


def accepted(conversation: str, stream: int, seq: int) -> bytes:
    """The frame (`protocol.Accepted`) for what a stream has got through."""
    other = "to" if conversation[0] == "u" else "group"
    return f'{{"type":"accepted","stream":{stream},"seq":{seq},"{other}":{conversation[1:]}}}'.encode()
