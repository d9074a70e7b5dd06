"""From the socket to the handler: framing, limits, order, heartbeats, back-pressure, closing."""

import json
import struct

import pytest
import trio

from chat import protocol as p
from chat.edge.connection import HELD, OPEN
from chat.edge.context import Handler, Order
from chat.edge.handlers import HANDLERS
from chat.errors import ChatError
from tests.fakes.small_edge import small_edge, text, until
from tests.integration.raw import Raw, encoded


def test_every_request_has_a_handler() -> None:
    assert set(HANDLERS) == set(p.AnyRequest.__args__)


async def test_hello_comes_first_and_once() -> None:
    async with small_edge() as small:
        raw = await small.connect()
        await raw.refused("bad_request", "heartbeat")
        welcome = await raw.greet()
        assert (welcome["edge"], welcome["heartbeat_ms"]) == ("edge-1", 100)
        await raw.refused("bad_request", "hello", version=1, client="x")
        await raw.refused("not_logged_in", "friends")
        await raw.done("resume", token="1", device="device-1")
        await raw.refused("bad_request", "resume", token="1", device="device-1")
        await raw.alive()


async def test_frames_may_come_in_any_pieces() -> None:
    async with small_edge() as small:
        raw = await small.connect()
        data = encoded({"type": "hello", "version": 1, "client": "x"}) + encoded({"type": "heartbeat"}) * 3
        for i in range(0, len(data), 7):
            await raw.send_bytes(data[i : i + 7])
            await trio.lowlevel.checkpoint()
        await raw.expect("welcome")
        for _ in range(3):
            await raw.expect("heartbeat")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (struct.pack(">I", 4_097), "too_long"),
        (struct.pack(">I", 3) + b"\xff{}", "bad_frame"),
        (struct.pack(">I", 2) + b"[]", "bad_frame"),
        (encoded({"type": "hello", "version": 9, "client": "x"}), "bad_version"),
    ],
)
async def test_a_connection_that_cannot_go_on(data: bytes, code: str) -> None:
    async with small_edge() as small:
        raw = await small.connect()
        await raw.send_bytes(data)
        await raw.expect("error", code=code)
        await raw.goodbye(1004)


async def test_eight_bad_requests_before_login_close() -> None:
    async with small_edge() as small:
        raw = await small.connect()
        for _ in range(8):
            await raw.send("nonsense")
        for _ in range(8):
            await raw.expect("error", code="bad_request")
        await raw.goodbye(1004)


async def test_without_login_in_time_it_ends() -> None:
    async with small_edge(login_deadline_ms=200) as small:
        raw = await small.connect()
        await raw.greet()
        await raw.send_bytes(b"\x00\x00")  # a partial frame keeps nothing alive
        await raw.goodbye(1004)


async def test_a_silent_client_is_dropped_and_a_partial_frame_is_silence() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        for _ in range(3):
            await raw.send("heartbeat")
            await raw.expect("heartbeat")
        await raw.send_bytes(b"\x00\x00\x00\x20{")
        await raw.goodbye(2002)
        await until(2, lambda: not small.edge.hub.users)


async def test_goodbye_is_answered_and_closed() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        await raw.send("goodbye")
        await raw.goodbye(1000)


async def test_what_comes_behind_a_change_waits_but_heartbeats_do_not() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        small.gate = trio.Event()
        await raw.send("block", user=7, rid=1)
        await raw.send("block", user=8, rid=2)
        await raw.send("send", to=2, stream=5, seq=0, text="after")
        await raw.send("heartbeat")
        await raw.expect("heartbeat")
        assert small.log("u2") == []
        assert small.changes == []
        small.gate.set()
        await raw.expect("accepted", seq=0)
        assert small.changes == [7, 8]


async def test_reads_run_side_by_side_up_to_a_bound() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        small.gate = trio.Event()
        for rid in range(20):
            await raw.send("friends", rid=rid)
        await until(2, lambda: small.edge.dispatch.tasks == 8)
        small.gate.set()
        assert {(await raw.expect("friends"))["rid"] for _ in range(20)} == set(range(20))
        await raw.alive()


async def test_a_full_queue_stops_the_reading_and_loses_nothing() -> None:
    async with small_edge(heartbeat_ms=50, requests_burst=5_000) as small:
        raw = await small.client(1)
        small.gate = trio.Event()
        count = 3_000
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for user in range(1, count + 1):
                    await raw.send("block", user=user, rid=user)

            nursery.start_soon(send_all)
            conn = next(iter(small.edge.reactor.connections.values()))
            await until(2, lambda: conn.paused)
            for _ in range(12):  # more than may be missed: it is the edge that does not read, so it says that it lives
                await raw.expect("heartbeat")
            small.gate.set()
        for rid in range(1, count + 1):
            await raw.expect("ok", rid=rid)
        assert small.changes == list(range(1, count + 1))


