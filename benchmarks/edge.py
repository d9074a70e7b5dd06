"""Frames in: cut, decoded, dispatched, checked, numbered, encoded for the log, queued. Frames out: a batch of the edge's
topic unpacked, given to sessions, written to sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import trio

from benchmarks.data import NOW, TEXT, value
from benchmarks.measure import Case, Job
from chat.edge.connection import Connection
from chat.protocol import frame
from chat.records import Delivery, DeliveryBatch, pack_deliveries, splice, unpack_deliveries
from tests.fakes.small_edge import TOPICS, SmallEdge, small_edge
from tests.integration.raw import Raw

_SENDS: Final = 2_000
_DELIVERIES: Final = 800  # of all users together: what their sockets' buffers hold
_GROUP: Final = 200
_USERS: Final = (1, 2, 3, 4)
_NO_LIMIT: Final[dict[str, Any]] = {
    "heartbeat_ms": 600_000, "messages_per_second": 1e9, "messages_burst": 1_000_000_000, "linger_ms": 3.0,
    "lease_ms": 600_000,
}  # fmt: skip


@asynccontextmanager
async def _frames_in() -> AsyncIterator[Job]:
    async with small_edge(**_NO_LIMIT) as small:
        conns = [await _connection(small, user) for user in _USERS]
        for conn in conns:
            await small.edge.directory.find(conn.user)
        dispatch, rounds, settled = small.edge.dispatch, count(), count(1)
        waiting: list[tuple[Connection, bytes]] = []

        def prepare() -> None:
            first = next(rounds) * _SENDS // len(conns)
            for number in range(_SENDS):
                conn = conns[number % len(conns)]
                seq = first + number // len(conns)
                body = b'{"type":"send","to":%d,"stream":5,"seq":%d,"text":"%b"}' % (
                    _USERS[(number + 1) % len(_USERS)], seq, TEXT.encode(),
                )  # fmt: skip
                waiting.append((conn, frame(body)))

        async def run() -> None:
            for conn, data in waiting:
                conn.cutter.feed(data)
                for body in conn.cutter:
                    dispatch.frame(conn, body)

        async def settle() -> None:
            await small.edge.publisher.drained()
            logs = small.kafka.topics[TOPICS.messages]
            stored = sum(len(log.records) for log in logs)
            if stored != 2 * next(settled) * _SENDS:
                raise AssertionError(f"{stored} records are in the log: sends were refused")
            waiting.clear()
            prepare()
            for raw in small.clients:
                await _drain(raw)

        prepare()
        yield Job(_SENDS, run, settle)


def _direct() -> list[Delivery]:
    payloads = [(number % 4 + 1, splice(value(9, number % 4 + 1, number), None, number)) for number in range(_DELIVERIES)]
    return [Delivery(f"u{user}", at, NOW, None, False, payload) for at, (user, payload) in enumerate(payloads)]


def _group() -> list[Delivery]:
    """Each to all four users."""
    payload = splice(value(9, 7, 1), None, 1)
    return [Delivery("g7", at, NOW, None, False, payload) for at in range(_GROUP)]


@asynccontextmanager
async def _frames_out(deliveries: list[Delivery]) -> AsyncIterator[Job]:
    async with small_edge(**_NO_LIMIT) as small:
        small.groups = {user: {7} for user in _USERS}
        for user in _USERS:
            await _connection(small, user)
        edge = small.edge
        packed = [
            pack_deliveries(DeliveryBatch(edge.incarnation, deliveries[at : at + 50]))
            for at in range(0, len(deliveries), 50)
        ]

        async def run() -> None:
            for batch in packed:
                edge.reactor.hold()
                for delivery in unpack_deliveries(batch).deliveries:
                    edge.deliveries.deliver(delivery)
                edge.reactor.release()

        async def settle() -> None:
            for raw in small.clients:
                await _drain(raw)

        yield Job(_DELIVERIES, run, settle)


async def _connection(small: SmallEdge, user: int) -> Connection:
    """The edge's side of a client that is logged in."""
    await small.client(user)
    (conn,) = [conn for conn in small.edge.reactor.connections.values() if conn.user == user]
    return conn


async def _drain(raw: Raw) -> None:
    """Read what has come, until nothing comes for a moment."""
    with trio.move_on_after(0.02) as patience:
        while await raw.stream.receive_some(1 << 18):
            patience.deadline = trio.current_time() + 0.02


CASES: Final = (
    Case("frames-in", "send: cut, decode, dispatch, intake, queued for the log", _frames_in),
    Case("frames-out", "direct deliveries: unpacked, to sessions, written", lambda: _frames_out(_direct())),
    Case(
        "frames-out-group", "the same, a group's delivery going to four sessions; a delivery", lambda: _frames_out(_group())
    ),
)
