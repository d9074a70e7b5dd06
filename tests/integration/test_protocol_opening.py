"""PROTOCOL, "Opening": hello, registration, log-in, tokens, ends."""

from __future__ import annotations

import time

import pytest
import trio

from tests.integration.raw import PASSWORD, World, leave, new_device, new_name, new_stream

pytestmark = pytest.mark.servers


async def test_welcome_says_what_the_client_needs(world: World) -> None:
    raw = await world.connect()
    welcome = await raw.greet()
    assert welcome["version"] == 1
    assert isinstance(welcome["edge"], str)
    assert welcome["heartbeat_ms"] > 0
    assert welcome["heartbeat_misses"] > 0
    assert welcome["max_frame"] == 65_536
    assert abs(welcome["server_time"] - time.time() * 1000) < 60_000


async def test_hello_comes_first_and_once(world: World) -> None:
    raw = await world.connect()
    for kind in ("heartbeat", "login", "sync", "send"):
        await raw.refused("bad_request", kind)
    await raw.greet()
    await raw.refused("bad_request", "hello", version=1, client="raw/1.0")


async def test_an_unknown_version_ends_it(world: World) -> None:
    raw = await world.connect()
    await raw.send("hello", version=2, client="raw/1.0", rid="v")
    error = await raw.expect("error", code="bad_version", rid="v")
    assert error["retriable"] is False
    await raw.goodbye(1004)


@pytest.mark.parametrize("fields", [{"version": "1"}, {"client": 1}, {"version": -1}, {"version": 1.5}, {"version": True}])
async def test_a_hello_with_wrong_fields_may_be_said_again(world: World, fields: dict[str, object]) -> None:
    raw = await world.connect()
    await raw.refused("bad_request", "hello", **{"version": 1, "client": "raw/1.0", **fields})
    await raw.greet()


async def test_nothing_but_opening_before_log_in(world: World) -> None:
    raw = await world.greeted()
    await raw.refused("not_logged_in", "conversations")
    await raw.refused("not_logged_in", "groups")
    await raw.send("send", to=1, stream=1, seq=0, text="x", rid=7)
    error = await raw.expect("error", rid=7)
    assert error["code"] == "not_logged_in"
    assert (error["to"], error["stream"], error["seq"]) == (1, 1, 0)


async def test_register_and_log_in(world: World) -> None:
    raw = await world.greeted()
    name = new_name()
    registered = await raw.done("register", name=name, password=PASSWORD)
    assert registered["type"] == "registered"
    before = time.time() * 1000
    logged_in = await raw.log_in(name, device="device-abc")
    assert logged_in["user"] == registered["user"]
    assert (logged_in["name"], logged_in["device"]) == (name, "device-abc")
    assert logged_in["new_device"] is True
    assert logged_in["groups"] == []
    assert list(logged_in["cursors"]) == [f"u{registered['user']}"]
    assert logged_in["token_expires_at"] > before
    assert isinstance(logged_in["token"], str)
    assert isinstance(logged_in["session"], str)


async def test_a_name_is_given_once(world: World) -> None:
    raw = await world.greeted()
    name = new_name()
    await raw.done("register", name=name, password=PASSWORD)
    await raw.refused("exists", "register", name=name, password="another password")
    await raw.log_in(name)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", PASSWORD), ("a" * 33, PASSWORD), ("Upper", PASSWORD), ("with space", PASSWORD), ("ünï", PASSWORD),
        ("line\n", PASSWORD), (5, PASSWORD), (None, PASSWORD), (["a"], PASSWORD), ("ok", "1234567"), ("ok", "x" * 129),
        ("ok", 12345678), ("ok", None),
    ],
)  # fmt: skip
async def test_names_and_passwords_have_rules(world: World, name: object, password: object) -> None:
    raw = await world.greeted()
    await raw.refused("bad_request", "register", name=name, password=password)
    await raw.alive()


@pytest.mark.parametrize("device", ["short", "x" * 65, "UPPERCASE", "with_underscore", 12345678, None])
async def test_devices_have_rules(world: World, device: object) -> None:
    raw = await world.greeted()
    await raw.refused("bad_request", "login", name="anyone", password=PASSWORD, device=device)


async def test_wrong_name_and_wrong_password_look_the_same(world: World) -> None:
    raw = await world.greeted()
    name = new_name()
    await raw.done("register", name=name, password=PASSWORD)
    wrong = await raw.refused("bad_credentials", "login", name=name, password="wrong password", device=new_device())
    unknown = await raw.refused("bad_credentials", "login", name=new_name(), password=PASSWORD, device=new_device())
    assert wrong["message"] == unknown["message"]
    await raw.log_in(name)


async def test_guessing_is_limited(world: World) -> None:
    raw = await world.greeted()
    with trio.fail_after(30):
        for _ in range(50):
            await raw.send("login", name="nobody-at-all", password="wrong password", device="device-abc")
            frame = await raw.take(lambda f: f["type"] in {"error", "goodbye"})
            if frame["type"] == "goodbye" or frame["code"] == "rate_limited":
                return
            assert frame["code"] == "bad_credentials"
    raise AssertionError("fifty wrong passwords on one connection")


