import json
import typing
from typing import Any

import msgspec
import pytest

from chat import protocol
from chat.errors import RETRIABLE, ChatError, ProtocolError
from chat.protocol import (
    MAX_DEPTH,
    Accepted,
    Error,
    FrameCutter,
    Head,
    Heartbeat,
    LoggedIn,
    Message,
    Send,
    Synced,
    decode_event,
    decode_request,
    encode,
    frame,
)

SEND: dict[str, Any] = {"type": "send", "to": 34, "stream": 1, "seq": 0, "text": "hello"}


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal(data: bytes) -> ChatError:
    with pytest.raises(ChatError) as caught:
        decode_request(data)
    return caught.value


# ------------------------------------------------------------------ what is a frame


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"type":"heartbeat"}x',
        b'\xef\xbb\xbf{"type":"heartbeat"}',
        b"\xff",
        b'{"type":"heartbeat","x":"\xff"}',
        b'{"type":"heartbeat","x":"\xed\xa0\x80"}',
        b'{"type":"heartbeat","x":01}',
        b'{"type":"heartbeat","x":"a\nb"}',
        b'{"type":"heartbeat","x":"\\q"}',
        b"[]",
        b"[[[[",
        b"1",
        b"null",
        b'"heartbeat"',
    ],
)
def test_what_is_not_a_json_object_in_utf8_ends_the_connection(data: bytes) -> None:
    error = refusal(data)
    assert isinstance(error, ProtocolError)
    assert (error.code, error.retriable) == ("bad_frame", False)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("frame_type", ["heartbeat", "nobody knows this"])
def test_constants_that_json_does_not_have(constant: str, frame_type: str) -> None:
    assert refusal(f'{{"type":"{frame_type}","x":{constant}}}'.encode()).code == "bad_frame"


@pytest.mark.parametrize("where", ["text", "unknown_field"])
@pytest.mark.parametrize("escaped", ["\\ud800", "\\udc00", "\\udc00\\ud800"])
@pytest.mark.parametrize("sound", [True, False])
def test_lone_surrogates_are_not_json_whatever_else_is_wrong(where: str, escaped: str, sound: bool) -> None:
    fields = {**SEND, "seq": 0 if sound else "zero", where: "HERE"}
    assert refusal(body(**fields).replace(b"HERE", escaped.encode())).code == "bad_frame"


def test_a_pair_of_surrogates_is_a_character() -> None:
    request = decode_request(body(**{**SEND, "text": "HERE"}).replace(b"HERE", b"\\ud83d\\ude00"))
    assert isinstance(request, Send)
    assert request.text == "\U0001f600"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:  # the frame itself is one
        return f'{{"type":"heartbeat","x":{opening * (depth - 1)}1{closing * (depth - 1)}}}'.encode()

    assert isinstance(decode_request(nested(MAX_DEPTH)), Heartbeat)
    error = refusal(nested(MAX_DEPTH + 1))
    assert (type(error), error.code) == (ProtocolError, "bad_frame")
    assert refusal(b"[" * 60_000).code == "bad_frame"


def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    assert isinstance(decode_request(b'{"type":"heartbeat","x":"\\"' + b"[" * 100 + b'"}'), Heartbeat)
    assert isinstance(decode_request(b'{"type":"heartbeat","x":[' + b"[]," * 100 + b"[]]}"), Heartbeat)


def test_unknown_fields_are_ignored() -> None:
    assert decode_request(body(type="heartbeat", what=[1, {"is": None}])) == Heartbeat()


