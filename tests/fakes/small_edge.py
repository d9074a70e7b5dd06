"""An edge without servers: the real parts, from sockets to the publisher, on the fakes of Kafka and Redis, with a handful of
users and a log-in that believes everyone.

    async with small_edge() as small:
        ann = await small.client(1)
        await ann.send("send", to=2, stream=5, seq=0, text="hi")
        await ann.expect("accepted")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec.structs import replace

from chat import protocol as p
from chat.config import Config, EdgeConfig, KafkaConfig
from chat.edge.context import Context, Handler, Opened, Order, Session
from chat.edge.handlers import HANDLERS
from chat.edge.locations import BURY, GIVE_UP, RENEW
from chat.edge.server import Edge, Ports
from chat.errors import PartAway
from chat.ports import Lock, Result, Statement
from chat.records import Delivery, DeliveryBatch, Record, TopicPartition, Topics, pack_deliveries
from tests.fakes.kafka import FakeKafka, FakeLogAdmin, FakeLogReader, FakeProducer
from tests.fakes.redis import FakeRedis
from tests.integration.raw import Raw

USERS = (1, 2, 3, 4)
SETTINGS = EdgeConfig(
    listen="127.0.0.1:0",
    listen_proxy="127.0.0.1:0",
    heartbeat_ms=100,
    lease_ms=400,
    linger_ms=0,
    receipts_ms=20,
    cursors_ms=20,
    drain_s=1.0,
)
TOPICS = Topics("t")


class FewUsers:
    """A Database that knows users, friends, and how far persist is."""

    def __init__(self) -> None:
        self.away = False
        self.users = set(USERS)
        self.friends: set[tuple[int, int]] = set()
        self.members: set[tuple[int, int]] = set()  # group, user
        self.banned: set[int] = set()
        self.blocks: set[tuple[int, int]] = set()  # who blocks, who is blocked
        self.tokens: set[bytes] = set()  # hashes
        self.offsets: list[tuple[int, int, int]] = []
        self.asked: list[Statement] = []

    def _check(self) -> None:
        if self.away:
            raise PartAway("mysql", "away")

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        await trio.lowlevel.checkpoint()
        self._check()
        self.asked += statements
        return [Result(self._rows(s), 0, 0) for s in statements]

    def _rows(self, statement: Statement) -> list[tuple[Any, ...]]:
        sql, args = statement.sql, statement.args
        if "MAX(id)" in sql:
            return [(max(self.users),)]
        if "banned_at IS NULL" in sql:
            return [(u,) for u in args if u in self.users - self.banned]
        if "FROM blocks" in sql:
            return [(other, user) for user, other in self.blocks if other in args]
        if "FROM tokens" in sql:
            return [(token, 0, "", 0) for token in args if token in self.tokens]
        if "FROM users" in sql:
            return [(u,) for u in args if u in self.users]
        if "FROM friends" in sql:
            pairs = zip(args[::2], args[1::2], strict=True)
            return [pair for pair in pairs if pair in self.friends]
        if "SELECT 1 FROM members" in sql:
            return [(1,)] if tuple(args) in self.members else []
        if "from_position FROM members" in sql:
            return [(user, group, 1) for group, user in self.members if user in args]
        if "FROM offsets" in sql:
            return list(self.offsets)
        return []

    snapshot = read

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        await trio.lowlevel.checkpoint()
        self._check()
        return [Result([], 0, 0) for _ in statements]

    def has_all(self) -> None:
        """Persist has stored what is in the log, and what will be."""
        self.offsets = [(n, 0, 1_000_000) for n in range(4)]

    async def script(self, sql: Sequence[str]) -> None:
        raise AssertionError("an edge defines nothing")

    def lock(self, name: str) -> Lock:
        raise AssertionError("an edge locks nothing")


def _renew(redis: FakeRedis, keys: list[bytes], args: list[bytes]) -> int:
    lease, incarnation, ms, take = args
    there = redis.execute("GET", keys[0])
    result = 0
    if there is not None:
        result = 1 if b'"incarnation": %b,' % incarnation in there else -1
        if result < 0 and take != b"take":
            return -1
    redis.execute("SET", keys[0], lease, "PX", ms)
    return max(result, 0)


def _give_up(redis: FakeRedis, keys: list[bytes], args: list[bytes]) -> int:
    there = redis.execute("GET", keys[0])
    return int(redis.execute("DEL", keys[0])) if there and b'"incarnation": %b,' % args[0] in there else 0


def _bury(redis: FakeRedis, keys: list[bytes], args: list[bytes]) -> int:
    session, value, incarnation = args
    lease = redis.execute("GET", keys[1]) or b""
    if redis.execute("HGET", keys[0], session) != value or b'"incarnation": %b,' % incarnation in lease:
        return 0
    return int(redis.execute("HDEL", keys[0], session))


class SmallEdge:
    def __init__(self, settings: Mapping[str, Any], kafka: FakeKafka, redis: FakeRedis) -> None:
        self.kafka, self.redis, self.database = kafka, redis, FewUsers()
        self.groups: dict[int, set[int]] = {}  # user → his groups at log-in
        self.cursors: dict[str, int] = {}
        self.gate: trio.Event | None = None  # a `friends` request waits for it
        self.friends: list[p.Friend] = []  # the answer of `friends`
        self._sessions = 0
        redis.scripts[RENEW] = _renew
        redis.scripts[GIVE_UP] = _give_up
        redis.scripts[BURY] = _bury
        for topic, count in ((TOPICS.messages, 4), (TOPICS.receipts, 4), (TOPICS.presence, 1)):
            if topic not in kafka.topics:
                kafka.create(topic, count)
        partitions = {t: len(logs) for t, logs in kafka.topics.items()}
        config = Config(kafka=KafkaConfig(namespace="t"), edge=replace(SETTINGS, **settings))
        ports = Ports(
            FakeProducer(kafka), FakeLogReader(kafka), FakeLogReader(kafka), FakeLogAdmin(kafka), redis, self.database
        )
        handlers = self.handlers = dict(HANDLERS)
        handlers[p.Resume] = Handler(self._resume, Order.OPENING, before_login=True)
        handlers[p.Friends] = Handler(self._slow, Order.READ)
        handlers[p.Block] = Handler(self._change, Order.CHANGE)
        self.edge = Edge(config, ports, messages=TOPICS.messages, generation=0, partitions=partitions, handlers=handlers)
        self.stop = trio.Event()
        self.changes: list[int] = []
        self.clients: list[Raw] = []

    # ------------------------------------------------------------------ handlers of the test

    async def _resume(self, context: Context, session: Session, request: p.Resume) -> p.LoggedIn:
        user = int(request.token)
        self._sessions += 1
        groups = frozenset(self.groups.get(user, ()))
        name = f"s{self._sessions}"
        opened = Opened(user, f"user{user}", request.device, name, b"", groups, frozenset(), self.cursors)
        await context.hub.open(session, opened)
        return p.LoggedIn(
            user=user, name=opened.name, device=opened.device, session=opened.session, token=request.token,
            token_expires_at=0, new_device=False, cursors={}, groups=[],
        )  # fmt: skip

    async def _slow(self, context: Context, session: Session, request: p.Friends) -> p.FriendsReply:
        if self.gate is not None:
            await self.gate.wait()
        return p.FriendsReply(friends=self.friends)

    async def _change(self, context: Context, session: Session, request: p.Block) -> p.Ok:
        if self.gate is not None:
            await self.gate.wait()
        self.changes.append(request.user)
        return p.Ok()

    # ------------------------------------------------------------------ for tests

    async def connect(self, *, proxied: bool = False) -> Raw:
        raw = Raw(await trio.open_tcp_stream("127.0.0.1", self.edge.ports[proxied]))
        self.clients.append(raw)
        return raw

    async def client(self, user: int, device: str = "device-1") -> Raw:
        """A connection on which `user` is logged in."""
        raw = await self.connect()
        await raw.greet()
        raw.logged_in = await raw.done("resume", token=str(user), device=device)
        raw.user = user
        return raw

    def deliver(self, *deliveries: Delivery, incarnation: int | None = -1) -> None:
        """As a router does; -1: for this run of the edge."""
        meant = self.edge.incarnation if incarnation == -1 else incarnation
        value = pack_deliveries(DeliveryBatch(meant, deliveries))
        topic = TOPICS.edge(self.edge.config.edge.name)
        self.kafka.log(TopicPartition(topic, 0)).append([Record(None, value, 0)])
        self.kafka.tell()

    def log(self, timeline: str) -> list[p.Message]:
        """What lies in a timeline."""
        place = self.edge.publisher.partition(timeline)
        return [p.decode_message(r.value) for r in self.kafka.log(place).records if r.key == timeline.encode()]


def text(
    pos: int,
    sender: int,
    *,
    to: int | None = None,
    group: int | None = None,
    owner: int | None = None,
    receipt: bool = False,
    sent_at: int = 1,
) -> Delivery:
    """The delivery of a text, in the timeline of `owner` (else of whom it is for)."""
    message = p.Message(
        sender=sender, to=to, group=group, sent_at=sent_at, kind="text", stream=1, seq=pos, text="hi", prev=pos - 1, pos=pos
    )
    timeline = f"g{group}" if group is not None else f"u{owner or to}"
    return Delivery(timeline, pos, sent_at, None, receipt, p.encode(message))


async def until(seconds: float, true: Any) -> None:
    """Wait for a condition."""
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.005)


@asynccontextmanager
async def small_edge(
    kafka: FakeKafka | None = None, redis: FakeRedis | None = None, **settings: Any
) -> AsyncIterator[SmallEdge]:
    small = SmallEdge(settings, kafka or FakeKafka(), redis or FakeRedis())
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(small.edge.run, small.stop, ready.set)
        with trio.fail_after(10):
            await ready.wait()
        try:
            yield small
        finally:
            for raw in small.clients:
                await trio.aclose_forcefully(raw.stream)
        nursery.cancel_scope.cancel()
