"""The handlers of the business part on a real MySQL: the log is a list, and persist's own code applies it when told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import pytest
import trio

from chat import protocol as p
from chat.config import ArchiveConfig, EdgeConfig
from chat.edge.context import Context, Opened
from chat.edge.handlers import HANDLERS
from chat.edge.services import Services, build
from chat.edge.tokens import _REPLACE
from chat.errors import ChatError, Goodbye, PartAway, Unavailable
from chat.persist.batch import build as build_changes
from chat.persist.batch import needs
from chat.persist.parse import Parsed, parse_messages
from chat.persist.store import Store
from chat.ports import Database, Lock, Result, Statement
from chat.positions import position
from chat.protocol import Frame, Message, decode_event
from chat.records import Consumed, PresenceEvent, TimelineRecord, TopicPartition, message_records, partition_of
from tests.fakes.redis import FakeRedis

PARTITIONS = 4
TOPIC = "t.messages"
PASSWORD = "correct horse"


class Log:
    """Kafka's topic and persist. With `persisting` off, records wait for `persist()`."""

    def __init__(self, database: Database) -> None:
        self.store = Store(database)
        self.records: list[list[Consumed]] = [[] for _ in range(PARTITIONS)]
        self.stored = [0] * PARTITIONS
        self.persisting = True
        self.away = False
        self.events: list[PresenceEvent] = []
        self.generation = 0

    def partition(self, timeline: str) -> TopicPartition:
        return TopicPartition(TOPIC, partition_of(timeline, PARTITIONS))

    async def publish(self, records: Sequence[TimelineRecord]) -> list[int]:
        if self.away:
            raise Unavailable("kafka")
        positions = []
        for timeline, record in records:
            part = self.records[self.partition(timeline).partition]
            part.append(Consumed(len(part), record.timestamp, record.key, record.value, record.headers))
            positions.append(position(0, len(part) - 1))
        if self.persisting:
            await self.persist()
        return positions

    async def tell(self, events: Sequence[PresenceEvent]) -> None:
        if self.away:
            raise Unavailable("kafka")
        self.events += events

    async def persist(self) -> None:
        parsed = Parsed([], [], [])
        moves = {}
        for n, part in enumerate(self.records):
            if len(part) > self.stored[n]:
                place = TopicPartition(TOPIC, n)
                parse_messages(parsed, place, 0, part[self.stored[n] :])
                moves[place] = (self.stored[n], len(part))
        if not moves:
            return
        assert not parsed.dead, parsed.dead
        changes = build_changes(parsed, await self.store.load(needs(parsed), {}))
        await self.store.write(changes, moves)
        self.stored = [len(part) for part in self.records]

    # Progress

    async def end(self, timelines: Collection[str]) -> Mapping[str, int]:
        if self.away:
            raise PartAway("kafka", "away")
        return {t: position(0, len(self.records[self.partition(t).partition])) for t in timelines}

    async def caught_up(self, seconds: float) -> bool:
        return self.stored == [len(part) for part in self.records]

    async def reached(self, positions: Mapping[str, int], seconds: float) -> bool:
        return all(position(0, self.stored[self.partition(t).partition]) >= pos for t, pos in positions.items())


class Session:
    """context.Session."""

    def __init__(self) -> None:
        self.user = 0
        self.name = self.device = self.session = ""
        self.address = "192.0.2.1"
        self.token_hash = b""
        self.sent: list[Any] = []
        self.closed: Goodbye | None = None
        self.receipts: list[tuple[int, int, int, int]] = []

    def send(self, frame: Frame | bytes) -> None:
        self.sent.append(frame)

    def close(self, code: Goodbye, reason: str, retry_after_ms: int | None = None) -> None:
        self.closed = code

    def note_receipts(self, timeline: str, entries: Sequence[tuple[int, int, int, int]]) -> None:
        self.receipts += entries


class Hub:
    """context.Hub."""

    def __init__(self) -> None:
        self.sessions: dict[int, list[Session]] = {}
        self.groups: dict[int, set[int]] = {}
        self.blocked: dict[int, frozenset[int]] = {}
        self.joins: list[tuple[int, int, bool]] = []

    async def open(self, session: Session, opened: Opened) -> None:
        session.user, session.name, session.device = opened.user, opened.name, opened.device
        session.session, session.token_hash = opened.session, opened.token_hash
        self.sessions.setdefault(opened.user, []).append(session)
        self.groups.setdefault(opened.user, set()).update(opened.groups)
        self.blocked[opened.user] = opened.blocked_by

    def changes_of(self, user: int) -> int:
        return 0

    def groups_of(self, user: int) -> frozenset[int]:
        return frozenset(self.groups.get(user, ()))

    async def join(self, user: int, group: int, *, tell: bool = True) -> None:
        self.joins.append((user, group, tell))
        self.groups.setdefault(user, set()).add(group)

    async def leave(self, user: int, group: int) -> None:
        self.groups.get(user, set()).discard(group)

    def sessions_of(self, user: int) -> Collection[Session]:
        return tuple(self.sessions.get(user, ()))

    def blocked_by(self, user: int) -> frozenset[int]:
        return self.blocked.get(user, frozenset())

    async def heeded(self, event: PresenceEvent, since: float) -> None:
        before, by = self.blocked_by(event.user), event.by
        self.blocked[event.user] = before | {by} if event.event == "blocked" else before - {by}