# ------------------------------------------------------------------ what is a request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no `type`"),
        ({"type": None}, "no `type`"),
        ({"type": 1}, "`type` is not a string"),
        ({"type": "nope"}, "unknown type 'nope'"),
        ({"type": "message"}, "unknown type 'message'"),  # an edge's, not a client's
        ({"type": "send", "stream": 1, "text": "x"}, "seq"),
        ({**SEND, "text": 5}, r"\$\.text"),
        ({**SEND, "seq": True}, r"\$\.seq"),
        ({**SEND, "seq": "0"}, r"\$\.seq"),
        ({**SEND, "seq": 0.5}, r"\$\.seq"),
        ({**SEND, "seq": -1}, r"\$\.seq"),
        ({**SEND, "seq": 2**53}, r"\$\.seq"),
        ({**SEND, "to": 0}, r"\$\.to"),
        ({**SEND, "extra": []}, r"\$\.extra"),
        ({"type": "watch", "users": [1, "x"]}, r"users\[1\]"),
        ({"type": "fetch", "from": 1, "stream": 1, "seqs": []}, "seqs"),
        ({"type": "fetch", "from": 1, "stream": 1, "seqs": list(range(501))}, "seqs"),
        ({"type": "sync", "timeline": "x1", "after": 0}, "timeline"),
        ({"type": "sync", "timeline": "u01", "after": 0}, "timeline"),
        ({"type": "sync", "timeline": "u1\n", "after": 0}, "timeline"),
        ({"type": "register", "name": "Ann", "password": "12345678"}, "name"),
        ({"type": "register", "name": "ann\n", "password": "12345678"}, "name"),
        ({"type": "register", "name": "ann", "password": "1234567"}, "password"),
        ({"type": "login", "name": "ann", "password": "x", "device": "short"}, "device"),
        ({"type": "history", "to": 1, "limit": 0}, "limit"),
    ],
)
def test_a_request_that_does_not_fit_is_named_and_the_connection_goes_on(fields: dict[str, Any], message: str) -> None:
    error = refusal(body(**fields))
    assert not isinstance(error, ProtocolError)
    assert error.code == "bad_request"
    with pytest.raises(ChatError, match=message):
        raise error


@pytest.mark.parametrize("digits", [20, 300, 5_000])
@pytest.mark.parametrize("where", ["seq", "text", "extra"])
def test_huge_numbers_are_json_but_do_not_fit(digits: int, where: str) -> None:
    fields = {**SEND, where: {"x": "HERE"} if where == "extra" else "HERE", "rid": 7}
    data = body(**fields).replace(b'"HERE"', b"9" * digits)
    if where == "extra" and digits < 5_000:
        request = decode_request(data)
        assert isinstance(request, Send)
        assert encode(request.extra) == b'{"x":' + b"9" * digits + b"}"  # written back as it came
    else:
        error = refusal(data)
        assert (error.code, error.fields["rid"]) == ("bad_request", 7)


def test_a_number_beyond_floating_point_does_not_fit() -> None:
    assert refusal(body(**SEND).replace(b'"hello"', b'"a","extra":{"x":1e999}')).code == "bad_request"


@pytest.mark.parametrize("rid", [0, -5, 2**63 - 1, "", "a" * 64, "é"])
def test_an_error_repeats_rid(rid: Any) -> None:
    assert refusal(body(type="nope", rid=rid)).fields == {"rid": rid}


@pytest.mark.parametrize("rid", [1.5, True, None, "a" * 65, [1], 10**40])
def test_an_error_does_not_repeat_what_is_no_rid(rid: Any) -> None:
    assert refusal(body(type="nope", rid=rid)).fields == {}


def test_a_refused_send_repeats_where_it_belongs() -> None:
    assert refusal(body(**{**SEND, "text": 1, "rid": "r"})).fields == {"rid": "r", "to": 34, "stream": 1, "seq": 0}
    group = {k: v for k, v in SEND.items() if k != "to"} | {"group": 7, "text": 1}
    assert refusal(body(**group)).fields == {"group": 7, "stream": 1, "seq": 0}


def test_a_refused_send_repeats_nothing_that_is_no_number() -> None:
    assert refusal(body(**{**SEND, "to": -1, "stream": "x", "seq": 2**53, "rid": -3})).fields == {"rid": -3}


