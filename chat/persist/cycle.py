"""Persist's cycle: offset from MySQL, seek, fetch, one transaction, and so on from what it has committed.

    assigned or regained, or anything failed ──> read the offset in MySQL ──> seek ──> fetch ──> transaction ──┐
                                 ^                                              ^                              │
                                 └──── conflict, or outcome not known ──────────┴───────── committed ──────────┘

Where a partition's next record must be is known from MySQL and from the transactions since; what was fetched from
anywhere else is dropped. While MySQL is away the partitions are paused and the consumer goes on polling, so that it stays
in its group. What was not done in time is tried by halves: the same again might never be done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.busy import Busy
from chat.config import PersistConfig
from chat.errors import PartAway, PartError
from chat.linger import Linger
from chat.metrics import PersistMetrics
from chat.persist.heads import Heads
from chat.persist.offsets import read_places
from chat.persist.work import Work
from chat.ports import Database, GroupConsumer, OutOfRange, Poll
from chat.records import Consumed, TopicPartition

log = structlog.get_logger()

#: Longest wait for records; how soon a stop is seen.
POLL_S: Final = 0.2
LAG_S: Final = 1.0
#: A member without a partition for this long is one too many: ready, as a spare.
IDLE_S: Final = 5.0


class Persist:
    """One member of the group. Build it, then `run` it once."""

    def __init__(
        self,
        config: PersistConfig,
        *,
        consumer: GroupConsumer,
        database: Database,
        work: Work,
        heads: Heads,
        metrics: PersistMetrics,
        check: Callable[[], Awaitable[object]],
    ) -> None:
        """`check` holds topics and offsets against each other, as at start."""
        self._check = check
        self._config = config
        self._consumer = consumer
        self._database = database
        self._work = work
        self._heads = heads
        self._metrics = metrics
        self._owned: frozenset[TopicPartition] = frozenset()
        self._again: set[TopicPartition] = set()  # to be begun
        self._next: dict[TopicPartition, int] = {}  # next offset, as MySQL has it
        self._hole: dict[TopicPartition, int] = {}  # where a fetch left offsets out; told again, it is the log's
        self._cut_short: set[TopicPartition] = set()  # a gap within what was fetched: begun anew behind what is stored
        self._moved: dict[TopicPartition, int] = {}  # since the last commit to Kafka
        self._linger = Linger(config.linger_ms / 1_000, config.linger_most_ms / 1_000)
        self._busy = Busy()
        self._most = config.max_records  # in a transaction: less where MySQL did not get done with as many
        self._commit_at = self._lag_at = 0.0
        self.ready = False

    async def run(self, stop: trio.Event, on_ready: Callable[[], None]) -> None:
        """Store until `stop` is set; the transaction under way is finished. `on_ready` is called once, when the group has
        answered. Raises SetupError. Cancelled: what is not committed is read again by whoever comes next."""
        backoff = Backoff()
        idle_at = trio.current_time() + IDLE_S
        while not stop.is_set():
            started = trio.current_time()
            try:
                moving = await self._cycle()
            except PartError as error:
                if isinstance(error, OutOfRange):
                    await self._recheck(error)
                self._metrics.failures.labels(error.part).inc()
                log.warning("cycle given up", part=error.part, error=error.message)
                self._again |= self._owned
                await self._hold(backoff.next(), stop)
                continue
            if moving and not self._again:
                backoff.reset()
            if not self.ready and (self._owned or trio.current_time() > idle_at):
                self.ready = True
                on_ready()
            if self._again:
                await self._hold(backoff.next(), stop)
            elif moving:
                self._busy.tell(self._linger)
                await trio.sleep_until(started + self._linger.seconds)
        await self._tell_kafka()

    async def _cycle(self) -> bool:
        """True where there was something to do."""
        poll = await self._consumer.poll(POLL_S, self._most)
        self._take_over(poll)
        fresh = {p: self._fresh(p, r) for p, r in poll.records.items() if p not in self._again}
        if self._again:
            await self._begin(sorted(self._again))
        fetched = {p: (self._next[p], r) for p, r in fresh.items() if r}
        if fetched:
            await self._store(fetched)
        now = trio.current_time()
        if self._moved and now >= self._commit_at:
            self._commit_at = now + self._config.commit_ms / 1000
            await self._tell_kafka()
        if now >= self._lag_at:
            self._lag_at = now + LAG_S
            self._metrics.lag.set(sum((await self._consumer.position_lag()).values()))
        return bool(fetched)

    async def _store(self, fetched: dict[TopicPartition, tuple[int, Sequence[Consumed]]]) -> None:
        began = trio.current_time()
        count = sum(len(records) for _, records in fetched.values())
        try:
            done = await self._work.store(fetched)
        except PartAway:
            self._most = max(1, count // 2)
            raise
        self._most = min(self._config.max_records, max(self._most, 2 * count))
        self._next |= done
        self._moved |= done
        self._again |= (fetched.keys() - done.keys()) | self._cut_short
        self._cut_short.clear()
        self._metrics.transaction.observe(trio.current_time() - began)
        self._metrics.transaction_records.observe(count)
        self._metrics.streams.set(len(self._heads))

    # ---------------------------------------------------------------- partitions come and go

    def _take_over(self, poll: Poll) -> None:
        if poll.assignment != self._owned:
            self._owned = poll.assignment
            self._metrics.partitions.set(len(self._owned))
            log.info("partitions assigned", partitions=[f"{t}/{p}" for t, p in sorted(self._owned)])
        self._again = (self._again | poll.regained) & self._owned
        for partition in self._next.keys() - (self._owned - self._again):
            self._lose(partition)

    def _lose(self, partition: TopicPartition) -> None:
        self._next.pop(partition, None)
        self._moved.pop(partition, None)
        self._heads.forget(partition)

    async def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        """Heads are forgotten, and only then the offset is read: what another process commits in between is seen."""
        for partition in partitions:
            self._lose(partition)
        places = await read_places(self._database, partitions)
        self._work.begun(places)
        offsets = {partition: place.next_offset for partition, place in places.items()}
        await self._consumer.seek(offsets)
        await self._consumer.resume(partitions)
        self._next |= offsets
        self._again.difference_update(partitions)

    async def _hold(self, seconds: float, stop: trio.Event) -> None:
        """Stay in the group for so long, but fetch nothing; then all partitions are begun anew."""
        until = trio.current_time() + seconds
        try:
            while not stop.is_set() and (left := until - trio.current_time()) > 0:
                await self._consumer.pause(list(self._owned))
                poll = await self._consumer.poll(min(left, POLL_S), 1)
                self._take_over(poll)
                self._again |= self._owned  # whatever came is dropped
        except PartError as error:
            log.warning("Kafka is away too", error=error.message)
            with trio.move_on_after(max(0.0, until - trio.current_time())):
                await stop.wait()

    def _fresh(self, partition: TopicPartition, records: Sequence[Consumed]) -> Sequence[Consumed]:
        """What begins at the next offset and goes on without a gap. A gap is asked for again once; the second time the log
        itself has it (records were deleted by hand), and what is behind it is taken."""
        expected = self._next[partition]
        behind = [r for r in records if r.offset >= expected]
        if not behind:
            return ()
        if behind[0].offset != expected and self._hole.get(partition) != behind[0].offset:
            log.error("offsets left out", partition=partition, expected=expected, found=behind[0].offset)
            self._hole[partition] = behind[0].offset
            self._again.add(partition)
            return ()
        for index in range(1, len(behind)):
            if behind[index].offset != behind[index - 1].offset + 1:
                self._cut_short.add(partition)
                return behind[:index]
        return behind

    async def _recheck(self, out: OutOfRange) -> None:
        """A next offset is not in its log any more. Raises SetupError where that cannot be mended."""
        log.error("offsets out of range", partitions=list(out.partitions))
        try:
            await self._check()
        except PartError as error:
            log.warning("not checked", part=error.part, error=error.message)

    # ---------------------------------------------------------------- Kafka's own offsets

    async def _tell_kafka(self) -> None:
        """For tools that show lag; nothing reads from there."""
        moved, self._moved = self._moved, {}
        if not moved:
            return
        try:
            await self._consumer.commit(moved)
        except PartError as error:
            log.debug("Kafka was not told of the offsets", error=error.message)
