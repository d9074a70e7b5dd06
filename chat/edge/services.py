"""The services behind the handlers of accounts, people, groups, reading, sync and watch: `Context.services`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from chat.config import ArchiveConfig, EdgeConfig
from chat.edge import group_requests
from chat.edge import tokens as token_sql
from chat.edge.context import Clock, Hub, Publisher, Session
from chat.edge.guard import Guard, Lane
from chat.edge.logins import Logins
from chat.edge.passwords import Passwords
from chat.edge.sync import Pages
from chat.edge.tokens import Tokens
from chat.edge.watch import Watches
from chat.errors import PartError
from chat.persist.archive.cold import Cold
from chat.persist.browse import Browse
from chat.persist.history import History
from chat.ports import Database, Memory, Statement
from chat.records import PresenceEvent

log = structlog.get_logger()

DATABASE_S = 2.5  # a read is not waited for longer
#: Calls at a time, so that a wave of one kind leaves the others their way.
HANDLER_LANE, LOGIN_LANE, SYNC_LANE, EDGE_LANE = 4, 2, 3, 2
PURGE_S = 3_600.0


@dataclass(frozen=True)
class Services:
    guard: Guard
    database: Lane  # for the other parts of the edge
    store: Lane  # for handlers
    cold: Cold
    history: History
    browse: Browse
    passwords: Passwords
    tokens: Tokens
    logins: Logins
    pages: Pages
    watches: Watches
    now: Callable[[], int]

    def heard(self, event: PresenceEvent) -> None:
        """To be called for every event of the presence topic; never blocks."""
        self.watches.heard(event)

    def closed(self, session: Session) -> None:
        """To be called when a session ends; never blocks."""
        self.watches.closed(session)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """All background loops, until cancelled. Requests may be handled when it has started."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.guard.run)
            await nursery.start(self.logins.run)
            await nursery.start(self.pages.run)
            await self._warm()
            nursery.start_soon(self.watches.run)
            nursery.start_soon(self._purge)
            task_status.started()

    async def _warm(self) -> None:
        """Where there is an archive, its first reader is not to wait for what reading it needs."""
        try:
            (result,) = await self.database.read([Statement("SELECT 1 FROM archive_slices LIMIT 1")])
            if result.rows:
                await self.cold.warm()
        except PartError as error:
            log.info("archive_not_warm", why=error.message)

    async def _purge(self) -> None:
        """Tokens and requests that have expired. Every edge does it; each deletes what the others left."""
        while True:
            try:
                tokens, requests = await self.database.write([token_sql.purge(self.now()), group_requests.purge(self.now())])
            except PartError as error:
                log.info("not_purged", why=error.message)
                await trio.sleep(PURGE_S)
            else:
                full = tokens.changed >= token_sql.PURGED_AT_ONCE or requests.changed >= group_requests.PURGED_AT_ONCE
                await trio.sleep(1.0 if full else PURGE_S)


def build(
    config: EdgeConfig,
    *,
    prefix: str,
    database: Database,
    memory: Memory,
    hub: Hub,
    publisher: Publisher,
    clock: Clock,
    archive: ArchiveConfig,
) -> Services:
    """`prefix` is RedisConfig.prefix."""
    guard = Guard(database, seconds=DATABASE_S)
    store, log_in = guard.lane(HANDLER_LANE), guard.lane(LOGIN_LANE)
    cold = Cold(archive.url, archive.cache_mb)
    history = History(guard.lane(SYNC_LANE), publisher.partition, lambda: publisher.generation, cold)
    tokens = Tokens(memory, prefix, config.token_days)
    return Services(
        guard=guard,
        database=guard.lane(EDGE_LANE),
        store=store,
        cold=cold,
        history=history,
        browse=Browse(store, cold),
        passwords=Passwords(config.hashers),
        tokens=tokens,
        logins=Logins(log_in, history, tokens=tokens, hub=hub, now=clock.now),
        pages=Pages(history, too_old_messages=config.too_old_messages, stream_days=config.stream_days),
        watches=Watches(memory, store, prefix),
        now=clock.now,
    )
