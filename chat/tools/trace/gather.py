"""The facts of one message, from MySQL and Kafka, within a limit of time. What is away, or was not read to its end, is told
in `Facts.unknown`; only where neither answers, PartAway is raised.

    what is asked ──> an id ──> where its records lie ──> who was on line ──> every topic from its time on
    MySQL: names,     its rows, else the log backwards    presence back       copies, deliveries, receipts, dead
"""

from __future__ import annotations

import time
from typing import Final

import trio

from chat.config import Config
from chat.records import Consumed, TopicPartition, conversation_of
from chat.tools.logsource import Limits, Span
from chat.tools.trace.asked import Asked
from chat.tools.trace.facts import Facts
from chat.tools.trace.identify import Identify
from chat.tools.trace.locate import Locate, dead
from chat.tools.trace.logs import SKEW_MS
from chat.tools.trace.look import Look
from chat.tools.trace.sessions import sessions
from chat.tools.trace.sources import Sources, open_sources
from chat.tools.trace.words import clock

#: Read on so long after the message when all who were on line have it: for repetitions.
SETTLED_MS: Final = 10_000
#: Where only a later copy of a message may have been found: its first one is looked for so far before it.
EARLIER_MS: Final = 60_000
#: Of what is left of the time: to find earlier log-ins.
PRESENCE_SHARE: Final = 0.35
#: Later than any time: a partition that was read to its end.
OVER: Final = 1 << 62


class Enough(Exception):
    """Everything that can be expected was found."""


async def find_out(config: Config, asked: Asked, seconds: float) -> Facts:
    """`seconds`: the topics are read for so long. Raises PartAway where nothing answers, SetupError where what is asked for
    does not exist. Needs the bridge. Cancelling it leaves nothing behind."""
    facts = Facts(now=int(time.time() * 1000))
    async with open_sources(config, facts, seconds) as sources:
        await sources.open()
        await Identify(sources).identify(asked)
        locate = Locate(sources)
        await locate.locate()
        await locate.progress()
        gather = Gather(sources)
        await gather.people()
        if facts.accepted is not None:
            await gather.search()
        await gather.archive()
    return facts


class Gather:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.facts: Facts = sources.facts

    async def people(self) -> None:
        facts = self.facts
        for way in facts.ways:
            if way.role != "group":
                way.readers = [int(way.timeline[1:])]
            elif way.pos is not None:
                way.readers = await self._sources.of_mysql([], self._sources.stored.members, int(way.timeline[1:]), way.pos)
        users = {user for way in facts.ways for user in way.readers} | ({facts.sender} if facts.sender else set())
        positions = {way.timeline: way.pos for way in facts.ways if way.pos is not None}
        main = facts.ways[0] if facts.ways else None
        conversations: dict[int, str] = {}
        if facts.id is not None and main is not None:
            named = dict.fromkeys(main.readers, f"u{facts.sender}" if main.role == "to" else main.timeline)
            conversations = {user: name for user, name in named.items() if user != facts.sender}
        sent_at = facts.accepted or facts.now
        found = await self._sources.of_mysql(None, self._sources.stored.people, users, positions, conversations, sent_at)
        if found is not None:
            facts.names, facts.devices = dict(found.names), dict(found.devices)
            facts.acks |= found.acks
            facts.read = list(found.read)

    async def archive(self) -> None:
        facts, message = self.facts, self.facts.id
        for way in facts.ways:
            if not way.stored and way.passed and way.pos is not None and message is not None:
                conversation = conversation_of(way.timeline, message.sender, message.to, message.group)
                args = (way.timeline, conversation, way.pos, facts.accepted or 0)
                way.slices = await self._sources.of_mysql([], self._sources.stored.slices, *args)

    # ------------------------------------------------------------------ the topics

    async def search(self) -> None:
        look = Look(self.facts, self._sources.logs.topics, self.facts.mysql)
        await self._sources.of_kafka(None, self._earlier, look)
        await self._sources.of_kafka(None, dead, self._sources, look)
        await self._sources.of_kafka(None, self._forward, look)
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
        steps = await self._sources.logs.back(
            {TopicPartition(self._sources.logs.topics.presence, 0)}, lambda where, record: True, accepted - SKEW_MS
        )
        seen: set[tuple[int, str]] = set()
        with self._sources.share(PRESENCE_SHARE) as scope:
            async for step in steps:
                for _, record in step:
                    look.presence(record)
                seen = {(event.user, event.device) for event in look.events.values()}
                if facts.devices is not None and wanted <= seen:
                    break
        if not (facts.devices is not None and wanted <= seen) and (scope.cancelled_caught or steps.trimmed):
            facts.presence_from = steps.oldest if steps.oldest is not None else accepted
            facts.unknown.append(f"log-ins before {clock(facts.presence_from)} were not looked at")

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
            if count % 2_000 == 0 and record.timestamp > settled and min(high.values()) > settled and self._all_have(look):
                raise Enough
            return False

        with trio.move_on_at(self._sources.deadline) as scope:
            try:
                async for _ in self._sources.logs.read(spans, wanted):
                    pass
            except Enough:
                return
        if scope.cancelled_caught:
            self.facts.searched_to = min([self.facts.now, *high.values()])
            self.facts.unknown.append(
                f"what the topics say after {clock(self.facts.searched_to)}: --seconds gives more time to read them"
            )

    async def _forward_spans(self) -> list[Span]:
        facts, topics = self.facts, self._sources.logs.topics
        since = (facts.accepted or 0) - SKEW_MS
        users = {user for way in facts.ways for user in way.readers} | {facts.sender}
        receipts = await self._sources.logs.receipts_places(users)
        if not facts.mysql and any(way.role == "group" for way in facts.ways):
            receipts = {s.partition for s in await self._sources.logs.spans([topics.receipts], Limits())}
        spans = await self._sources.logs.spans([topics.receipts], Limits(since=since), receipts)
        spans += await self._sources.logs.spans([topics.presence], Limits(since=since))
        spans += await self._sources.logs.spans(self._sources.logs.edge_topics, Limits(since=since))
        for way in facts.ways:
            where = await self._sources.logs.place(way.timeline, way.pos)
            sure = way.stored and way.copies
            found = await self._sources.logs.spans([where.topic], Limits(since=since - (0 if sure else EARLIER_MS)), [where])
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
