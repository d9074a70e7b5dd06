"""One connection: answers, heartbeats, and every way to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from chat import protocol as p
from chat.client import connection as connection_module
from chat.client.connection import Connection, ConnectionLost, Ended, RequestTimeout
from chat.errors import ChatError

Peer = Callable[[trio.SocketStream], Awaitable[None]]
WELCOME = p.Welcome(version=1, edge="e", heartbeat_ms=50, heartbeat_misses=5, max_frame=1_000, server_time=0)


async def give(stream: trio.SocketStream, *frames: p.Frame | bytes) -> None:
    await stream.send_all(b"".join(p.frame(f if isinstance(f, bytes) else p.encode(f)) for f in frames))


@asynccontextmanager
async def connected(
    peer: Peer, welcome: p.Welcome | None = WELCOME, **more
) -> AsyncIterator[tuple[Connection, list[p.Frame]]]:
    """A connection to `peer`, which is called when it is open, and what it took for no answer."""

    opened = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        if welcome:
            await give(stream, welcome)
        await opened.wait()
        await peer(stream)

    events: list[p.Frame] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            connection = await Connection.open(address, events.extend, nursery, **more)
            opened.set()
            yield connection, events
            nursery.cancel_scope.cancel()


async def echo_heartbeats(stream: trio.SocketStream) -> None:
    cutter = p.FrameCutter(p.MAX_FRAME)
    async for data in stream:
        cutter.feed(bytes(data))
        for body in cutter:
            if isinstance(p.decode_request(body), p.Heartbeat):
                await give(stream, p.HeartbeatReply())


async def sleep(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_answers_find_their_requests():
    async def peer(stream: trio.SocketStream) -> None:
        cutter = p.FrameCutter(p.MAX_FRAME)
        requests: list[p.AnyRequest] = []
        while len(requests) < 3:
            cutter.feed(bytes(await stream.receive_some()))
            found = [p.decode_request(body) for body in cutter]
            requests += [r for r in found if not isinstance(r, p.Heartbeat | p.Hello)]
        one, two, three = requests
        error = p.Error(code="not_found", message="no", retriable=False, rid=two.rid)
        await give(stream, p.Ok(rid=three.rid), error, p.Ok(rid=999), p.UserReply(user=7, name="x", rid=one.rid))
        await trio.sleep_forever()

    async with connected(peer) as (connection, events):
        found: list[object] = []
        async with trio.open_nursery() as nursery:

            async def ask(request: p.AnyRequest) -> None:
                try:
                    found.append(await connection.request(request))
                except ChatError as error:
                    found.append(error.code)

            for request in (p.FindUser(name="a"), p.FindUser(name="b"), p.Block(user=1)):
                nursery.start_soon(ask, request)
                await trio.testing.wait_all_tasks_blocked()
        assert {f if isinstance(f, str) else type(f) for f in found} == {"not_found", p.Ok, p.UserReply}
        assert events == []


async def test_heartbeats_keep_a_silent_connection():
    async with connected(echo_heartbeats) as (connection, _):
        with trio.move_on_after(0.6):
            await connection.wait_ended()
        assert connection.ended is None


async def test_silence_ends_it():
    async with connected(sleep) as (connection, _):
        ended = await connection.wait_ended()
        assert ended.code is None
        assert "nothing from the edge" in ended.reason
        with pytest.raises(ConnectionLost):
            await connection.request(p.Friends())
        with pytest.raises(ConnectionLost):
            connection.post(p.Ack(timeline="u1", pos=1))


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "stays_away"),
    [(1000, None, True), (1004, None, True), (2000, None, False), (3001, 1500, False)],
)
async def test_goodbye(code: int, retry_after_ms: int | None, stays_away: bool):
    async def peer(stream: trio.SocketStream) -> None:
        await give(stream, p.GoodbyeFrame(code=code, reason="so", retry_after_ms=retry_after_ms))
        await trio.sleep_forever()

    async with connected(peer) as (connection, _):
        ended = await connection.wait_ended()
        assert ended == Ended(code, "so", (retry_after_ms or 0) / 1000)
        assert ended.stay_away is stays_away


async def test_moved_ends_in_time():
    async def peer(stream: trio.SocketStream) -> None:
        await give(stream, p.Moved(retry_after_ms=100))
        await echo_heartbeats(stream)

    async with connected(peer) as (connection, events):
        ended = await connection.wait_ended()
        assert (ended.code, ended.stay_away) == (2000, False)
        assert isinstance(events[0], p.Moved)


async def test_what_is_not_known_is_passed_over():
    async def peer(stream: trio.SocketStream) -> None:
        await give(stream, b'{"type":"later","x":1}', b'{"type":"resync","new_field":[1]}')
        await echo_heartbeats(stream)

    async with connected(peer) as (connection, events):
        while not events:  # noqa: ASYNC110 - filled by a callback
            await trio.sleep(0.01)
        assert events == [p.Resync()]
        assert connection.ended is None


@pytest.mark.parametrize("garbage", [b"no json", b'{"type":"accepted","stream":"x","seq":1}', b"[]"])
async def test_garbage_ends_it(garbage: bytes):
    async def peer(stream: trio.SocketStream) -> None:
        await give(stream, garbage)
        await trio.sleep_forever()

    async with connected(peer) as (connection, _):
        assert "no frame" in (await connection.wait_ended()).reason


async def test_a_length_above_the_limit_ends_it():
    async def peer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\xff\xff\xff\xff")
        await trio.sleep_forever()

    async with connected(peer) as (connection, _):
        assert "at most" in (await connection.wait_ended()).reason


async def test_a_request_without_an_answer():
    async with connected(echo_heartbeats) as (connection, _):
        with pytest.raises(RequestTimeout):
            await connection.request(p.Friends(), 0.05)
        assert connection.ended is None


async def test_no_welcome(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_module, "OPEN_TIMEOUT", 0.1)
    with pytest.RaisesGroup(ConnectionLost):
        async with connected(sleep, welcome=None):
            pass


async def test_what_is_too_long_is_not_sent():
    async with connected(echo_heartbeats) as (connection, _):
        with pytest.raises(ChatError, match="too_long"):
            connection.post(p.Send(to=1, stream=1, seq=0, text="x" * 2_000))


async def test_an_edge_that_reads_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_module, "MAX_UNSENT", 50_000)
    async with connected(sleep) as (connection, _):
        with pytest.raises(ConnectionLost, match="reads nothing"):  # noqa: PT012 - it is one of many
            for seq in range(1_000_000):
                connection.post(p.Send(to=1, stream=1, seq=seq, text="x" * 500))


async def test_the_gate_holds_the_socket_and_is_no_silence():
    opened = trio.Event()

    async def peer(stream: trio.SocketStream) -> None:
        await give(stream, p.Resync())
        await echo_heartbeats(stream)

    async with connected(peer, gate=opened.wait) as (connection, _):
        with trio.move_on_after(0.5):
            await connection.wait_ended()
        assert connection.ended is None
        opened.set()


async def test_leaving_waits_for_the_edge():
    async def peer(stream: trio.SocketStream) -> None:
        cutter = p.FrameCutter(p.MAX_FRAME)
        async for data in stream:
            cutter.feed(bytes(data))
            if any(isinstance(p.decode_request(body), p.LeaveNow) for body in cutter):
                await give(stream, p.GoodbyeFrame(code=1000, reason="asked for"))

    async with connected(peer) as (connection, _):
        await connection.leave()
        assert connection.ended == Ended(1000, "asked for")
