"""What is swept now and then, by one persist process at a time (a named lock of MySQL says which).

**Trimming.** The log of messages is deleted up to min(stored, now − retain_days): nothing that is not in MySQL ever goes,
however old it is.

**Edges' topics.** One whose edge has had no lease for hours goes. The hours are those that this process has watched: a
look counts for the time since the one before it, bounded, and only where Redis knows the lease of some other edge. So time
in which Redis was away, or empty, or we were frozen, says nothing of an edge. (An edge that finds its topic gone makes it
again and lets its sessions sync: a mistake here costs promptness, nothing else.)
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.config import PersistConfig
from chat.errors import PartError
from chat.metrics import PersistMetrics
from chat.persist.offsets import read_offsets
from chat.ports import Database, LogAdmin, Memory
from chat.records import TopicPartition, Topics

log = structlog.get_logger()

LOCK: Final = "chat-janitor"
DAY_MS: Final = 86_400_000
LOOK_COUNTS: Final = 2  # janitor_s at most: what a look says of the time before it


class Janitor:
    def __init__(
        self,
        config: PersistConfig,
        topics: Topics,
        *,
        database: Database,
        admin: LogAdmin,
        redis: Memory,
        prefix: str,
        metrics: PersistMetrics,
    ) -> None:
        self._config = config
        self._topics = topics
        self._database = database
        self._admin = admin
        self._redis = redis
        self._prefix = prefix
        self._metrics = metrics
        self._leaseless: dict[str, float] = {}  # topic of an edge → seconds for which it was seen without a lease
        self._looked_at: float | None = None

    async def run(self) -> None:
        """Until cancelled. What fails is tried again."""
        backoff = Backoff(1.0, self._config.janitor_s)
        while True:
            try:
                async with self._database.lock(LOCK) as held:
                    if held:
                        await self.sweep()
            except PartError as error:
                log.warning("the janitor could not sweep", part=error.part, error=error.message)
                await trio.sleep(backoff.next())
                continue
            backoff.reset()
            await trio.sleep(self._config.janitor_s)

    async def sweep(self) -> None:
        """Once, by the holder of the lock. Raises PartError; cancelling it leaves the rest to the next time."""
        names = await self._admin.topics()
        if self._config.retain_days > 0:
            await self._trim([t for t in names if self._topics.generation_of(t) is not None])
        if self._config.edge_topic_hours > 0:
            await self._remove([t for t in names if t.startswith(self._topics.edge_prefix)])

    async def _trim(self, names: Collection[str]) -> None:
        partitions = [TopicPartition(t, n) for t in sorted(names) for n in range(await self._admin.partitions(t))]
        stored = await read_offsets(self._database, partitions, missing=0)
        starts = await self._admin.start_offsets(partitions)
        oldest = int(time.time() * 1000 - self._config.retain_days * DAY_MS)
        young = await self._admin.offsets_at(dict.fromkeys(partitions, oldest))
        before = trims(starts, stored, young)
        if before:
            await self._admin.delete_records(before)
            self._metrics.trimmed.inc(sum(offset - starts[p] for p, offset in before.items()))
            log.info("log trimmed", before={f"{t}/{p}": offset for (t, p), offset in before.items()})

    async def _remove(self, topics: Collection[str]) -> None:
        edges = {t: t.removeprefix(self._topics.edge_prefix) for t in topics}
        replies = await self._redis.pipeline([("EXISTS", f"{self._prefix}edge:{edge}") for edge in edges.values()])
        for reply in replies:
            if isinstance(reply, PartError):
                raise reply
        now, before = trio.current_time(), self._looked_at
        self._looked_at = now
        if not any(replies):
            return  # not one edge has a lease: that says something of Redis
        passed = 0.0 if before is None else min(now - before, LOOK_COUNTS * self._config.janitor_s)
        leaseless = [t for t, exists in zip(edges, replies, strict=True) if not exists]
        self._leaseless = {t: self._leaseless[t] + passed if t in self._leaseless else 0.0 for t in leaseless}
        gone = [t for t, seconds in self._leaseless.items() if seconds >= self._config.edge_topic_hours * 3_600]
        if gone:
            await self._admin.delete_topics(gone)
            log.info("topics of gone edges removed", topics=gone)


def trims(
    starts: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], young: Mapping[TopicPartition, int | None]
) -> dict[TopicPartition, int]:
    """Before which offset each partition's records go. `young`: the first record that is still to be kept for its age;
    None: all are older."""
    before = {}
    for partition, start in starts.items():
        limit = young[partition]
        offset = stored[partition] if limit is None else min(stored[partition], limit)
        if offset > start:
            before[partition] = offset
    return before
