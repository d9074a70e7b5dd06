"""Where a trace reads: Kafka and MySQL, either of which may be away, for a limited time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.config import Config
from chat.errors import PartError
from chat.records import TopicPartition
from chat.tools.logsource import open_log_source
from chat.tools.trace.facts import Facts
from chat.tools.trace.logs import Logs
from chat.tools.trace.stored import Stored

T = TypeVar("T")

#: A server that has not answered by then is away, as far as this is concerned.
AWAY_MS: Final = 1_500
#: Of what is left of the time: to find the message.
FIND_SHARE: Final = 0.6


class Sources:
    """`facts` hears of what is away. `deadline`: the topics are read until then, by trio's clock. `offsets`: persist's next
    ones, as of `open`."""

    def __init__(self, config: Config, stored: Stored, logs: Logs, facts: Facts, seconds: float) -> None:
        self.router_group = f"{config.kafka.namespace}-router"
        self.stored = stored
        self.logs = logs
        self.facts = facts
        self.kafka = True
        self._seconds = seconds
        self.deadline = trio.current_time() + seconds  # set anew by `open`
        self.offsets: dict[TopicPartition, int] = {}
        self._errors: list[PartError] = []

    async def open(self) -> None:
        """Ask both. Raises PartAway where neither answers, SetupError where Kafka has no topic of messages."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_kafka)
            nursery.start_soon(self._open_mysql)
        if not self.kafka and not self.facts.mysql:
            raise self._errors[-1]
        self.deadline = trio.current_time() + self._seconds

    async def _open_kafka(self) -> None:
        await self.of_kafka(None, self.logs.open)

    async def _open_mysql(self) -> None:
        self.offsets = await self.of_mysql({}, self.stored.offsets)

    async def of_kafka(self, default: T, ask: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not self.kafka:
            return default
        try:
            return await ask(*args)
        except PartError as error:
            self.kafka = False
            self._errors.append(error)
            self.facts.unknown.append(f"Kafka cannot be read ({error.message}): hops are not known, but what MySQL has")
            return default

    async def of_mysql(self, default: T, ask: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not self.facts.mysql:
            return default
        try:
            return await ask(*args)
        except PartError as error:
            if error.part == "archive":
                self.facts.unknown.append(f"the archive cannot be read ({error.message})")
                return default
            self.facts.mysql = False
            self._errors.append(error)
            self.facts.unknown.append(
                f"MySQL cannot be read ({error.message}): what is stored, names, devices and members are not known"
            )
            return default

    @contextmanager
    def share(self, share: float) -> Iterator[trio.CancelScope]:
        """A part of what is left of the time."""
        now = trio.current_time()
        with trio.move_on_at(now + max(0.0, self.deadline - now) * share) as scope:
            yield scope


@asynccontextmanager
async def open_sources(config: Config, facts: Facts, seconds: float) -> AsyncIterator[Sources]:
    """Connects when it is used. Needs the bridge."""
    mysql = replace(config.mysql, timeout_ms=min(config.mysql.timeout_ms, AWAY_MS))
    kafka = replace(config.kafka, request_timeout_ms=min(config.kafka.request_timeout_ms, AWAY_MS))
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(open_log_source(kafka))
        database = await stack.enter_async_context(open_database(mysql))
        yield Sources(config, Stored(database, config.archive), Logs(source), facts, seconds)
