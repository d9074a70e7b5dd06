"""An edge process: parts put together, started in the order that the promises need, drained in the reverse.

Start: topics exist, the place to read the edge's topic and the presence topic from is resolved, the lease is taken (or
Redis is away) – and only then clients are accepted. Drain: the ports close, nginx is told, clients are told to move; what
they have sent is finished; the rest is sent away with 2000; locations and the lease are removed; exit 0.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from secrets import randbits
from typing import Final, NamedTuple

import structlog
import trio

from chat.admin.http import serve_http
from chat.backoff import Backoff
from chat.bridge.kafka_admin import open_log_admin
from chat.bridge.kafka_producer import open_producer
from chat.bridge.kafka_reader import open_log_reader
from chat.bridge.loop import open_bridge
from chat.bridge.mysql import open_database
from chat.bridge.redis import open_memory
from chat.config import Config
from chat.edge.clock import EdgeClock
from chat.edge.connection import CLOSING, Connection
from chat.edge.context import Context, Handlers
from chat.edge.deliveries import Deliveries
from chat.edge.directory import Directory
from chat.edge.dispatch import Dispatch
from chat.edge.handlers import HANDLERS
from chat.edge.hub import EdgeHub
from chat.edge.listening import listening
from chat.edge.locations import Locations
from chat.edge.missed import Missed
from chat.edge.presence import PresenceFeed
from chat.edge.progress import EdgeProgress
from chat.edge.publisher import EdgePublisher
from chat.edge.reactor import Reactor
from chat.edge.receipts import ReceiptsLog
from chat.edge.recheck import Recheck
from chat.edge.sends import Intake
from chat.edge.services import Services, build
from chat.errors import Goodbye, PartError, SetupError
from chat.generations import message_topics
from chat.metrics import EdgeMetrics
from chat.notify import READY, STOPPING, notify
from chat.ports import Database, LogAdmin, LogReader, Memory, Producer
from chat.protocol import Moved
from chat.records import PresenceEvent, Topics
from chat.serving import settle_memory
from chat.stopping import stop_on_signals

REDIS_WAIT_S: Final = 3.0  # at start; after that the edge serves without its lease, and registers when Redis is back
LEAVE_S: Final = 2.0  # for Redis to hear of it

_log = structlog.get_logger()


class Ports(NamedTuple):
    """The outside of an edge."""

    producer: Producer
    deliveries: LogReader
    presence: LogReader
    log: LogAdmin
    memory: Memory
    database: Database


class Edge:
    """The parts of one edge. `generation` and `messages`: the newest message topic."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        *,
        messages: str,
        generation: int,
        partitions: dict[str, int],
        handlers: Handlers = HANDLERS,
    ) -> None:
        self.config = config
        edge, topics = config.edge, Topics(config.kafka.namespace)
        self.incarnation = randbits(48)
        self.metrics = EdgeMetrics()
        self.clock = EdgeClock(edge.seen_ahead_ms)
        self.dispatch = Dispatch(handlers, self.metrics, edge.login_tries_per_minute)
        self.reactor = Reactor(edge, self.dispatch, self.metrics, self._ended)
        self.publisher = EdgePublisher(
            edge,
            config.kafka,
            ports.producer,
            messages=messages,
            generation=generation,
            partitions=partitions,
            metrics=self.metrics,
            hold=self.reactor.hold,
            release=self.reactor.release,
        )
        address = edge.announce or edge.listen_proxy
        self.locations = Locations(
            edge,
            incarnation=self.incarnation,
            address=address,
            memory=ports.memory,
            prefix=config.redis.prefix,
            metrics=self.metrics,
        )
        self.hub = EdgeHub(
            edge,
            incarnation=self.incarnation,
            locations=self.locations,
            clock=self.clock,
            tell=self.publisher.post_events,
            metrics=self.metrics,
        )
        self.services: Services = build(
            edge,
            prefix=config.redis.prefix,
            database=ports.database,
            memory=ports.memory,
            hub=self.hub,
            publisher=self.publisher,
            clock=self.clock,
            archive=config.archive,
        )
        database = self.services.database
        self.progress = EdgeProgress(
            ports.log,
            database,
            messages_topic=messages,
            partitions=partitions[messages],
            generation=generation,
            partition=self.publisher.partition,
        )
        self.services.logins.progress = self.progress
        self.directory = Directory(database, strangers=edge.strangers)
        self.receipts = ReceiptsLog(
            edge,
            topics=topics,
            publisher=self.publisher,
            progress=self.progress,
            clock=self.clock,
            history=self.services.history,
            metrics=self.metrics,
        )
        self.deliveries = Deliveries(
            topics.edge(edge.name),
            incarnation=self.incarnation,
            reader=ports.deliveries,
            log=ports.log,
            hub=self.hub,
            reactor=self.reactor,
            clock=self.clock,
            directory=self.directory,
            check_later=self.services.logins.check_later,
            metrics=self.metrics,
        )
        self.missed = Missed(ports.memory, config.redis.prefix, edge.name, self.hub, self.metrics)
        self.recheck = Recheck(database, self.hub)
        self.presence = PresenceFeed(
            topics.presence,
            ports.presence,
            ports.log,
            self.hub,
            heard=self._heard,
            cut_off=lambda _: self.recheck.want(),
        )
        self.intake = Intake(
            edge,
            hub=self.hub,
            publisher=self.publisher,
            clock=self.clock,
            directory=self.directory,
            receipts=self.receipts,
            progress=self.progress,
            database=database,
        )
        self.context = Context(
            config=edge,
            hub=self.hub,
            publisher=self.publisher,
            clock=self.clock,
            progress=self.progress,
            database=database,
            memory=ports.memory,
            log=ports.log,
            services=self.services,
            intake=self.intake,
        )
        self.state = "starting"
        self._told_to_drain = trio.Event()
        #: of `listen` and `listen_proxy`, once it runs
        self.ports: list[int] = []

    def _ended(self, conn: Connection) -> None:
        if conn.user:
            self.hub.closed(conn)
            self.services.closed(conn)

    def _heard(self, event: PresenceEvent) -> None:
        if event.event == "drain" and (event.edge, event.incarnation) == (self.config.edge.name, self.incarnation):
            _log.info("told to drain")
            self._told_to_drain.set()
        self.services.heard(event)

    def ready(self) -> str:
        """Why the edge is not ready; empty: it is."""
        if self.state:
            return self.state
        return "" if self.locations.held else "no lease: Redis is away"

    # ------------------------------------------------------------------ life

    async def run(self, stop: trio.Event, ready: Callable[[], None]) -> None:
        """Serve until `stop` is set, then drain. Raises SetupError."""
        edge = self.config.edge
        async with AsyncExitStack() as stack:
            listeners = [stack.enter_context(listening(address)) for address in (edge.listen, edge.listen_proxy)]
            self.ports = [0 if sock.family == socket.AF_UNIX else sock.getsockname()[1] for sock in listeners]
            nursery = await stack.enter_async_context(trio.open_nursery())
            if edge.metrics:
                await nursery.start(serve_http, edge.metrics, self.metrics.registry, self.ready)
            await _patiently(lambda: self.deliveries.start(self.config.kafka.replication))
            await _patiently(self.presence.start)
            await nursery.start(self.services.run)
            await nursery.start(self.publisher.run)
            await nursery.start(self.progress.run)
            nursery.start_soon(self.directory.run)
            nursery.start_soon(self.intake.streams.run)
            nursery.start_soon(self.receipts.run)
            nursery.start_soon(self.deliveries.run)
            nursery.start_soon(self.presence.run)
            nursery.start_soon(self.missed.run)
            nursery.start_soon(self.recheck.run)
            await self._take_lease()
            await nursery.start(self.locations.run)
            await nursery.start(self.dispatch.run, self.context)
            self.reactor.listen(listeners[0], proxied=False)
            self.reactor.listen(listeners[1], proxied=True)
            await nursery.start(self.reactor.run)
            self.state = ""
            ready()
            nursery.start_soon(self._stop_when_told, stop)
            await stop.wait()
            await self._drain()
            nursery.cancel_scope.cancel()

    async def _stop_when_told(self, stop: trio.Event) -> None:
        await self._told_to_drain.wait()
        stop.set()

    async def _take_lease(self) -> None:
        backoff = Backoff()
        with trio.move_on_after(REDIS_WAIT_S):
            while True:
                try:
                    await self.locations.renew()
                except PartError as error:
                    _log.warning("no lease yet", error=error.message)
                    await trio.sleep(backoff.next())
                else:
                    return

    async def _drain(self) -> None:
        self.state = "draining"
        notify(STOPPING)
        self.reactor.stop_accepting()
        patience = self.config.edge.drain_s
        _log.info("draining", connections=len(self.reactor.connections))
        with trio.move_on_after(LEAVE_S):
            try:
                await self.locations.drain()
            except PartError as error:
                _log.warning("nginx is not told", error=error.message)
        self._tell_to_move(patience / 2)
        with trio.move_on_after(patience / 2):
            await self._until(lambda: not self.reactor.connections)
        with trio.move_on_after(patience / 4):
            await self._finish()
        for conn in list(self.reactor.connections.values()):
            conn.close(Goodbye.MOVED, "this edge goes away")
        self.reactor.flush()
        with trio.move_on_after(patience / 4):
            await self._until(lambda: not self.reactor.connections)
        with trio.move_on_after(LEAVE_S):
            try:
                await self.publisher.drained()
                await self.locations.leave()
            except PartError as error:
                _log.warning("Redis is not told; the lease will lapse", error=error.message)

    def _tell_to_move(self, seconds: float) -> None:
        self.reactor.hold()
        for conn in list(self.reactor.connections.values()):
            if conn.user and conn.state < CLOSING:
                conn.send(Moved(retry_after_ms=int(random.uniform(0, seconds) * 1_000)))
        self.reactor.release()

    async def _finish(self) -> None:
        """What clients have sent: tasks end, Kafka acknowledges, acknowledgements are written."""
        await self._until(lambda: not self.dispatch.tasks)
        try:
            await self.receipts.flush()
        except PartError as error:
            _log.warning("receipts are lost; devices say them again", error=error.message)
        await self.publisher.drained()

    @staticmethod
    async def _until(done: Callable[[], bool]) -> None:
        """A drain happens once in the life of a process: looking is good enough."""
        while not done():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def _patiently(start: Callable[[], Awaitable[None]]) -> None:
    """At start a server may still be coming."""
    backoff = Backoff()
    while True:
        try:
            await start()
        except PartError as error:
            _log.warning("waiting", server=error.part, error=error.message)
            await trio.sleep(backoff.next())
        else:
            return