async def test_a_slow_reader_is_closed_with_a_code_behind_a_whole_frame() -> None:
    async with small_edge(outbox_bytes=1 << 20, heartbeat_ms=60_000) as small:
        raw = await small.client(1)
        big = text(1, 2, to=1)
        big = big._replace(payload=json.dumps({"type": "message", "text": "x" * 50_000}).encode())
        conn = next(iter(small.edge.reactor.connections.values()))

        def filled() -> bool:
            small.deliver(*[big] * 20)
            return conn.state != OPEN

        await until(10, filled)
        await raw.goodbye(2003)


async def test_a_proxied_connection_has_its_clients_address() -> None:
    async with small_edge(connections_per_address=2) as small:
        kept: list[Raw] = []
        for _ in range(2):
            raw = await small.connect(proxied=True)
            await raw.send_bytes(
                b"PROXY TCP4 10.9.9.9 10.0.0.1 4000 7200\r\n" + encoded({"type": "hello", "version": 1, "client": "x"})
            )
            await raw.expect("welcome")
            kept.append(raw)
        third = await small.connect(proxied=True)
        await third.send_bytes(b"PROXY TCP4 10.9.9.9 10.0.0.1 4000 7200\r\n")
        bye = await third.goodbye(3000)
        assert bye["retry_after_ms"] > 0
        await kept[0].stream.aclose()
        await until(2, lambda: small.edge.reactor._addresses["10.9.9.9"] == 1)
        other = await small.connect(proxied=True)
        await other.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        await other.closed()


async def test_more_connections_than_the_edge_may_have_are_turned_away() -> None:
    async with small_edge(max_connections=1) as small:
        raw = await small.connect()
        await raw.greet()
        await (await small.connect()).goodbye(3000)


async def test_draining() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        await raw.send("send", to=2, stream=5, seq=0, text="hi")
        small.stop.set()
        moved = await raw.expect("moved")
        assert 0 <= moved["retry_after_ms"] <= 500
        await raw.goodbye(2000)
        assert any(f["type"] == "accepted" for f in raw.inbox)
        with pytest.raises(OSError, match="connect"):
            await small.connect()
        await raw.stream.aclose()
        await until(3, lambda: b"edge:edge-1" not in small.redis.data)
        assert not [key for key in small.redis.data if key.startswith((b"loc:", b"group:"))]


async def test_what_came_before_the_end_still_has_its_answer() -> None:
    for last, code in (
        (struct.pack(">I", 1 << 30), 1004),
        (encoded({"type": "goodbye"}), 1000),
        (b"\x00\x00\x00\x01x", 1004),
    ):
        async with small_edge() as small:
            raw = await small.client(1)
            small.gate = trio.Event()
            frames = [
                {"type": "friends", "rid": 1},
                {"type": "block", "user": 7, "rid": 2},
                {"type": "send", "to": 2, "stream": 1, "seq": 0, "text": "x"},
            ]
            await raw.send_bytes(b"".join(map(encoded, frames)) + last)
            await until(2, lambda: small.edge.dispatch.tasks == 2)
            small.gate.set()
            await raw.expect("friends", rid=1)
            await raw.expect("ok", rid=2)
            await raw.expect("accepted", seq=0)
            await raw.goodbye(code)


async def test_answers_that_fill_the_outbox_stop_the_reading_for_a_while_only() -> None:
    async with small_edge(requests_burst=5_000, heartbeat_ms=60_000) as small:
        raw = await small.client(1)
        small.friends = [p.Friend(n, "x" * 100, "friend") for n in range(500)]
        count = 200
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for rid in range(count):
                    await raw.send("friends", rid=rid)

            nursery.start_soon(send_all)
            conn = next(iter(small.edge.reactor.connections.values()))
            await until(5, lambda: conn.paused)
            for _ in range(count):
                await raw.expect("friends")
        await raw.alive()
        assert not conn.paused


async def test_a_fault_of_ours_ends_one_connection_and_not_the_edge() -> None:
    async with small_edge() as small:
        raw, other = await small.client(1), await small.client(2)

        def fail(*_: object) -> None:
            raise KeyError("a fault")

        small.edge.clock.sent_at = fail  # type: ignore[assignment,method-assign]
        await raw.send("send", to=1, stream=5, seq=0, text="x")
        await raw.goodbye(2001)
        await other.alive()


