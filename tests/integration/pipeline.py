"""A corner of the servers with the log in the middle: tests write records as an edge would, and look at what router and
persist make of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from aiokafka.admin import AIOKafkaAdminClient

from chat.bridge import open_database, open_log_admin, open_log_reader, open_memory, open_producer
from chat.bridge.loop import call
from chat.config import Config
from chat.persist.service import run_persist
from chat.ports import Database, LogAdmin, LogReader, Memory, Producer, Statement
from chat.protocol import Message
from chat.records import (
    Consumed,
    Delivery,
    Record,
    TimelineRecord,
    TopicPartition,
    Topics,
    message_records,
    partition_of,
    unpack_deliveries,
)
from chat.router.service import run_router

PATIENCE_S: Final = 30.0
PARTITIONS: Final = 4


def text(seq: int, *, sender: int = 1, to: int = 2, stream: int = 5, said: str = "") -> Message:
    now = int(time.time() * 1000)
    return Message(sender=sender, to=to, stream=stream, seq=seq, sent_at=now, kind="text", text=said or f"text {seq}")


def records(message: Message) -> list[TimelineRecord]:
    """As the edge writes a direct message: one record in each timeline."""
    return message_records(message, [f"u{message.to}", f"u{message.sender}"])


class Pipeline:
    def __init__(
        self, config: Config, *, producer: Producer, reader: LogReader, admin: LogAdmin, database: Database, redis: Memory
    ) -> None:
        self.config = config
        self.topics = Topics(config.kafka.namespace)
        self.producer = producer
        self.reader = reader
        self.admin = admin
        self.database = database
        self.redis = redis

    # ---------------------------------------------------------------- writing

    async def write(self, *many: TimelineRecord) -> None:
        """Into the log, each partition's in the order given."""
        batches: dict[TopicPartition, list[Record]] = {}
        for one in many:
            batches.setdefault(self.place(one.timeline), []).append(one.record)
        await self.produce(batches)

    async def send(self, *messages: Message) -> None:
        await self.write(*(r for m in messages for r in records(m)))

    async def produce(self, batches: dict[TopicPartition, list[Record]]) -> None:
        outcome = await self.producer.produce(batches)
        assert all(isinstance(o, int) for o in outcome.values()), outcome

    def place(self, timeline: str) -> TopicPartition:
        return TopicPartition(self.topics.messages, partition_of(timeline, PARTITIONS))

    # ---------------------------------------------------------------- looking

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        (result,) = await self.database.read([Statement(sql, args)])
        return list(result.rows)

    async def seqs(self, timeline: str) -> list[int]:
        found = await self.rows("SELECT seq FROM messages WHERE timeline = %s ORDER BY position", timeline)
        return [seq for (seq,) in found]

    async def lag(self) -> int:
        """Records of messages and receipts that are not stored."""
        rows = await self.rows("SELECT topic, topic_partition, next_offset FROM offsets")
        ends = await self.admin.end_offsets([TopicPartition(t, p) for t, p, _ in rows])
        return sum(ends.values()) - sum(offset for _, _, offset in rows)

    async def stored(self) -> None:
        """Wait until persist has everything."""
        await until(self._all_stored)

    async def _all_stored(self) -> bool:
        rows = await self.rows("SELECT 1 FROM offsets LIMIT 1")
        return bool(rows) and await self.lag() == 0

    @property
    def partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.topics.messages, n) for n in range(PARTITIONS)]

    async def group_offsets(self, role: str) -> dict[TopicPartition, int]:
        """What the group of the role has committed in the log, asked for from outside; 0 where it has not."""

        async def ask() -> dict[Any, Any]:
            client = AIOKafkaAdminClient(bootstrap_servers=self.config.kafka.bootstrap)
            await client.start()
            try:
                found: dict[Any, Any] = await client.list_consumer_group_offsets(f"{self.topics.namespace}-{role}")
                return found
            finally:
                await client.close()

        found = await call(PATIENCE_S, ask)
        return {p: found[p].offset if p in found else 0 for p in self.partitions}

    async def dead(self) -> list[Consumed]:
        where = TopicPartition(self.topics.dead, 0)
        return await self.read(where, (await self.admin.end_offsets([where]))[where])

    async def read(self, where: TopicPartition, end: int) -> list[Consumed]:
        """The partition up to `end`."""
        found: list[Consumed] = []
        await self.reader.assign({where: 0})
        with trio.fail_after(PATIENCE_S):
            while len(found) < end:
                for some in (await self.reader.poll(0.5, 1_000)).values():
                    found += some
        return found

    # ---------------------------------------------------------------- edges, as Redis and Kafka know them

    async def edge(self, name: str, incarnation: int) -> None:
        await self.admin.create_topic(self.topics.edge(name), 1, 1, {})
        lease = b'{"incarnation":%d,"address":"127.0.0.1:1","weight":1}' % incarnation
        await self.redis.pipeline([("SET", self.key(f"edge:{name}"), lease)])

    async def online(self, user: int, edge: str, incarnation: int) -> None:
        where = f"{edge} {incarnation} device-{user}"
        await self.redis.pipeline([("HSET", self.key(f"loc:{user}"), f"session-{user}-{edge}", where)])

    def key(self, name: str) -> str:
        return self.config.redis.prefix + name

    async def deliveries(self, edge: str, enough: Callable[[list[Delivery]], bool]) -> list[Delivery]:
        """What the edge's topic holds, as soon as it is enough."""
        found: list[Delivery] = []
        await self.reader.assign({TopicPartition(self.topics.edge(edge), 0): 0})
        with trio.fail_after(PATIENCE_S):
            while not enough(found):
                for some in (await self.reader.poll(0.5, 1_000)).values():
                    found += [d for record in some for d in unpack_deliveries(record.value).deliveries]
        return found

    # ---------------------------------------------------------------- services

    @asynccontextmanager
    async def persist(self, config: Config | None = None) -> AsyncIterator[None]:
        """A persist process, in this one, ended in peace."""
        async with _service(run_persist, config or self.config):
            yield

    @asynccontextmanager
    async def router(self, config: Config | None = None) -> AsyncIterator[None]:
        async with _service(run_router, config or self.config):
            yield

    def process(self, role: str, **settings: str) -> subprocess.Popen[bytes]:
        """A real process, to be killed."""
        c = self.config
        environment = {
            "CHAT_KAFKA_BOOTSTRAP": c.kafka.bootstrap,
            "CHAT_KAFKA_NAMESPACE": c.kafka.namespace,
            "CHAT_REDIS_URL": c.redis.url,
            "CHAT_REDIS_PREFIX": c.redis.prefix,
            "CHAT_MYSQL_HOST": c.mysql.host,
            "CHAT_MYSQL_PORT": str(c.mysql.port),
            "CHAT_MYSQL_USER": c.mysql.user,
            "CHAT_MYSQL_PASSWORD": c.mysql.password,
            "CHAT_MYSQL_DATABASE": c.mysql.database,
        }
        return subprocess.Popen([sys.executable, "-m", "chat", role], env=os.environ | environment | settings)


