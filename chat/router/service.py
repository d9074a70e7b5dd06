"""A router process: the ports opened, the cycle run, an end at SIGTERM."""

from __future__ import annotations

import structlog
import trio
from msgspec.structs import replace

from chat.bridge.kafka_admin import open_log_admin
from chat.bridge.kafka_group import open_group_consumer
from chat.bridge.kafka_producer import open_producer
from chat.bridge.loop import open_bridge
from chat.bridge.redis import open_memory
from chat.config import Config, KafkaConfig
from chat.generations import message_topics
from chat.metrics import RouterMetrics
from chat.records import Topics
from chat.router.cycle import Router
from chat.router.lookup import Breaker, Lookup
from chat.router.outcasts import Outcasts
from chat.serving import Role, serve_role

log = structlog.get_logger()


async def run_router(
    config: Config, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Route until SIGTERM, or until `stop` is set (then signals are left alone): the cycle is finished, committed, the group
    left. Started when the group has answered. Raises SetupError."""
    settings, topics, metrics = config.router, Topics(config.kafka.namespace), RouterMetrics()
    async with (
        open_bridge(),
        open_log_admin(config.kafka) as admin,
        open_memory(config.redis) as redis,
        open_producer(_impatient(config)) as producer,
        open_producer(_impatient(config)) as prober,
    ):
        generations = await message_topics(admin, topics)
        group = f"{topics.namespace}-router"
        async with open_group_consumer(config.kafka, group, generations, settings.instance) as consumer:
            breaker = Breaker(redis, metrics.broadcasting)
            outcasts = Outcasts(topics, prober, redis, config.redis.prefix, metrics.given_up)
            router = Router(
                settings,
                topics,
                consumer=consumer,
                producer=producer,
                admin=admin,
                lookup=Lookup(redis, config.redis.prefix),
                breaker=breaker,
                outcasts=outcasts,
                metrics=metrics,
                max_batch_bytes=config.kafka.max_batch_bytes,
                newest=topics.generation_of(generations[-1]) or 0,
            )
            role = Role("router", settings.name, settings.metrics, metrics.registry)
            beside = (breaker.run, outcasts.run)
            await serve_role(role, router, beside=beside, stop=stop, task_status=task_status, topics=generations)
    log.info("stopped", role="router", name=settings.name)


def _impatient(config: Config) -> KafkaConfig:
    """Deliveries rest on nothing but promptness: what is not taken soon is given up, not waited for."""
    return replace(config.kafka, produce_timeout_ms=min(config.kafka.produce_timeout_ms, config.router.deliver_ms))
