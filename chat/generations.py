"""Which topics carry messages: one per generation."""

from __future__ import annotations

import structlog
import trio

from chat.backoff import Backoff
from chat.errors import PartError, SetupError
from chat.ports import LogAdmin
from chat.records import Topics

log = structlog.get_logger()


async def message_topics(admin: LogAdmin, topics: Topics) -> list[str]:
    """Those that exist, oldest generation first. Waits for as long as Kafka is away; raises SetupError where there is none.
    Old generations are read too: they are fenced, so what is left in them is only read out."""
    backoff = Backoff()
    while True:
        try:
            names = await admin.topics()
        except PartError as error:
            log.warning("waiting for Kafka", error=error.message)
            await trio.sleep(backoff.next())
            continue
        found = {generation: name for name in names if (generation := topics.generation_of(name)) is not None}
        if not found:
            raise SetupError(f"Kafka has no topic {topics.messages}: create the topics with `chat topics create`")
        return [found[generation] for generation in sorted(found)]
