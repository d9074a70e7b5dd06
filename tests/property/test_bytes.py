"""Framing, decoding and the record layouts, over any bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import ChatError, ProtocolError
from chat.protocol import FrameCutter, Message, decode_event, decode_message, decode_request, encode, frame
from chat.records import (
    Delivery,
    DeliveryBatch,
    message_records,
    pack_deliveries,
    splice,
    splice_pos,
    unpack_deliveries,
)

uints = st.integers(0, 2**53 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    group = draw(st.booleans())
    return Message(
        sender=draw(uints),
        to=None if group else draw(uints),
        group=draw(uints) if group else None,
        stream=draw(uints),
        seq=draw(uints),
        sent_at=draw(uints),
        kind="text",
        text=draw(texts),
        extra=draw(st.dictionaries(texts, json_values, max_size=3) | st.just(msgspec.UNSET)),
    )


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.lists(st.binary(max_size=50), max_size=10), st.data())
def test_any_split_of_the_bytes_gives_the_same_frames(bodies: list[bytes], data: st.DataObject) -> None:
    cutter = FrameCutter(50)
    found: list[bytes] = []
    for piece in data.draw(splits(b"".join(map(frame, bodies)))):
        cutter.feed(piece)
        for body in cutter:
            found.append(body)
            if data.draw(st.booleans(), label="break off"):
                break
    found.extend(cutter)
    assert found == bodies
    assert cutter.waiting == 0


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(21, 2**32 - 1), st.data())
def test_a_frame_too_long_is_refused_behind_those_before_it(bodies: list[bytes], length: int, data: st.DataObject) -> None:
    cutter = FrameCutter(20)
    found: list[bytes] = []
    pieces = data.draw(splits(b"".join(map(frame, bodies)) + length.to_bytes(4, "big")))

    def read(piece: bytes) -> None:
        cutter.feed(piece)
        for body in cutter:
            found.append(body)

    def read_all() -> None:
        for piece in pieces:
            read(piece)

    with pytest.raises(ProtocolError, match="too_long"):
        read_all()
    assert found == bodies


def refused(data: bytes) -> ChatError | None:
    """The refusal, whose fields can be written."""
    try:
        decode_request(data)
    except ChatError as error:
        encode(error.fields)
        return error
    return None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    refusal = refused(data)
    assert refusal is None or refusal.code in ("bad_frame", "bad_request")


types = st.sampled_from(["send", "sync", "fetch", "login", "hello", "watch", "heartbeat", "group_create", "nope"])
fields = st.dictionaries(
    st.sampled_from(["to", "group", "stream", "seq", "text", "extra", "rid", "seen", "timeline", "after", "from", "seqs"])
    | texts,
    json_values,
    max_size=8,
)


@given(types, fields)
def test_any_object_is_a_request_or_a_refusal_that_can_be_written(kind: str, more: dict[str, Any]) -> None:
    data = json.dumps({**more, "type": kind}).encode()
    refusal = refused(data)
    if refusal is None:
        assert decode_request(encode(decode_request(data))) == decode_request(data)
    else:
        assert refusal.code == ("bad_frame" if isinstance(refusal, ProtocolError) else "bad_request")


@given(messages(), st.none() | uints, uints)
def test_splicing_writes_what_encoding_would(message: Message, prev: int | None, pos: int) -> None:
    (record,) = message_records(message, ["u1"])
    assert decode_message(record.record.value) == message
    spliced = decode_event(splice(record.record.value, prev, pos))
    assert isinstance(spliced, Message)
    assert spliced == msgspec.structs.replace(message, prev=prev, pos=pos)
    assert decode_message(splice_pos(record.record.value, pos)) == msgspec.structs.replace(message, pos=pos)


deliveries = st.builds(Delivery, texts, uints, uints, st.none() | texts, st.booleans(), st.binary(max_size=50))


@given(st.builds(DeliveryBatch, st.none() | uints, st.lists(deliveries, max_size=5)))
def test_deliveries_come_back_as_they_were(batch: DeliveryBatch) -> None:
    assert unpack_deliveries(pack_deliveries(batch)) == batch


@given(st.binary(max_size=100))
def test_any_bytes_are_deliveries_or_refused(data: bytes) -> None:
    with suppress(msgspec.DecodeError):
        unpack_deliveries(data)