@asynccontextmanager
async def _service(run: Callable[..., Awaitable[None]], config: Config) -> AsyncIterator[None]:
    stop = trio.Event()

    async def start(*, task_status: trio.TaskStatus[None]) -> None:
        await run(config, stop=stop, task_status=task_status)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            await nursery.start(start)
        yield
        stop.set()


@asynccontextmanager
async def open_pipeline(config: Config) -> AsyncIterator[Pipeline]:
    async with (
        open_producer(config.kafka) as producer,
        open_log_reader(config.kafka) as reader,
        open_log_admin(config.kafka) as admin,
        open_database(config.mysql) as database,
        open_memory(config.redis) as redis,
    ):
        yield Pipeline(config, producer=producer, reader=reader, admin=admin, database=database, redis=redis)
        _, keys = (await redis.pipeline([("SCAN", 0, "MATCH", f"{config.redis.prefix}*", "COUNT", 1_000_000)]))[0]
        await redis.pipeline([("DEL", *keys)] if keys else [])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
    with trio.fail_after(seconds):
        while True:
            if await condition():
                return
            await trio.sleep(0.02)


async def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Signal it, and wait; its exit code."""
    process.send_signal(number)
    with trio.fail_after(PATIENCE_S):
        return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


def distinct(found: Sequence[Delivery], timeline: str) -> list[Delivery]:
    """Deliveries of a timeline, repeated ones left out, by position."""
    return [d for _, d in sorted({d.pos: d for d in found if d.timeline == timeline}.items())]
