"""Which message is asked for: an id, out of a position or of who sent it."""

from __future__ import annotations

from chat.errors import SetupError
from chat.message_id import MessageId
from chat.records import KIND_HEADER, Consumed, TopicPartition
from chat.tools.logsource import Limits
from chat.tools.trace.asked import Asked, At, Last, group_number, user_number
from chat.tools.trace.facts import Facts, Way
from chat.tools.trace.logs import part
from chat.tools.trace.look import Look, id_of_value, newest
from chat.tools.trace.sources import FIND_SHARE, Sources
from chat.tools.trace.stored import Row


class Identify:
    """Puts the id, or what it is instead, and the ways into the facts."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.facts: Facts = sources.facts

    async def identify(self, asked: Asked) -> None:
        if isinstance(asked, At):
            await self._identify_at(asked)
        elif isinstance(asked, Last):
            self._found(await self._last(asked))
        else:
            self._found(asked)

    def _found(self, message: MessageId) -> None:
        facts = self.facts
        facts.id, facts.sender = message, message.sender
        roles = ("to", "own") if len(message.timelines) == 2 else ("group" if message.group is not None else "self",)
        facts.ways = [Way(timeline, role) for timeline, role in zip(message.timelines, roles, strict=True)]

    async def _identify_at(self, asked: At) -> None:
        row = await self._sources.of_mysql(None, self._sources.stored.row, asked.timeline, asked.pos)
        where = await self._sources.of_kafka(None, self._sources.logs.place, asked.timeline, asked.pos)
        record: Consumed | None = None
        if where is not None:
            record = await self._sources.of_kafka(None, self._sources.logs.at, where, asked.pos)
            if record is not None and record.key != asked.timeline.encode():
                record = None
        if row is None and record is None:
            missing = "; ".join(self.facts.unknown) or "neither Kafka's log nor a row of MySQL has it (it may be archived)"
            raise SetupError(f"there is no record at {asked.timeline}@{asked.pos}: {missing}")
        message = row.id() if row is not None else id_of_value(record.value) if record is not None else None
        if message is not None:
            self._found(message)
            return
        self._notice(asked, row, record, where)

    def _notice(self, asked: At, row: Row | None, record: Consumed | None, where: TopicPartition | None) -> None:
        """A kind without an id: this record alone is traced."""
        way = Way(asked.timeline, "group" if asked.timeline[0] == "g" else "to", row=row.pos if row else None)
        self.facts.ways = [way]
        if row is not None:
            self.facts.kind, self.facts.sender, self.facts.sent_at = row.kind, row.sender, row.sent_at
        if record is not None and where is not None:
            self.facts.kind = dict(record.headers).get(KIND_HEADER, b"text").decode(errors="replace")
            self.facts.sent_at = record.timestamp
            look = Look(self.facts, self._sources.logs.topics, True)
            look.message(where, record)
            self.facts.sender = look.sender(record)

    async def _last(self, asked: Last) -> MessageId:
        sender = await self._user(asked.sender)
        conversation: str | None = None
        if asked.to is not None:
            group = group_number(asked.to)
            conversation = f"g{group}" if group is not None else f"u{await self._user(asked.to)}"
        found = await self._sources.of_mysql(None, self._sources.stored.last, sender, conversation)
        newer = await self._sources.of_kafka(None, self._newest, sender, conversation)
        found = newer or found
        if found is None:
            to = "" if asked.to is None else f" to {asked.to}"
            raise SetupError(f"{asked.sender} has sent no message{to}, as far as can be seen")
        return found

    async def _user(self, who: str) -> int:
        number = user_number(who)
        if number is not None:
            return number
        found = await self._sources.of_mysql(None, self._sources.stored.user, who)
        if found is None and not self.facts.mysql:
            raise SetupError(f"MySQL cannot be read, so {who} is not known by name: say id:NUMBER")
        if found is None:
            raise SetupError(f"there is no user {who}; `chat admin users find` lists those whose name begins so")
        return found

    async def _newest(self, sender: int, conversation: str | None) -> MessageId | None:
        """In what persist has not stored yet; all of the log, backwards, where MySQL is away."""
        own = await self._sources.logs.place(
            f"u{sender}" if conversation is None or conversation[0] == "u" else conversation
        )
        sign, wanted_in = b'"from":%d,' % sender, [conversation] if conversation else []

        def wanted(where: TopicPartition, record: Consumed) -> bool:
            return sign in record.value

        with self._sources.share(FIND_SHARE):
            if self.facts.mysql:
                # a group's messages lie in its own partition
                everywhere = await self._sources.logs.spans([own.topic], Limits())
                spans = [part(s, start=max(s.start, self._sources.offsets.get(s.partition, 0))) for s in everywhere]
                found: list[tuple[TopicPartition, Consumed]] = []
                async for batch in self._sources.logs.read([s for s in spans if s], wanted):
                    found += batch
                return newest(found, sender, wanted_in)
            everywhere = await self._sources.logs.spans([own.topic], Limits())
            async for step in await self._sources.logs.back({s.partition for s in everywhere}, wanted):
                if (message := newest(step, sender, wanted_in)) is not None:
                    return message
        return None