async def run_edge(
    config: Config, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve clients until SIGTERM, or until `stop` is set (then signals are left alone); drain; return. Started when
    clients are accepted. Raises SetupError."""
    topics = Topics(config.kafka.namespace)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_bridge())
        log = await stack.enter_async_context(open_log_admin(config.kafka))
        ports = Ports(
            producer=await stack.enter_async_context(open_producer(config.kafka)),
            deliveries=await stack.enter_async_context(open_log_reader(config.kafka)),
            presence=await stack.enter_async_context(open_log_reader(config.kafka)),
            log=log,
            memory=await stack.enter_async_context(open_memory(config.redis)),
            database=await stack.enter_async_context(open_database(config.mysql)),
        )
        messages = (await message_topics(log, topics))[-1]
        partitions: dict[str, int] = {}

        async def count() -> None:
            for topic in (messages, topics.receipts, topics.presence):
                partitions[topic] = await log.partitions(topic)

        await _patiently(count)
        missing = [topic for topic, n in partitions.items() if not n]
        if missing:
            raise SetupError(f"Kafka has no topic {', '.join(missing)}: create the topics with `chat topics create`")
        edge = Edge(config, ports, messages=messages, generation=topics.generation_of(messages) or 0, partitions=partitions)

        def ready() -> None:
            settle_memory()
            _log.info("ready", role="edge", name=config.edge.name, incarnation=edge.incarnation)
            notify(READY)
            task_status.started()

        async with trio.open_nursery() as nursery:
            if stop is None:
                stop = trio.Event()
                await nursery.start(stop_on_signals, stop)
            await edge.run(stop, ready)
            nursery.cancel_scope.cancel()
    _log.info("stopped", role="edge", name=config.edge.name)
