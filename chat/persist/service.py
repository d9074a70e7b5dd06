"""A persist process: the ports opened, the offsets checked, the cycle run, an end at SIGTERM."""

from __future__ import annotations

import structlog
import trio

from chat.backoff import Backoff
from chat.bridge.kafka_admin import open_log_admin
from chat.bridge.kafka_group import open_group_consumer
from chat.bridge.kafka_producer import open_producer
from chat.bridge.loop import open_bridge
from chat.bridge.mysql import open_database
from chat.bridge.redis import open_memory
from chat.config import Config
from chat.errors import PartError
from chat.generations import message_topics
from chat.metrics import PersistMetrics
from chat.persist.cycle import Persist
from chat.persist.heads import Heads
from chat.persist.janitor import Janitor
from chat.persist.offsets import check_offsets
from chat.persist.work import Work
from chat.ports import Database, LogAdmin
from chat.records import Topics
from chat.serving import Role, serve_role

log = structlog.get_logger()


async def run_persist(
    config: Config, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Store until SIGTERM, or until `stop` is set (then signals are left alone): the transaction under way is finished, the
    group left. Started when it is in its group. Raises SetupError where topics and offsets do not fit."""
    settings, topics, metrics = config.persist, Topics(config.kafka.namespace), PersistMetrics()
    async with (
        open_bridge(),
        open_log_admin(config.kafka) as admin,
        open_database(config.mysql) as database,
        open_memory(config.redis) as redis,
        open_producer(config.kafka) as producer,
    ):
        names = await _checked(database, admin, topics)
        group = f"{topics.namespace}-persist"
        async with open_group_consumer(config.kafka, group, names, settings.instance) as consumer:
            heads = Heads(settings.stream_entries)
            work = Work(
                topics,
                database=database,
                producer=producer,
                heads=heads,
                metrics=metrics,
                max_batch_bytes=config.kafka.max_batch_bytes,
            )
            persist = Persist(
                settings,
                consumer=consumer,
                database=database,
                work=work,
                heads=heads,
                metrics=metrics,
                check=lambda: check_offsets(database, admin, topics, [n for n in names if n != topics.receipts]),
            )
            janitor = Janitor(
                settings,
                topics,
                database=database,
                admin=admin,
                redis=redis,
                prefix=config.redis.prefix,
                metrics=metrics,
            )
            role = Role("persist", settings.name, settings.metrics, metrics.registry)
            await serve_role(role, persist, beside=(janitor.run,), stop=stop, task_status=task_status, topics=names)
    log.info("stopped", role="persist", name=settings.name)


async def _checked(database: Database, admin: LogAdmin, topics: Topics) -> list[str]:
    """The topics to read. Waits for as long as a server is away."""
    backoff = Backoff()
    while True:
        try:
            return await check_offsets(database, admin, topics, await message_topics(admin, topics))
        except PartError as error:
            log.warning("waiting", part=error.part, error=error.message)
            await trio.sleep(backoff.next())