def test_every_request_can_be_read_back() -> None:
    samples = {
        "name": "ann", "password": "12345678", "device": "device-1", "old": "x", "new": "12345678", "token": "t",
        "version": 1, "client": "c/1", "stream": 1, "seq": 0, "text": "hello", "timeline": "u1", "pos": 1, "after": 0,
        "sent_at": 1, "from": 1, "seqs": [1], "user": 1, "group": 1, "users": [1],
    }  # fmt: skip
    kinds = typing.get_args(protocol.AnyRequest)
    assert len(kinds) == len({k.__struct_config__.tag for k in kinds})
    for kind in kinds:
        fields = {f.encode_name: samples[f.encode_name] for f in msgspec.structs.fields(kind) if f.required}
        request = decode_request(body(type=kind.__struct_config__.tag, **fields))
        assert type(request) is kind
        assert decode_request(encode(request)) == request


# ------------------------------------------------------------------ what an edge writes


def test_errors_always_say_whether_they_are_retriable() -> None:
    for code in ("blocked", "unavailable"):
        error = Error(code=code, message="m", retriable=code in RETRIABLE)
        assert json.loads(encode(error))["retriable"] is (code == "unavailable")


def test_seq_zero_is_written() -> None:
    assert json.loads(encode(Error(code="x", message="m", retriable=True, seq=0, expected=0))).keys() >= {"seq", "expected"}
    assert json.loads(encode(Accepted(stream=0, seq=0, to=1)))["seq"] == 0
    assert json.loads(encode(Message(sender=1, to=2, stream=0, seq=0, sent_at=1, kind="text", text="")))["seq"] == 0


def test_logged_in_writes_its_empty_fields() -> None:
    opened = LoggedIn(
        user=1, name="ann", device="device-1", session="s", token="t", token_expires_at=1, new_device=False, cursors={},
        groups=[],
    )  # fmt: skip
    assert json.loads(encode(opened)).keys() >= {"new_device", "cursors", "groups"}


def test_an_answer_comes_back_as_it_was() -> None:
    message = Message(
        sender=1, group=7, stream=2, seq=0, sent_at=5, kind="text", text="x", extra={"a": [1]}, prev=None, pos=9
    )
    answer = Synced(
        timeline="g7", messages=[message], upto=10, complete=False, heads=[Head(sender=1, group=7, stream=2, next=1)]
    )
    assert decode_event(encode(answer)) == answer
    assert json.loads(encode(message))["from"] == 1


def test_an_event_of_a_later_version_is_told_apart_from_a_broken_one() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_event(b'{"type":"later"}')
    with pytest.raises(msgspec.DecodeError):
        decode_event(b"{")


# ------------------------------------------------------------------ framing


def test_whole_frames_come_out_and_a_partial_one_waits() -> None:
    cutter = FrameCutter(100)
    cutter.feed(frame(b"one") + frame(b"") + frame(b"three")[:-1])
    assert list(cutter) == [b"one", b""]
    assert cutter.waiting == 8
    cutter.feed(b"e")
    assert list(cutter) == [b"three"]
    assert cutter.waiting == 0


def test_a_length_above_the_limit_is_refused_before_its_bytes_come() -> None:
    cutter = FrameCutter(10)
    cutter.feed(frame(b"a" * 10) + (11).to_bytes(4, "big"))
    found = []
    with pytest.raises(ProtocolError) as caught:
        found.extend(iter(cutter))
    assert caught.value.code == "too_long"
    cutter = FrameCutter(10)
    cutter.feed(frame(b"a" * 10) + b"\xff" * 4)
    frames = iter(cutter)
    assert next(frames) == b"a" * 10
    with pytest.raises(ProtocolError):
        next(frames)


def test_the_limit_may_be_raised_between_two_frames() -> None:
    cutter = FrameCutter(3)
    cutter.feed(frame(b"one") + frame(b"three"))
    found = []
    for data in cutter:
        found.append(data)
        cutter.limit = 5
    assert found == [b"one", b"three"]


def test_iteration_may_be_broken_off() -> None:
    cutter = FrameCutter(100)
    cutter.feed(frame(b"1") + frame(b"2") + frame(b"3"))
    assert next(iter(cutter)) == b"1"
    cutter.feed(frame(b"4"))
    assert list(cutter) == [b"2", b"3", b"4"]