async def test_one_log_in_a_connection(world: World) -> None:
    raw = await world.person()
    name = raw.logged_in["name"]
    await raw.refused("bad_request", "login", name=name, password=PASSWORD, device=new_device())
    await raw.refused("bad_request", "resume", token=raw.logged_in["token"], device=raw.logged_in["device"])
    await raw.alive()


async def test_a_token_resumes_on_any_edge(world: World) -> None:
    first = await world.person()
    await leave(first)
    for door in ("there", "front", "here"):
        raw = await world.again(first, door)
        assert raw.user == first.user
        assert raw.logged_in["token"] == first.logged_in["token"]
        assert raw.logged_in["new_device"] is False
        assert raw.logged_in["token_expires_at"] >= first.logged_in["token_expires_at"]
        assert raw.logged_in["session"] != first.logged_in["session"]
        await leave(raw)


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 43, "ü" * 20])
async def test_an_unknown_token(world: World, token: str) -> None:
    raw = await world.greeted()
    await raw.refused("token_expired", "resume", token=token, device=new_device())
    await raw.alive()


async def test_log_out_ends_the_token(world: World) -> None:
    raw = await world.person()
    await raw.done("logout")
    await raw.goodbye(1002)
    other = await world.greeted("there")
    await other.refused("token_expired", "resume", token=raw.logged_in["token"], device=raw.logged_in["device"])


async def test_a_changed_password_ends_all_else(world: World) -> None:
    raw = await world.person()
    other = await world.device_of(raw, "there")
    await raw.refused("bad_credentials", "change_password", old="wrong password", new="another password")
    await raw.refused("bad_request", "change_password", old=PASSWORD, new="short")
    await raw.done("change_password", old=PASSWORD, new="another password")
    await other.goodbye(1002)
    await raw.alive()
    again = await world.greeted()
    await again.refused("token_expired", "resume", token=other.logged_in["token"], device=other.logged_in["device"])
    await again.refused("bad_credentials", "login", name=raw.logged_in["name"], password=PASSWORD, device=new_device())
    await again.log_in(raw.logged_in["name"], password="another password")
    await leave(raw)
    await world.again(raw)  # the one that changed it keeps its token


async def test_heartbeat_and_goodbye(world: World) -> None:
    raw = await world.person()
    assert (await raw.ask("heartbeat"))["type"] == "heartbeat"
    await raw.send("goodbye")
    await raw.goodbye(1000)
    await leave(await world.again(raw))


async def test_a_rid_is_repeated_as_it_is(world: World) -> None:
    raw = await world.person()
    for rid in (0, -5, 2**53 - 1, "", "a" * 64, "ünï ✓"):
        await raw.send("groups", rid=rid)
        assert (await raw.expect("groups"))["rid"] == rid
    await raw.send("groups")
    assert "rid" not in await raw.expect("groups")
    for rid in ("a" * 65, 1.5, True, [1], {}):
        await raw.send("groups", rid=rid)
        error = await raw.expect("error", code="bad_request")
        assert "rid" not in error


async def test_requests_may_be_pipelined_behind_log_in(world: World) -> None:
    raw = await world.greeted()
    name = new_name()
    user = (await raw.done("register", name=name, password=PASSWORD))["user"]
    stream = new_stream()
    await raw.send("login", name=name, password=PASSWORD, device=new_device())
    await raw.send("send", to=user, stream=stream, seq=0, text="first")
    await raw.send("groups", rid="g")
    await raw.send("send", to=user, stream=stream, seq=1, text="second")
    await raw.expect("logged_in")
    await raw.expect("groups", rid="g")
    await raw.expect("accepted", to=user, stream=stream, seq=1)


async def test_ten_seconds_to_log_in(world: World) -> None:
    raw = await world.greeted(beats=False)
    began = trio.current_time()
    with trio.fail_after(25):
        while not raw.ended:
            with trio.move_on_after(1):
                await raw.goodbye(1004, 20)
                break
            await raw.send("heartbeat")  # to be alive is not enough
    assert 8 < trio.current_time() - began < 20


async def test_half_a_frame_keeps_nothing_alive(world: World) -> None:
    raw = await world.person(beats=False)
    misses = 0
    await raw.send_bytes((1000).to_bytes(4, "big"))
    with trio.fail_after(25):
        while True:
            with trio.move_on_after(0.5):
                await raw.goodbye(2002, 20)
                break
            misses += 1
            await raw.send_bytes(b"x")
    assert misses >= 6  # some four to six seconds


async def test_the_edge_goes_on_hearing_who_beats(world: World) -> None:
    raw = await world.person(beats=False)
    end = trio.current_time() + 8
    while trio.current_time() < end:
        await raw.alive()
        with trio.move_on_after(0.9):
            await raw.closed(60)
    await raw.alive()


async def test_eight_bad_requests_before_log_in_close(world: World) -> None:
    raw = await world.connect()
    for _ in range(8):
        await raw.send("nonsense")
    for _ in range(8):
        await raw.expect("error", code="bad_request")
    await raw.goodbye(1004)
