"""The facts of one message, from MySQL and Kafka, within a limit of time. What is away, or was not read to its end, is told
in `Facts.unknown`; only where neither answers, PartAway is raised.

    what is asked ──> an id ──> where its records lie ──> who was on line ──> every topic from its time on
    MySQL: names,     its rows, else the log backwards    presence back       copies, deliveries, receipts, dead
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.config import Config
from chat.errors import PartAway, PartError, SetupError
from chat.message_id import MessageId
from chat.positions import offset_of
from chat.records import KIND_HEADER, Consumed, TopicPartition, conversation_of
from chat.tools.logsource import Limits, Span, open_log_source
from chat.tools.trace.asked import Asked, At, Last, group_number, user_number
from chat.tools.trace.facts import Facts, Way
from chat.tools.trace.logs import SKEW_MS, Logs
from chat.tools.trace.look import Look, id_of_value, newest
from chat.tools.trace.sessions import sessions
from chat.tools.trace.stored import Row, Stored
from chat.tools.trace.words import clock

T = TypeVar("T")

#: A server that has not answered by then is away, as far as this is concerned.
AWAY_MS: Final = 1_500
#: Read on so long after the message when all who were on line have it: for repetitions.
SETTLED_MS: Final = 10_000
#: Where only a later copy of a message may have been found: its first one is looked for so far before it.
EARLIER_MS: Final = 60_000
#: Shares of the time, of what is left: to find the message; to find earlier log-ins.
FIND_SHARE: Final = 0.6
PRESENCE_SHARE: Final = 0.35
DEAD_RECORDS: Final = 5_000
#: Later than any time: a partition that was read to its end.
OVER: Final = 1 << 62


class Enough(Exception):
    """Everything that can be expected was found."""


class Tracer:
    def __init__(self, config: Config, stored: Stored, logs: Logs, seconds: float) -> None:
        self._group = f"{config.kafka.namespace}-router"
        self._stored = stored
        self._logs = logs
        self._deadline = trio.current_time() + seconds
        self._kafka = True
        self._errors: list[PartError] = []
        self.facts = Facts(now=int(time.time() * 1000))
        self._offsets: dict[TopicPartition, int] = {}
        self._rows: dict[str, Row] = {}

    async def trace(self, asked: Asked) -> Facts:
        """Raises PartAway where nothing answers, SetupError where what is asked for does not exist."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_kafka)
            nursery.start_soon(self._open_mysql)
        if not self._kafka and not self.facts.mysql:
            raise self._errors[-1]
        await self._identify(asked)
        await self._locate()
        if self._kafka and any(way.copies or way.row for way in self.facts.ways):
            await self._progress()
        await self._people()
        if self._kafka and self.facts.accepted is not None:
            await self._search()
        await self._archive()
        return self.facts

    # ------------------------------------------------------------------ what is away

    async def _open_kafka(self) -> None:
        await self._of_kafka(None, self._logs.open)

    async def _open_mysql(self) -> None:
        self._offsets = await self._of_mysql({}, self._stored.offsets)

    async def _of_kafka(self, default: T, ask: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not self._kafka:
            return default
        try:
            return await ask(*args)
        except PartAway as error:
            self._kafka = False
            self._errors.append(error)
            self.facts.unknown.append(f"Kafka does not answer ({error.message}): hops are not known, but what MySQL has")
            return default

    async def _of_mysql(self, default: T, ask: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not self.facts.mysql:
            return default
        try:
            return await ask(*args)
        except PartError as error:
            self.facts.mysql = False
            self._errors.append(error)
            self.facts.unknown.append(
                f"MySQL does not answer ({error.message}): what is stored, names, devices and members are not known"
            )
            return default

    @contextmanager
    def _share(self, share: float) -> Iterator[trio.CancelScope]:
        """A part of what is left of the time."""
        now = trio.current_time()
        with trio.move_on_at(now + max(0.0, self._deadline - now) * share) as scope:
            yield scope

    # ------------------------------------------------------------------ which message

    async def _identify(self, asked: Asked) -> None:
        if isinstance(asked, At):
            await self._identify_at(asked)
        elif isinstance(asked, Last):
            self._set(await self._last(asked))
        else:
            self._set(asked)

    def _set(self, message: MessageId) -> None:
        facts = self.facts
        facts.id, facts.sender = message, message.sender
        roles = ("to", "own") if len(message.timelines) == 2 else ("group" if message.group is not None else "self",)
        facts.ways = [Way(timeline, role) for timeline, role in zip(message.timelines, roles, strict=True)]

    async def _identify_at(self, asked: At) -> None:
        row = await self._of_mysql(None, self._stored.row, asked.timeline, asked.pos)
        where = await self._of_kafka(None, self._logs.place, asked.timeline, asked.pos)
        record: Consumed | None = None
        if where is not None:
            record = await self._of_kafka(None, self._logs.at, where, asked.pos)
            if record is not None and record.key != asked.timeline.encode():
                record = None
        if row is None and record is None:
            raise SetupError(
                f"there is no record at {asked.timeline}@{asked.pos}"
                + ("" if self._kafka and self.facts.mysql else ", as far as can be seen: " + "; ".join(self.facts.unknown))
                + (": neither in Kafka's log nor among MySQL's rows (it may be archived)" if self._kafka else "")
            )
        message = row.id() if row is not None else id_of_value(record.value) if record is not None else None
        if message is not None:
            self._set(message)
            return
        self._set_notice(asked, row, record, where)

    def _set_notice(self, asked: At, row: Row | None, record: Consumed | None, where: TopicPartition | None) -> None:
        """A kind without an id: this record alone is traced."""
        way = Way(asked.timeline, "group" if asked.timeline[0] == "g" else "to", row=row.pos if row else None)
        self.facts.ways = [way]
        if row is not None:
            self.facts.kind, self.facts.sender, self.facts.sent_at = row.kind, row.sender, row.sent_at
        if record is not None and where is not None:
            self.facts.kind = dict(record.headers).get(KIND_HEADER, b"text").decode(errors="replace")
            self.facts.sent_at = record.timestamp
            look = Look(self.facts, self._logs.topics, True)
            look.message(where, record)
            self.facts.sender = look.sender(record)

    async def _last(self, asked: Last) -> MessageId:
        sender = await self._user(asked.sender)
        conversation: str | None = None
        if asked.to is not None:
            group = group_number(asked.to)
            conversation = f"g{group}" if group is not None else f"u{await self._user(asked.to)}"
        found = await self._of_mysql(None, self._stored.last, sender, conversation)
        newer = await self._of_kafka(None, self._newest, sender, conversation)
        found = newer or found
        if found is None:
            to = "" if asked.to is None else f" to {asked.to}"
            raise SetupError(f"{asked.sender} has sent no message{to}, as far as can be seen")
        return found

    async def _user(self, who: str) -> int:
        number = user_number(who)
        if number is not None:
            return number
        found = await self._of_mysql(None, self._stored.user, who)
        if found is None and not self.facts.mysql:
            raise SetupError(f"MySQL does not answer, so {who} is not known by name: say id:NUMBER")
        if found is None:
            raise SetupError(f"there is no user {who}; `chat admin users find` lists those whose name begins so")
        return found

    async def _newest(self, sender: int, conversation: str | None) -> MessageId | None:
        """In what persist has not stored yet; all of the log, backwards, where MySQL is away."""
        own = await self._logs.place(f"u{sender}" if conversation is None or conversation[0] == "u" else conversation)
        sign, wanted_in = b'"from":%d,' % sender, [conversation] if conversation else []

        def wanted(where: TopicPartition, record: Consumed) -> bool:
            return sign in record.value

        with self._share(FIND_SHARE):
            if self.facts.mysql:
                # a group's messages lie in its own partition
                everywhere = await self._logs.spans([own.topic], Limits())
                spans = [s._replace(start=max(s.start, self._offsets.get(s.partition, s.start))) for s in everywhere]
                found: list[tuple[TopicPartition, Consumed]] = []
                async for batch in self._logs.read([s for s in spans if s], wanted):
                    found += batch
                return newest(found, sender, wanted_in)
            everywhere = await self._logs.spans([own.topic], Limits())
            async for step in await self._logs.back({s.partition for s in everywhere}, wanted):
                if (message := newest(step, sender, wanted_in)) is not None:
                    return message
        return None

    # ------------------------------------------------------------------ where its records lie

    async def _locate(self) -> None:
        facts, message = self.facts, self.facts.id
        if message is None:
            return
        self._rows = await self._of_mysql({}, self._stored.rows, message)
        for way in facts.ways:
            if (row := self._rows.get(way.timeline)) is not None:
                way.row, facts.sent_at = row.pos, row.sent_at
        if len(self._rows) < len(facts.ways):
            nothing: dict[str, int] = {}
            heads = await self._of_mysql(nothing, self._stored.heads, message)
            for way in facts.ways:
                if way.row is None and heads.get(way.timeline, 0) > message.seq:
                    way.passed = True
        await self._of_kafka(None, self._copies)

    async def _copies(self) -> None:
        """The records themselves: by the rows' positions, else backwards from the end of the log."""
        look = Look(self.facts, self._logs.topics, True)
        for way in self.facts.ways:
            if way.row is not None:
                where = await self._logs.place(way.timeline, way.row)
                record = await self._logs.at(where, way.row)
                if record is not None:
                    look.message(where, record)
        if all(way.pos is None for way in self.facts.ways):
            await self._backwards(look)
        lost = [way for way in self.facts.ways if way.pos is None]
        if lost and self.facts.accepted is not None:
            await self._beside(look, lost)

    async def _beside(self, look: Look, lost: list[Way]) -> None:
        """Both records of a message have the same time: the other one, where one is found."""
        at = self.facts.accepted or 0
        spans: list[Span] = []
        for way in lost:
            where = await self._logs.place(way.timeline)
            spans += await self._logs.spans([where.topic], Limits(since=at, until=at + 1), [where])
        with self._share(FIND_SHARE):
            async for batch in self._logs.read(spans, look.is_message):
                for where, record in batch:
                    look.message(where, record)

    async def _backwards(self, look: Look) -> None:
        await self._dead(look)
        places = {await self._logs.place(way.timeline) for way in self.facts.ways}
        steps = await self._logs.back(places, look.is_message)
        with self._share(FIND_SHARE) as scope:
            async for step in steps:
                if sum(look.message(where, record) for where, record in step):  # all of them
                    break
        if scope.cancelled_caught:
            since = "" if steps.oldest is None else f" before {clock(steps.oldest)}"
            self.facts.unknown.append(f"the log{since} was not searched for it: --seconds gives more time")
        elif steps.whole and steps.trimmed and all(way.pos is None for way in self.facts.ways):
            self.facts.unknown.append("what Kafka's log has let go of since: it is kept for [persist] retain_days")

    async def _progress(self) -> None:
        """Have persist and the routers come past its records?"""
        for way in self.facts.ways:
            if way.pos is None:
                continue
            pos = way.pos
            where = await self._of_kafka(None, self._logs.place, way.timeline, pos)
            if where is None:
                continue
            offset = offset_of(pos)
            if where in self._offsets:
                way.behind = max(0, offset + 1 - self._offsets[where])
                way.passed = not way.behind
            nothing: dict[TopicPartition, int] = {}
            committed = await self._of_kafka(nothing, self._logs.passed, self._group, [where])
            if where in committed:
                way.unrouted = max(0, offset + 1 - committed[where])
                way.routed = not way.unrouted
            elif self._kafka:
                way.routed, way.unrouted = False, offset + 1

    # ------------------------------------------------------------------ who is to get it

    async def _people(self) -> None:
        facts = self.facts
        for way in facts.ways:
            if way.role != "group":
                way.readers = [int(way.timeline[1:])]
            elif way.pos is not None:
                way.readers = await self._of_mysql([], self._stored.members, int(way.timeline[1:]), way.pos)
        users = {user for way in facts.ways for user in way.readers} | ({facts.sender} if facts.sender else set())
        positions = {way.timeline: way.pos for way in facts.ways if way.pos is not None}
        main = facts.ways[0] if facts.ways else None
        conversations: dict[int, str] = {}
        if facts.id is not None and main is not None:
            named = dict.fromkeys(main.readers, f"u{facts.sender}" if main.role == "to" else main.timeline)
            conversations = {user: name for user, name in named.items() if user != facts.sender}
        sent_at = facts.accepted or facts.now
        found = await self._of_mysql(None, self._stored.people, users, positions, conversations, sent_at)
        if found is not None:
            facts.names, facts.devices = dict(found.names), dict(found.devices)
            facts.acks |= found.acks
            facts.read = list(found.read)

    async def _archive(self) -> None:
        facts, message = self.facts, self.facts.id
        for way in facts.ways:
            if way.row is None and way.passed and way.pos is not None and message is not None:
                conversation = conversation_of(way.timeline, message.sender, message.to, message.group)
                args = (way.timeline, conversation, way.pos, facts.accepted or 0)
                way.slices = await self._of_mysql([], self._stored.slices, *args)

    # ------------------------------------------------------------------ the topics

    async def _search(self) -> None:
        look = Look(self.facts, self._logs.topics, self.facts.mysql)
        await self._of_kafka(None, self._earlier, look)
        await self._of_kafka(None, self._dead, look)
        await self._of_kafka(None, self._forward, look)
        await self._sessions(look)

    async def _sessions(self, look: Look) -> None:
        await trio.lowlevel.checkpoint()
        users = {user for way in self.facts.ways for user in way.readers} | {self.facts.sender}
        self.facts.sessions = sessions([event for _, event in sorted(look.events.items())], users)

    async def _earlier(self, look: Look) -> None:
        """Log-ins before the message, newest first, until every device has one."""
        facts, accepted = self.facts, self.facts.accepted or 0
        wanted = {
            (one.user, one.device) for found in (facts.devices or {}).values() for one in found if one.created_at <= accepted
        }
        steps = await self._logs.back(
            {TopicPartition(self._logs.topics.presence, 0)}, lambda where, record: True, accepted - SKEW_MS
        )
        seen: set[tuple[int, str]] = set()
        with self._share(PRESENCE_SHARE) as scope:
            async for step in steps:
                for _, record in step:
                    look.presence(record)
                seen = {(event.user, event.device) for event in look.events.values()}
                if facts.devices is not None and wanted <= seen:
                    break
        if not (facts.devices is not None and wanted <= seen) and (scope.cancelled_caught or steps.trimmed):
            facts.presence_from = steps.oldest if steps.oldest is not None else accepted
            facts.unknown.append(f"log-ins before {clock(facts.presence_from)} were not looked at")

    async def _dead(self, look: Look) -> None:
        spans = await self._logs.spans([self._logs.topics.dead], Limits())
        spans = [s._replace(start=max(s.start, s.end - DEAD_RECORDS)) for s in spans]
        with self._share(FIND_SHARE):
            async for batch in self._logs.read(spans, lambda where, record: True):
                for _, record in batch:
                    look.dead(record)

    async def _forward(self, look: Look) -> None:
        """Every topic from the message's time on, until everyone who was on line has it, or the time is over."""
        spans = await self._forward_spans()
        settled = (self.facts.accepted or 0) + SETTLED_MS
        ends = {span.partition: span.end - 1 for span in spans}
        high = {span.partition: self.facts.accepted or 0 for span in spans}
        count = 0

        def wanted(where: TopicPartition, record: Consumed) -> bool:
            nonlocal count
            look(where, record)
            high[where] = max(high[where], record.timestamp)
            if record.offset >= ends[where]:
                high[where] = OVER
            count += 1
            if count % 500 == 0 and record.timestamp > settled and min(high.values()) > settled and self._all_have(look):
                raise Enough
            return False

        with trio.move_on_at(self._deadline) as scope:
            try:
                async for _ in self._logs.read(spans, wanted):
                    pass
            except Enough:
                return
        if scope.cancelled_caught:
            self.facts.searched_to = min([self.facts.now, *high.values()])
            self.facts.unknown.append(
                f"what the topics say after {clock(self.facts.searched_to)}: --seconds gives more time to read them"
            )

    async def _forward_spans(self) -> list[Span]:
        facts, topics = self.facts, self._logs.topics
        since = (facts.accepted or 0) - SKEW_MS
        users = {user for way in facts.ways for user in way.readers} | {facts.sender}
        receipts = await self._logs.receipts_places(users)
        if not facts.mysql and any(way.role == "group" for way in facts.ways):
            receipts = {s.partition for s in await self._logs.spans([topics.receipts], Limits())}
        spans = await self._logs.spans([topics.receipts], Limits(since=since), receipts)
        spans += await self._logs.spans([topics.presence], Limits(since=since))
        spans += await self._logs.spans(self._logs.edge_topics, Limits(since=since))
        for way in facts.ways:
            where = await self._logs.place(way.timeline, way.pos)
            sure = way.row is not None and way.copies
            found = await self._logs.spans([where.topic], Limits(since=since - (0 if sure else EARLIER_MS)), [where])
            spans += [s for s in found if s.partition not in {one.partition for one in spans}]
        for span in spans:
            if span.first and span.first == span.start and span.partition.topic.startswith(topics.edge_prefix):
                facts.unknown.append(f"{span.partition.topic} may have let go of that time: it keeps an hour")
        return spans

    def _all_have(self, look: Look) -> bool:
        facts = self.facts
        accepted = facts.accepted or 0
        online = sessions([event for _, event in sorted(look.events.items())], {u for w in facts.ways for u in w.readers})
        for way in facts.ways:
            for session in online:
                key = (way.timeline, session.user, session.device)
                if session.user in way.readers and session.open_at(accepted) and key not in facts.acks:
                    return False
        return all(ack.at is not None for ack in facts.acks.values())


@asynccontextmanager
async def open_tracer(config: Config, seconds: float) -> AsyncIterator[Tracer]:
    """Connects when it is used. Needs the bridge."""
    mysql = replace(config.mysql, timeout_ms=min(config.mysql.timeout_ms, AWAY_MS))
    kafka = replace(config.kafka, request_timeout_ms=min(config.kafka.request_timeout_ms, 2 * AWAY_MS))
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(open_log_source(kafka))
        database = await stack.enter_async_context(open_database(mysql))
        yield Tracer(config, Stored(database), Logs(source), seconds)