async def test_more_than_run_at_a_time_before_a_frame_too_long_have_their_answers() -> None:
    async with small_edge() as small:
        raw = await small.client(1)
        small.gate = trio.Event()
        frames = [{"type": "friends", "rid": rid} for rid in range(20)]
        await raw.send_bytes(b"".join(map(encoded, frames)) + struct.pack(">I", 1 << 30))
        await until(2, lambda: small.edge.dispatch.tasks == 8)
        small.gate.set()
        assert {(await raw.expect("friends"))["rid"] for _ in range(20)} == set(range(20))
        await raw.expect("error", code="too_long")
        await raw.goodbye(1004)


async def test_log_ins_do_not_wait_behind_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.edge.dispatch.TASKS", 2)
    async with small_edge(heartbeat_ms=1_000) as small:
        raw = await small.client(1)
        small.gate = trio.Event()
        for rid in range(4):
            await raw.send("friends", rid=rid)
        await until(2, lambda: small.edge.dispatch.tasks == 2)
        with trio.fail_after(5):
            await small.client(2)
        small.gate.set()
        for rid in range(4):
            await raw.expect("friends", rid=rid)


async def test_those_who_left_do_not_keep_others_waiting_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.edge.dispatch.TASKS", 1)
    async with small_edge(heartbeat_ms=60_000) as small:
        first, *leaving, last = [await small.client(1, f"device-{n}") for n in range(12)]
        small.gate = trio.Event()
        for raw in (first, *leaving, last):
            await raw.send("friends", rid=1)
            await raw.send("heartbeat")
            await raw.expect("heartbeat")
        for raw in leaving:
            await raw.stream.aclose()
        await until(2, lambda: len(small.edge.hub.all_sessions()) == 2)
        small.gate.set()
        await first.expect("friends")
        await last.expect("friends", seconds=3)


async def test_one_who_waits_for_a_place_pays_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.edge.dispatch.TASKS", 1)
    async with small_edge(requests_burst=9, requests_per_second=0.001, heartbeat_ms=50, heartbeat_misses=100) as small:
        first, second = await small.client(1), await small.client(2)
        small.gate = trio.Event()
        await first.send("friends", rid=1)
        await until(2, lambda: small.edge.dispatch.tasks == 1)
        conn = next(c for c in small.edge.reactor.connections.values() if c.user == 2)
        conn.requests.tokens = 1
        await second.send("friends", rid=1)
        for _ in range(4):
            await second.send("heartbeat")
            await second.expect("heartbeat")
            conn.unblock(HELD)
        small.gate.set()
        await second.expect("friends")


async def test_an_answer_that_cannot_be_written_harms_nobody_else() -> None:
    async with small_edge() as small:
        raw, other = await small.client(1), await small.client(2)
        small.friends = [object()]  # type: ignore[list-item]
        await raw.refused("unavailable", "friends")
        await raw.alive()
        await other.alive()


async def test_tries_of_a_password_are_limited_behind_log_in_too() -> None:
    async with small_edge() as small:
        raw = await small.client(1)

        async def wrong(*_: object) -> None:
            raise ChatError("bad_credentials", "the old password is wrong")

        small.handlers[p.ChangePassword] = Handler(wrong, Order.CHANGE)
        for _ in range(5):
            await raw.send("change_password", old="x", new="long enough")
        for _ in range(5):
            await raw.expect("error", code="bad_credentials")
        await raw.goodbye(3001)


async def test_registrations_are_limited_by_address() -> None:
    async with small_edge(limit_loopback=True, login_tries_per_minute=3) as small:

        async def registered(context: object, session: object, request: p.Register) -> p.Registered:
            if request.name == "taken":
                raise ChatError("exists", "the name is taken")
            return p.Registered(user=9)

        small.handlers[p.Register] = Handler(registered, Order.OPENING, before_login=True)
        raw = await small.connect()
        await raw.greet()
        await raw.done("register", name="new", password="long enough")
        await raw.refused("exists", "register", name="taken", password="long enough")
        await raw.done("register", name="newer", password="long enough")
        await raw.refused("rate_limited", "register", name="newest", password="long enough")


async def test_all_outboxes_together_are_bounded() -> None:
    async with small_edge(outboxes_bytes=1 << 20, heartbeat_misses=1_000) as small:
        slow, quick = await small.client(1), await small.client(2)
        one = next(c for c in small.edge.reactor.connections.values() if c.user == 1)
        big = text(1, 2, to=1)._replace(payload=json.dumps({"type": "message", "text": "x" * 50_000}).encode())

        def filled() -> bool:
            if one.queued <= 2 << 20:
                small.deliver(*[big] * 20)
            return one.state != OPEN

        await until(10, filled)
        await slow.goodbye(2003)
        await quick.alive()
