"""PROTOCOL, "Frames" and "Errors": whatever comes in, the answer is the one written there, and nobody else notices."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from tests.integration.raw import PASSWORD, Ended, Raw, World, encoded, new_device, new_name, new_stream, packed

pytestmark = pytest.mark.servers


@pytest.fixture
async def bystander(world: World) -> AsyncIterator[Raw]:
    """Another user on the same edge: he talks to himself before and after, on the same connection, and misses nothing."""
    raw = await world.person("bystander")
    stream = new_stream()

    async def note(seq: int) -> None:
        await raw.say(f"note {seq}", to=raw.user, stream=stream, seq=seq)
        await raw.message(f"note {seq}", seq=seq)

    await note(0)
    yield raw
    await note(1)
    assert not [f for f in raw.inbox if f["type"] in {"error", "goodbye", "resync"}]


async def ends_with(raw: Raw, code: str) -> None:
    error = await raw.expect("error")
    assert error["code"] == code, error
    assert error["retriable"] is False
    await raw.goodbye(1004)


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize("length", [4_097, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
async def test_too_long_before_log_in_is_known_from_the_length(world: World, bystander: Raw, length: int) -> None:
    raw = await world.greeted()
    await raw.send_bytes(length.to_bytes(4, "big"))  # nothing of the body
    await ends_with(raw, "too_long")


async def test_4096_bytes_are_allowed_before_log_in(world: World) -> None:
    raw = await world.connect()
    frame = {"type": "hello", "version": 1, "client": "raw/1.0", "unknown": ""}
    body = json.dumps(frame).replace('"unknown": ""', '"unknown": "' + "x" * (4_096 - len(json.dumps(frame))) + '"')
    assert len(body) == 4_096
    await raw.send_json(body)
    await raw.expect("welcome")


async def test_a_frame_may_be_max_frame_long_and_no_longer(world: World, bystander: Raw) -> None:
    raw = await world.person()
    stream = new_stream()
    head = f'{{"type":"send","to":{raw.user},"stream":{stream},"seq":0,"text":"'
    body = head + "x" * (65_536 - len(head) - 2) + '"}'
    await raw.send_json(body)
    await raw.expect("accepted", stream=stream, seq=0)
    message = await raw.expect("message", stream=stream)
    assert len(message["text"]) == 65_536 - len(head) - 2
    await raw.send_bytes((65_537).to_bytes(4, "big"))
    await ends_with(raw, "too_long")


async def test_frames_before_one_too_long_still_count(world: World) -> None:
    raw = await world.person()
    note = {"type": "send", "to": raw.user, "stream": new_stream(), "seq": 0, "text": "before"}
    await raw.send_bytes(encoded(note) + encoded({"type": "heartbeat", "rid": 1}) + (2**30).to_bytes(4, "big"))
    await raw.expect("heartbeat", rid=1)
    await ends_with(raw, "too_long")
    again = await world.again(raw)
    assert [m["text"] for m in await again.persisted(to=raw.user)] == ["before"]


OTHERS = {"http": b"GET / HTTP/1.1\r\nHost: chat\r\n\r\n", "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9}


@pytest.mark.parametrize("start", OTHERS.values(), ids=OTHERS.keys())
async def test_other_protocols_are_turned_away(world: World, start: bytes) -> None:
    raw = await world.connect()
    await raw.send_bytes(start)
    await raw.goodbye(1004)


# ---------------------------------------------------------------- what is no frame

NO_FRAMES = {
    "empty": b"",
    "not utf-8": b'{"type":"groups","x":"\xff\xfe"}',
    "utf-8 of a surrogate": b'{"type":"groups","x":"\xed\xa0\x80"}',
    "overlong utf-8": b'{"type":"groups","x":"\xc0\xaf"}',
    "utf-16": '{"type":"groups"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"type":"groups"}',
    "no json": b"hello",
    "half": b'{"type":"groups"',
    "two": b'{"type":"groups"}{"type":"groups"}',
    "trailing comma": b'{"type":"groups",}',
    "single quotes": b"{'type':'groups'}",
    "comment": b'{"type":"groups"/**/}',
    "nan": b'{"type":"groups","x":NaN}',
    "infinity": b'{"type":"groups","x":-Infinity}',
    "lone surrogate": b'{"type":"groups","x":"\\ud800"}',
    "surrogates in the wrong order": b'{"type":"groups","x":"\\udc00\\ud800"}',
    "control character": b'{"type":"groups","x":"a\x01b"}',
    "null byte": b'{"type":"groups"}\x00',
    "bad escape": b'{"type":"groups","x":"\\x41"}',
    "leading zero": b'{"type":"groups","x":01}',
    "array": b'[{"type":"groups"}]',
    "string": b'"groups"',
    "number": b"5",
    "null": b"null",
    "nested 33 deep": b'{"type":"groups","x":' + b"[" * 32 + b"]" * 32 + b"}",
    "objects 33 deep": b'{"type":"groups","x":' + b'{"a":' * 32 + b"1" + b"}" * 32 + b"}",
    "nested 30,000 deep": b'{"type":"groups","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}


@pytest.mark.parametrize("body", NO_FRAMES.values(), ids=NO_FRAMES.keys())
async def test_what_is_no_frame_ends_the_connection(world: World, bystander: Raw, body: bytes) -> None:
    raw = await world.person()
    await raw.send_json(body)
    await ends_with(raw, "bad_frame")


async def test_nested_32_deep_and_brackets_in_strings_are_fine(world: World) -> None:
    raw = await world.person()
    await raw.send_json(b'{"type":"groups","rid":1,"x":' + b"[" * 31 + b"]" * 31 + b"}")
    await raw.expect("groups", rid=1)
    await raw.send_json(b'{"type":"groups","rid":2,"x":"' + b"[{" * 500 + b'\\"[","y":[' + b"[]," * 100 + b"1]}")
    await raw.expect("groups", rid=2)
    await raw.send_json('  {"type" : "groups" ,\n\t"rid":3, "x":"😀 \\ud83d\\ude00 \\u0000"}\r\n')
    await raw.expect("groups", rid=3)


# ---------------------------------------------------------------- frames that are refused


def changed(valid: dict[str, object], *changes: dict[str, object]) -> list[dict[str, object]]:
    return [{**valid, **change} for change in changes]


SEND: dict[str, object] = {"type": "send", "to": 1, "stream": 1, "seq": 0, "text": "x"}
SYNC: dict[str, object] = {"type": "sync", "timeline": "u1", "after": 0}
FETCH: dict[str, object] = {"type": "fetch", "from": 1, "to": 1, "stream": 1, "seqs": [1]}
HISTORY: dict[str, object] = {"type": "history", "to": 1}
CREATE: dict[str, object] = {"type": "group_create", "name": "x"}
REFUSED: list[dict[str, object]] = [
    {}, {"type": None}, {"type": 5}, {"type": ["groups"]}, {"type": ""}, {"type": "nonsense"}, {"type": "Groups"},
    {"type": "welcome"}, {"type": "message"}, {"type": "accepted"}, {"type": "send"}, {"type": "sync"}, {"type": "history"},
    *changed(SEND, {"to": None}, {"to": "1"}, {"to": 0}, {"to": -1}, {"to": 1.5}, {"to": True}, {"to": 2**53},
             {"to": 10**400}, {"to": [1]}, {"group": 1}, {"group": "g1"}, {"stream": 2**53}, {"stream": None},
             {"seq": 2**64}, {"seq": -1}, {"seq": "0"}, {"text": None}, {"text": 5}, {"text": ["x"]},
             {"extra": []}, {"extra": "x"}, {"receipt": 1}, {"receipt": "yes"}, {"seen": "now"}, {"seen": -1}),
    *changed({"type": "ack", "timeline": "u1", "pos": 1}, {"timeline": "x1"}, {"timeline": "u"}, {"timeline": "u01"},
             {"timeline": "u1' OR 1=1"}, {"timeline": 1}, {"pos": -1}, {"pos": "1"}, {"pos": None}),
    *changed({"type": "read", "to": 1, "sent_at": 1}, {"to": None}, {"group": 1}, {"sent_at": None}, {"sent_at": "now"}),
    *changed(SYNC, {"after": "0"}, {"after": -1}, {"limit": 0}, {"limit": "50"}, {"fresh": "yes"}, {"timeline": None}),
    *changed(FETCH, {"seqs": []}, {"seqs": 1}, {"seqs": ["1"]}, {"seqs": list(range(501))}, {"to": None}, {"from": None}),
    *changed(HISTORY, {"to": None}, {"group": 1}, {"before": 5}, {"before": "made up"}, {"limit": -1}, {"limit": 1.5}),
    *changed({"type": "search", "to": 1, "text": "x"}, {"to": "1"}, {"group": 1}, {"text": None}, {"text": ""}, {"text": 5}),
    *changed(CREATE, {"name": None}, {"name": ""}, {"members": ["1"]}, {"members": list(range(1, 2000))}, {"open": 1}),
    {"type": "conversations", "before": "made up"}, {"type": "find_user"}, {"type": "find_user", "name": 5},
    {"type": "friend_request"}, {"type": "friend_request", "user": "1"}, {"type": "block", "user": None},
    {"type": "group_invite", "group": 1}, {"type": "group_members", "group": 1, "after": 7}, {"type": "group_join"},
    {"type": "watch"}, {"type": "watch", "users": 1}, {"type": "watch", "users": [None]},
    {"type": "change_password", "old": "x"}, {"type": "hello", "version": 1},
]  # fmt: skip


async def test_bad_requests_are_refused_and_the_connection_goes_on(world: World, bystander: Raw) -> None:
    raw = await world.person()
    for number, frame in enumerate(REFUSED):
        await raw.send_bytes(encoded({**frame, "rid": number}))
        answer = await raw.take(lambda f, n=number: f.get("rid") == n)
        assert (answer["type"], answer.get("code")) == ("error", "bad_request"), (frame, answer)
        assert answer["retriable"] is False
        if frame.get("type") == "send":
            for name in ("stream", "seq"):
                value = frame.get(name)
                if type(value) is int and 0 <= value < 2**53:
                    assert answer.get(name) == value, (frame, answer)
    await raw.alive()


async def test_the_message_names_the_field(world: World) -> None:
    raw = await world.person()
    assert "limit" in (await raw.refused("bad_request", "sync", timeline="u1", after=0, limit=0))["message"]
    assert "after" in (await raw.refused("bad_request", "sync", timeline="u1"))["message"]
    assert "nonsense" in (await raw.refused("bad_request", "nonsense"))["message"]


async def test_unknown_fields_are_ignored(world: World) -> None:
    raw = await world.person()
    assert (await raw.ask("groups", colour="blue", deep={"a": [1.5e300, None, True]}))["type"] == "groups"


# ---------------------------------------------------------------- pieces and heaps


async def test_a_frame_byte_by_byte(world: World) -> None:
    raw = await world.connect()
    register = {"type": "register", "name": (name := new_name()), "password": PASSWORD}
    for frame in ({"type": "hello", "version": 1, "client": "räw/1.0"}, register):
        for byte in encoded(frame):
            await raw.send_bytes(bytes([byte]))
            await trio.lowlevel.checkpoint()
    await raw.expect("registered")
    await raw.log_in(name)


async def test_ten_thousand_frames_in_one_segment(world: World, bystander: Raw) -> None:
    raw = await world.person()
    await raw.send_bytes(b"".join(encoded({"type": "heartbeat", "rid": rid}) for rid in range(10_000)))
    answers = [await raw.take(lambda f: "rid" in f) for _ in range(10_000)]
    assert [a["rid"] for a in answers] == list(range(10_000))
    assert {a["type"] for a in answers} == {"heartbeat"}


async def test_requests_are_limited_but_nothing_is_dropped(world: World, bystander: Raw) -> None:
    raw = await world.person()
    await raw.send_bytes(b"".join(encoded({"type": "groups", "rid": rid}) for rid in range(3_000)))
    answers = [await raw.take(lambda f: "rid" in f) for _ in range(3_000)]
    assert {a["rid"] for a in answers} == set(range(3_000))
    refused = [a for a in answers if a["type"] == "error"]
    assert {a["code"] for a in refused} <= {"rate_limited"}
    assert all(a["retriable"] and a["retry_after_ms"] > 0 for a in refused)
    await raw.alive()


@pytest.mark.parametrize("seed", range(12))
async def test_garbage_ends_or_is_refused_but_harms_nobody(world: World, bystander: Raw, seed: int) -> None:
    """Valid frames with bytes changed, cut, doubled: answered by errors, or closed; the edge serves the next client."""
    chance = random.Random(seed)
    raw = await world.greeted() if seed % 2 else await world.person()
    device, stream = new_device(), new_stream()
    frames = [
        encoded({"type": "login", "name": "nobody", "password": PASSWORD, "device": device}),
        encoded({"type": "send", "to": 1, "stream": stream, "seq": 0, "text": "häh?", "extra": {"a": [1, {"b": None}]}}),
        encoded({"type": "sync", "timeline": "u1", "after": 0}),
        packed(b'{"type":"groups","rid":"abc"}'),
    ]
    with suppress(Ended, trio.BrokenResourceError):
        for _ in range(200):
            data = bytearray(chance.choice(frames))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(4 if chance.random() < 0.9 else 0, len(data))
                data[at] = chance.randrange(256)
            await raw.send_bytes(bytes(data))
        await raw.closed(0.5) if chance.random() < 0.3 else await raw.alive()
    fresh = await world.person()
    await fresh.alive()


async def test_one_that_never_reads_harms_nobody(world: World, bystander: Raw) -> None:
    """Its answers pile up to a bound; others are served meanwhile."""
    raw = await world.person(beats=False)
    frame = encoded({"type": "history", "to": raw.user, "rid": "x" * 64}) * 50
    with suppress(trio.BrokenResourceError), trio.move_on_after(3):
        while True:
            await raw.send_bytes(frame)
    await bystander.alive()
