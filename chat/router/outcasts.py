"""Topics of edges that cannot be written to: given up for a while, so that one of them does not hold up all others.

A delivery to such a topic counts as done. Its edge lives, maybe, and must let its clients sync; two things tell it:

    missed:<edge>   in Redis, the set of timelines that it was to get something for. It looks there every second, so its
                    clients go on with a second's delay for as long as the topic is broken
    an empty batch  in the topic, when it can be written to again and nothing is passed over any more: all sync once

While Redis is away too, hints wait here; the empty batch makes up for those that a router takes with it when it dies.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Final

import structlog
import trio
from prometheus_client import Gauge

from chat.backoff import Backoff
from chat.errors import PartError
from chat.ports import Command, NoSuchTopic, Producer
from chat.ports import Memory as Redis
from chat.records import (
    EVERY_TIMELINE,
    DeliveryBatch,
    Record,
    TopicPartition,
    Topics,
    missed_key,
    pack_deliveries,
)

log = structlog.get_logger()

PROBE_FIRST_S: Final = 1.0
PROBE_MOST_S: Final = 30.0
HINTS: Final = 10_000  # timelines of an edge that wait to be told; beyond, all of them
HINTS_S: Final = 600  # an edge that has not looked for so long is dead
FORGOTTEN_S: Final = 600.0  # nothing was to go to a topic that is not there for so long
#: Meant for no run of an edge: only shows that the topic takes it.
_PROBE: Final = pack_deliveries(DeliveryBatch(0, []))
_MARKER: Final = pack_deliveries(DeliveryBatch(None, []))


class _Outcast:
    __slots__ = ("backoff", "due", "wanted_at")

    def __init__(self, now: float) -> None:
        self.backoff = Backoff(PROBE_FIRST_S, PROBE_MOST_S)
        self.due = now + self.backoff.next()
        self.wanted_at = now


class Outcasts:
    """`producer` is its own, since a probe may take its whole time-out. Cancelling loses hints that are not written."""

    def __init__(self, topics: Topics, producer: Producer, redis: Redis, prefix: str, gauge: Gauge) -> None:
        self._topics = topics
        self._producer = producer
        self._redis = redis
        self._prefix = prefix
        self._gauge = gauge
        self._outcasts: dict[str, _Outcast] = {}
        self._hints: dict[str, set[str]] = {}  # topic → timelines
        self._wake = trio.Event()

    def __contains__(self, topic: object) -> bool:
        return topic in self._outcasts

    def __len__(self) -> int:
        return len(self._outcasts)

    def add(self, topic: str, why: PartError) -> None:
        """It is given up from now on."""
        if topic not in self._outcasts:
            log.warning("an edge's topic is given up for a while", topic=topic, error=why.message)
            self._outcasts[topic] = _Outcast(trio.current_time())
            self._gauge.set(len(self._outcasts))
            self._wake.set()

    def missed(self, topic: str, batches: Iterable[DeliveryBatch]) -> None:
        """These deliveries are passed over."""
        outcast = self._outcasts.get(topic)
        if outcast is not None:
            outcast.wanted_at = trio.current_time()
        hints = self._hints.setdefault(topic, set())
        for batch in batches:
            hints.update(delivery.timeline for delivery in batch.deliveries)
        if len(hints) > HINTS:
            self._hints[topic] = {EVERY_TIMELINE}

    async def hint(self) -> None:
        """Write what was missed to Redis. What cannot be written is kept, and `run` tries it again."""
        hints, self._hints = self._hints, {}
        commands: list[Command] = []
        for topic, timelines in hints.items():
            key = missed_key(self._prefix, topic.removeprefix(self._topics.edge_prefix))
            commands += [("SADD", key, *timelines), ("EXPIRE", key, HINTS_S)]
        if not commands:
            return
        try:
            for reply in await self._redis.pipeline(commands):
                if isinstance(reply, PartError):
                    raise reply
        except PartError as error:
            log.warning("edges are not told yet what they missed", edges=len(hints), error=error.message)
            for topic, timelines in hints.items():
                self._hints.setdefault(topic, set()).update(timelines)
            self._wake.set()

    async def run(self) -> None:
        """Probe, and tell what could not be told, until cancelled."""
        backoff = Backoff(0.2, 5.0)
        while True:
            if not self._outcasts and not self._hints:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(backoff.next() if self._hints else 0.2)
            if self._hints:
                await self.hint()
            if not self._hints:
                backoff.reset()
            now = trio.current_time()
            due = [topic for topic, outcast in self._outcasts.items() if now >= outcast.due]
            if due:
                await self._probe(due)

    async def _probe(self, due: Collection[str]) -> None:
        for topic, result in (await self._write(due, _PROBE)).items():
            outcast = self._outcasts[topic]
            if not isinstance(result, PartError):
                # From here on nothing is passed over; what was before, the marker makes good.
                del self._outcasts[topic]
                again = (await self._write([topic], _MARKER))[topic]
                if isinstance(again, PartError):
                    self._outcasts[topic] = outcast
                    outcast.due = trio.current_time() + outcast.backoff.next()
                else:
                    log.info("an edge's topic takes deliveries again", topic=topic)
            elif isinstance(result, NoSuchTopic) and trio.current_time() - outcast.wanted_at > FORGOTTEN_S:
                del self._outcasts[topic]
            else:
                outcast.due = trio.current_time() + outcast.backoff.next()
        self._gauge.set(len(self._outcasts))

    async def _write(self, topics: Iterable[str], value: bytes) -> dict[str, int | PartError]:
        record = Record(None, value, int(time.time() * 1000))
        outcome = await self._producer.produce({TopicPartition(topic, 0): [record] for topic in topics})
        return {partition.topic: result for partition, result in outcome.items()}
