"""The router's cycle: records in, look-up, deliveries out, watermark.

    poll ──> memory of prev ──> look-up (after the fetch) ──> plan ──> produce, all acknowledged ──> done up to here
                                                                                                         │
    any error: wait, begin again from the commit <────────────────────────── commit now and then <──────┘

**Beginning** at a partition (assigned, regained, after an error) empties the memory and reads a stretch before the commit
first, without delivering: what was read without a gap is memory again.

Committed is only what is done: a delivery is done when Kafka has acknowledged it, when the edge's incarnation is dead,
when Kafka refuses it for good, or when its edge's topic is given up and the edge is told (`outcasts`). Deliveries may be
repeated, so nothing is lost by reading again.

A topic that fails while others take their batches is given up at once. Where all fail it may be Kafka: the cycle begins
again from the commit, for which Kafka must answer; what then fails once more is given up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import structlog
import trio

from chat.backoff import Backoff
from chat.busy import Busy
from chat.config import RouterConfig
from chat.errors import BadData, Conflict, PartError, SetupError
from chat.linger import Linger
from chat.metrics import RouterMetrics
from chat.ports import GroupConsumer, LogAdmin, NoSuchTopic, Poll, Producer
from chat.records import (
    Consumed,
    DeliveryBatch,
    Headers,
    Record,
    Routed,
    TopicPartition,
    Topics,
    pack_deliveries,
    routed_headers,
)
from chat.router.lookup import Breaker, Lookup
from chat.router.outcasts import Outcasts
from chat.router.plan import Item, Memory, cut, item, plan

log = structlog.get_logger()

#: Longest wait for records; how soon a stop is seen.
POLL_S: Final = 0.2
LAG_S: Final = 1.0
#: A member without a partition for this long is one too many: ready, as a spare.
IDLE_S: Final = 5.0


Fetched = Mapping[TopicPartition, Sequence[Consumed]]


class Place(NamedTuple):
    """Where reading of a partition began to count: below `deliver_from` it is only remembered."""

    generation: int
    deliver_from: int


class Router:
    """One member of the group. Build it, then `run` it once."""

    def __init__(
        self,
        config: RouterConfig,
        topics: Topics,
        *,
        consumer: GroupConsumer,
        producer: Producer,
        admin: LogAdmin,
        lookup: Lookup,
        breaker: Breaker,
        outcasts: Outcasts,
        metrics: RouterMetrics,
        max_batch_bytes: int,
        newest: int = 0,
    ) -> None:
        """`newest`: the generation that edges write to."""
        self._newest = newest
        self._config = config
        self._topics = topics
        self._consumer = consumer
        self._producer = producer
        self._admin = admin
        self._lookup = lookup
        self._breaker = breaker
        self._outcasts = outcasts
        self._suspects: set[str] = set()  # topics that have failed the last time, when nothing else went well
        self._metrics = metrics
        self._max_bytes = max_batch_bytes
        self._memory = Memory(config.prev_entries)
        self._linger = Linger(config.linger_ms / 1_000, config.linger_most_ms / 1_000)
        self._busy = Busy()
        self._owned: frozenset[TopicPartition] = frozenset()
        self._again: set[TopicPartition] = set()  # to be begun
        self._places: dict[TopicPartition, Place] = {}
        self._done: dict[TopicPartition, int] = {}  # next offsets that are not committed yet
        self._commit_at = self._lag_at = 0.0
        self._edge_topics: frozenset[str] = frozenset()  # as last listed
        self._by: Headers = ()  # of the batches of this cycle
        self.ready = False

    async def run(self, stop: trio.Event, on_ready: Callable[[], None]) -> None:
        """Route until `stop` is set, then finish the cycle and commit. `on_ready` is called once, when the group has
        answered. Raises SetupError. Cancelled: what was not committed is delivered again by whoever comes next."""
        backoff = Backoff()
        idle_at = trio.current_time() + IDLE_S
        while not stop.is_set():
            started = trio.current_time()
            try:
                moving = await self._cycle()
            except PartError as error:
                self._metrics.failures.labels(error.part).inc()
                log.warning("cycle given up", part=error.part, error=error.message)
                self._again |= self._owned
                await backoff.wait(stop)
                continue
            backoff.reset()
            if not self.ready and (self._owned or trio.current_time() > idle_at):
                self.ready = True
                on_ready()
            if moving:
                await trio.sleep_until(started + self._linger.seconds)
        await self._commit()

    async def _cycle(self) -> bool:
        """True where there was something to do."""
        poll = await self._consumer.poll(POLL_S, self._config.max_records)
        self._take_over(poll)
        records = {p: r for p, r in poll.records.items() if p not in self._again}
        if self._again:
            await self._begin(sorted(self._again))
        if records:
            await self._route(records)
        now = trio.current_time()
        if self._done and now >= self._commit_at:
            self._commit_at = now + self._config.commit_ms / 1000
            await self._commit()
        if now >= self._lag_at:
            self._lag_at = now + LAG_S
            self._metrics.lag.set(sum((await self._consumer.position_lag()).values()))
        return bool(records)

    # ---------------------------------------------------------------- partitions come and go

    def _take_over(self, poll: Poll) -> None:
        if poll.assignment != self._owned:
            self._owned = poll.assignment
            self._memory.keep_only(self._owned, self._config.prev_entries // max(1, len(self._owned)))
            self._metrics.partitions.set(len(self._owned))
            log.info("partitions assigned", partitions=[f"{t}/{p}" for t, p in sorted(self._owned)])
        self._again = (self._again | poll.regained) & self._owned
        for partition in self._done.keys() - (self._owned - self._again):
            del self._done[partition]  # it is, or was meanwhile, another's: what we did there is not ours to commit

    async def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        committed = await self._consumer.committed(partitions)
        starts = await self._admin.start_offsets(partitions)
        ends = await self._admin.end_offsets(partitions)
        seek = {}
        for p in partitions:
            commit = committed.get(p)
            deliver_from = max(starts[p], commit or 0)
            generation = self._topics.generation_of(p.topic) or 0
            if deliver_from > ends[p] and generation < self._newest:
                log.warning("an old generation has lost records; it is not read", partition=p, commit=commit, end=ends[p])
                deliver_from = ends[p]
            if deliver_from > ends[p]:
                raise SetupError(
                    f"{p.topic}/{p.partition} ends at {ends[p]}, but the routers have committed {deliver_from}: the topic "
                    "was made anew or has lost records. See what `chat persist` says, then `chat admin new-generation`"
                )
            if commit is not None and commit < starts[p]:
                log.warning(
                    "trimmed before it was delivered; devices will sync", partition=p, commit=commit, start=starts[p]
                )
            seek[p] = max(starts[p], deliver_from - self._config.warm_records)
            self._memory.begin(p, seek[p], first_ever=seek[p] == 0 and generation == 0)
            self._places[p] = Place(generation, deliver_from)
        await self._consumer.seek(seek)
        self._again.clear()

    async def _commit(self) -> None:
        """What cannot be committed is delivered again."""
        if not self._done:
            return
        done, self._done = self._done, {}
        try:
            await self._consumer.commit(done)
        except Conflict as error:
            log.info("not committed, the group has moved on", error=error.message)
        except PartError as error:
            log.warning("not committed", part=error.part, error=error.message)
            self._done = done | self._done

    # ---------------------------------------------------------------- deliveries

    async def _route(self, records: Fetched) -> None:
        began = trio.current_time()
        items, ends, count = self._items(records)
        if items:
            oldest = min(i.delivery.sent_at for i in items)
            self._metrics.fetched.observe(max(0.0, time.time() - oldest / 1000))
            await self._deliver(await self._decide(items))
            self._metrics.routed.observe(max(0.0, time.time() - oldest / 1000))
        self._done |= ends
        if count:
            self._metrics.records.inc(count)
            self._metrics.cycle_records.observe(count)
            self._busy.tell(self._linger)
            self._metrics.cycle.observe(trio.current_time() - began)

    def _items(self, fetched: Fetched) -> tuple[list[Item], dict[TopicPartition, int], int]:
        """The deliveries of a fetch; where each partition is then done; how many records counted."""
        items: list[Item] = []
        ends: dict[TopicPartition, int] = {}
        count = 0
        for partition, records in fetched.items():
            generation, deliver_from = self._places[partition]
            for record, prev in zip(records, self._memory.read(partition, generation, records), strict=True):
                if record.offset < deliver_from:
                    continue
                count += 1
                one = item(record, generation, prev)
                if one is None:
                    self._metrics.unroutable.inc()
                else:
                    items.append(one)
            if records[-1].offset >= deliver_from:
                ends[partition] = records[-1].offset + 1
        return items, ends, count

    async def _decide(self, items: Sequence[Item]) -> dict[str, deque[DeliveryBatch]]:
        """Batches by edge topic."""
        fetched = int(time.time() * 1000)
        if not self._breaker.open:
            timelines = dict.fromkeys(i.delivery.timeline for i in items)
            try:
                with self._metrics.lookup.time():
                    found, leased = await self._lookup.find(timelines)
            except PartError as error:
                log.warning("Redis is away: all edges get all", error=error.message)
                self._breaker.trip()
            else:
                made = plan(items, found, leased, self._max_bytes)
                self._metrics.offline.inc(made.offline)
                self._metrics.dead_locations.inc(made.dead)
                self._by = routed_headers(Routed(self._config.name, "redis", fetched))
                return {self._topics.edge(edge): deque(batches) for edge, batches in made.edges.items()}
        self._by = routed_headers(Routed(self._config.name, "all", fetched))
        self._edge_topics = await self._listed()
        batches = list(cut(items, None, self._max_bytes))
        return {topic: deque(batches) for topic in self._edge_topics}

    async def _listed(self) -> frozenset[str]:
        return frozenset(t for t in await self._admin.topics() if t.startswith(self._topics.edge_prefix))

    async def _deliver(self, waiting: dict[str, deque[DeliveryBatch]]) -> None:
        """Produce all, in rounds of one batch for each edge. Raises PartError where nothing came of it."""
        for topic in [t for t in waiting if t in self._outcasts]:
            self._pass_over(topic, waiting.pop(topic))
        if not waiting.keys() <= self._edge_topics:
            self._edge_topics = await self._listed()
            for topic in waiting.keys() - self._edge_topics:
                self._give_up(topic, waiting.pop(topic), NoSuchTopic("kafka", "it is not there"))
        try:
            await self._produce(waiting)
        finally:
            if not self._breaker.open:  # else the outcasts' own task does it
                await self._outcasts.hint()

    async def _produce(self, waiting: dict[str, deque[DeliveryBatch]]) -> None:
        while waiting:
            round_ = {TopicPartition(topic, 0): batches.popleft() for topic, batches in waiting.items()}
            outcome = await self._producer.produce(dict(_records(round_.items(), self._by)))
            unknown: dict[str, PartError] = {}
            well = False
            for partition, batch in round_.items():
                result = outcome[partition]
                batches = waiting[partition.topic]
                if isinstance(result, int):
                    self._metrics.deliveries.inc(len(batch.deliveries))
                    well = True
                elif isinstance(result, NoSuchTopic):
                    self._edge_topics -= {partition.topic}
                    batches.appendleft(batch)
                    self._give_up(partition.topic, waiting.pop(partition.topic), result)
                    continue
                elif isinstance(result, BadData):
                    batches.extendleft(reversed(self._halves(partition.topic, batch, result)))
                else:
                    batches.appendleft(batch)
                    unknown[partition.topic] = result
                if not batches:
                    del waiting[partition.topic]
            self._judge(unknown, well, waiting)

    def _judge(self, unknown: Mapping[str, PartError], well: bool, waiting: dict[str, deque[DeliveryBatch]]) -> None:
        """Is it Kafka, or are it these topics? Raises PartError where it may be Kafka."""
        suspects, self._suspects = self._suspects, set()
        if not unknown:
            return
        self._edge_topics = frozenset()
        if not well and not unknown.keys() <= suspects:
            self._suspects = set(unknown)
            raise next(iter(unknown.values()))
        for topic, error in unknown.items():
            self._give_up(topic, waiting.pop(topic), error)

    def _give_up(self, topic: str, batches: Iterable[DeliveryBatch], error: PartError) -> None:
        self._outcasts.add(topic, error)
        self._pass_over(topic, batches)

    def _pass_over(self, topic: str, batches: Iterable[DeliveryBatch]) -> None:
        batches = list(batches)
        self._outcasts.missed(topic, batches)
        self._metrics.passed_over.inc(sum(len(batch.deliveries) for batch in batches))

    def _halves(self, topic: str, batch: DeliveryBatch, error: BadData) -> list[DeliveryBatch]:
        """A batch that Kafka refuses; its devices will sync what is dropped here."""
        many = batch.deliveries
        if len(many) == 1:
            self._metrics.refused.inc()
            log.error("delivery refused", topic=topic, timeline=many[0].timeline, pos=many[0].pos, error=error.message)
            return []
        middle = len(many) // 2
        return [DeliveryBatch(batch.incarnation, many[:middle]), DeliveryBatch(batch.incarnation, many[middle:])]


def _records(
    round_: Iterable[tuple[TopicPartition, DeliveryBatch]], by: Headers
) -> Iterator[tuple[TopicPartition, list[Record]]]:
    """Each batch packed; one that goes to several edges is packed once."""
    now = int(time.time() * 1000)
    packed: dict[int, Record] = {}
    for partition, batch in round_:
        record = packed.get(id(batch))
        if record is None:
            record = packed[id(batch)] = Record(None, pack_deliveries(batch), now, by)
        yield partition, [record]