class Clock:
    """Moves by 1 ms with each record."""

    def __init__(self) -> None:
        self.time = 1_700_000_000_000

    def now(self) -> int:
        return self.time

    def sent_at(self, user: int, seen: int | None = None) -> int:
        self.time += 1
        return self.time


class Switch:
    """A Database that can be away, and counts what it was asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.away = False
        self.calls = 0
        self.statements: list[Statement] = []

    def _count(self, statements: Sequence[Statement]) -> None:
        if self.away:
            raise PartAway("mysql", "away")
        self.calls += 1
        self.statements += statements

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        self._count(statements)
        return await self._database.read(statements)

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        self._count(statements)
        return await self._database.snapshot(statements)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        self._count(statements)
        return await self._database.write(statements)

    async def script(self, sql: Sequence[str]) -> None:
        await self._database.script(sql)

    def lock(self, name: str) -> Lock:
        return self._database.lock(name)


def replace_entry(redis: FakeRedis, keys: list[bytes], args: list[bytes]) -> int:
    """What tokens' script does."""
    if redis.data.get(keys[0]) == args[0]:
        redis.execute("SET", keys[0], args[1], "PX", args[2])
    return 0


class World:
    def __init__(
        self, database: Database, config: EdgeConfig, memory: FakeRedis, archive: ArchiveConfig | None = None
    ) -> None:
        self.real = database
        self.database = Switch(database)
        self.memory = memory
        self.log = Log(database)
        self.hub = Hub()
        self.clock = Clock()
        self.config = config
        self.services: Services = build(
            config,
            prefix="t:",
            database=self.database,
            memory=memory,
            hub=self.hub,  # type: ignore[arg-type]
            publisher=self.log,
            clock=self.clock,
            archive=archive or ArchiveConfig(),
        )
        self.services.logins.progress = self.log
        fields: dict[str, Any] = {
            "config": config, "hub": self.hub, "publisher": self.log, "clock": self.clock, "progress": self.log,
            "database": self.database, "memory": memory, "log": None, "services": self.services, "intake": None,
        }  # fmt: skip
        self.context = Context(**fields)
        self.seqs: dict[tuple[int, str, int], int] = {}

    async def set_up(self) -> None:
        await self.real.write(
            [
                Statement(
                    "INSERT INTO offsets (topic, topic_partition, topic_id, generation, next_offset)"
                    " VALUES (%s, %s, 'x', 0, 0)",
                    (TOPIC, n),
                )
                for n in range(PARTITIONS)
            ]
        )
        self.memory.scripts[_REPLACE] = replace_entry

    async def sql(self, text: str, *args: Any) -> list[tuple[Any, ...]]:
        (result,) = await self.real.read([Statement(text, args)])
        return list(result.rows)

    async def ask(self, session: Session, request: p.Request) -> Any:
        """The answer as a client reads it; None where there is none. Raises ChatError, PartError."""
        found = HANDLERS[type(request)].run(self.context, session, request)
        assert isinstance(found, Awaitable)
        reply = await found
        if reply is None:
            return None
        assert isinstance(reply, Frame)
        body = p.encode(msgspec.structs.replace(reply, rid=request.rid or 7))
        assert len(body) <= p.MAX_FRAME_FROM_EDGE
        return decode_event(body)

    # ------------------------------------------------------------------ people

    async def user(self, name: str) -> int:
        """A user without a session, with a password that nobody knows."""
        (result,) = await self.real.write(
            [Statement("INSERT INTO users (name, password, created_at) VALUES (%s, 'x', 0)", (name,))]
        )
        return result.last_id

    async def online(self, name: str) -> Session:
        """A user with a session that did not log in."""
        session = Session()
        session.user, session.name, session.device = await self.user(name), name, "device-1"
        session.session = f"session-of-{name}"
        self.hub.sessions.setdefault(session.user, []).append(session)
        return session

    async def login(self, name: str, device: str = "device-1") -> tuple[Session, p.LoggedIn]:
        session = Session()
        reply = await self.ask(session, p.Login(name=name, password=PASSWORD, device=device))
        assert isinstance(reply, p.LoggedIn)
        return session, reply

    # ------------------------------------------------------------------ messages

    async def send(
        self, sender: int, *, to: int | None = None, group: int | None = None, text: str = "hi", stream: int = 1,
        receipt: bool = False, count: int = 1, sent_at: int | None = None,
    ) -> list[int]:  # fmt: skip
        """Into the log as sends do; positions in the recipient's or group's timeline."""
        timelines = [f"g{group}"] if group else list(dict.fromkeys([f"u{to}", f"u{sender}"]))
        records: list[TimelineRecord] = []
        for _ in range(count):
            key = sender, timelines[0], stream
            seq = self.seqs[key] = self.seqs.get(key, -1) + 1
            message = Message(
                sender=sender, to=to, group=group, stream=stream, seq=seq, kind="text", text=text,
                sent_at=sent_at or self.clock.sent_at(sender),
            )  # fmt: skip
            records += message_records(message, timelines, receipt=receipt)
        return (await self.log.publish(records))[:: len(timelines)]

    async def sync(self, session: Session, timeline: str, after: int = 0, **more: Any) -> p.Synced:
        reply = await self.ask(session, p.Sync(timeline=timeline, after=after, **more))
        assert isinstance(reply, p.Synced)
        return reply


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    with trio.fail_after(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await trio.sleep(0.01)


async def refused(world: World, session: Session, request: p.Request, code: str) -> ChatError:
    with pytest.raises(ChatError) as caught:
        await world.ask(session, request)
    assert caught.value.code == code
    return caught.value
