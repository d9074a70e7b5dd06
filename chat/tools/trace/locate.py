"""Where the records of a message lie, and whether persist and the routers have come past them."""

from __future__ import annotations

from typing import Final

from chat.positions import offset_of
from chat.records import TopicPartition
from chat.tools.logsource import Limits, Span
from chat.tools.trace.facts import Facts, Way
from chat.tools.trace.logs import part
from chat.tools.trace.look import Look
from chat.tools.trace.sources import FIND_SHARE, Sources
from chat.tools.trace.stored import Row
from chat.tools.trace.words import clock

DEAD_RECORDS: Final = 5_000  # the newest, looked at


class Locate:
    """Fills the facts' ways."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.facts: Facts = sources.facts
        self._rows: dict[str, Row] = {}

    async def locate(self) -> None:
        facts, message = self.facts, self.facts.id
        if message is None:
            return
        self._rows = await self._sources.of_mysql({}, self._sources.stored.rows, message)
        for way in facts.ways:
            if (row := self._rows.get(way.timeline)) is not None:
                way.row, facts.sent_at = row.pos, row.sent_at
        if len(self._rows) < len(facts.ways):
            nothing: dict[str, int] = {}
            heads = await self._sources.of_mysql(nothing, self._sources.stored.heads, message)
            for way in facts.ways:
                if way.row is None and heads.get(way.timeline, 0) > message.seq:
                    way.passed = True
                    if found := await self._sources.of_mysql(None, self._sources.stored.archived, message, way.timeline):
                        way.archived, way.slices, facts.sent_at = found.pos, [found.slice], found.sent_at
        await self._sources.of_kafka(None, self._copies)

    async def _copies(self) -> None:
        """The records themselves: by the rows' positions, else backwards from the end of the log."""
        look = Look(self.facts, self._sources.logs.topics, True)
        for way in self.facts.ways:
            if way.stored_at is not None:
                where = await self._sources.logs.place(way.timeline, way.stored_at)
                record = await self._sources.logs.at(where, way.stored_at)
                if record is not None:
                    look.message(where, record)
        if any(way.stored_at is not None and not way.copies for way in self.facts.ways):
            self.facts.unknown.append("Kafka's log has let go of its record: where it came in, whether it came twice")
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
            where = await self._sources.logs.place(way.timeline)
            spans += await self._sources.logs.spans([where.topic], Limits(since=at, until=at + 1), [where])
        with self._sources.share(FIND_SHARE):
            async for batch in self._sources.logs.read(spans, look.is_message):
                for where, record in batch:
                    look.message(where, record)

    async def _backwards(self, look: Look) -> None:
        await dead(self._sources, look)
        places = {await self._sources.logs.place(way.timeline) for way in self.facts.ways}
        steps = await self._sources.logs.back(places, look.is_message)
        with self._sources.share(FIND_SHARE) as scope:
            async for step in steps:
                if sum(look.message(where, record) for where, record in step):  # all of them
                    break
        if scope.cancelled_caught:
            since = "" if steps.oldest is None else f" before {clock(steps.oldest)}"
            self.facts.unknown.append(f"the log{since} was not searched for it: --seconds gives more time")
        elif steps.whole and steps.trimmed and all(way.pos is None for way in self.facts.ways):
            self.facts.unknown.append("what Kafka's log has let go of since: it is kept for [persist] retain_days")

    async def progress(self) -> None:
        """Have persist and the routers come past its records?"""
        for way in self.facts.ways:
            if way.pos is None:
                continue
            pos = way.pos
            where = await self._sources.of_kafka(None, self._sources.logs.place, way.timeline, pos)
            if where is None:
                continue
            offset = offset_of(pos)
            if where in self._sources.offsets:
                way.behind = max(0, offset + 1 - self._sources.offsets[where])
                way.passed = not way.behind
            nothing: dict[TopicPartition, int] = {}
            committed = await self._sources.of_kafka(nothing, self._sources.logs.passed, self._sources.router_group, [where])
            if where in committed:
                way.unrouted = max(0, offset + 1 - committed[where])
                way.routed = not way.unrouted
            elif self._sources.kafka:
                way.routed, way.unrouted = False, offset + 1


async def dead(sources: Sources, look: Look) -> None:
    """Its record among the dead."""
    spans = await sources.logs.spans([sources.logs.topics.dead], Limits())
    spans = [part(s, start=max(s.start, s.end - DEAD_RECORDS)) for s in spans]
    with sources.share(FIND_SHARE):
        async for batch in sources.logs.read(spans, lambda where, record: True):
            for _, record in batch:
                look.dead(record)
