import msgspec
import pytest

from chat.protocol import Message, decode_event, decode_message
from chat.records import (
    Delivery,
    DeliveryBatch,
    PresenceEvent,
    Receipts,
    Topics,
    conversation_of,
    dead_headers,
    decode_presence,
    decode_receipts,
    group_timeline,
    message_records,
    notice,
    pack_deliveries,
    partition_of,
    presence_record,
    receipts_record,
    splice,
    splice_pos,
    unpack_deliveries,
    user_timeline,
)

TEXT = Message(sender=1, to=2, stream=7, seq=0, sent_at=1_000, kind="text", text='你好 "}')


def test_topics_lie_in_their_namespace() -> None:
    topics = Topics("t1")
    assert (topics.messages, topics.receipts, topics.presence, topics.dead) == (
        "t1.messages", "t1.receipts", "t1.presence", "t1.dead",
    )  # fmt: skip
    assert topics.edge("a") == "t1.edge.a"


def test_one_record_for_each_timeline_with_the_same_bytes() -> None:
    records = message_records(TEXT, ["u2", "u1"], receipt=True)
    assert [r.timeline for r in records] == ["u2", "u1"]
    assert [r.record.key for r in records] == [b"u2", b"u1"]
    assert records[0].record.value is records[1].record.value
    assert records[0].record.timestamp == 1_000
    assert records[0].record.headers == (("r", b""),)
    assert decode_message(records[0].record.value) == TEXT


def test_the_kind_of_a_notice_is_in_its_headers() -> None:
    joined = notice("group_joined", sender=1, group=7, sent_at=5, extra={"user": 2})
    (record,) = message_records(joined, ["g7"])
    assert record.record.headers == (("k", b"group_joined"),)
    assert b'"seq"' not in record.record.value


@pytest.mark.parametrize(("prev", "written"), [(None, "null"), (0, "0"), (41, "41")])
def test_splice_writes_prev_and_pos_onto_the_end(prev: int | None, written: str) -> None:
    value = message_records(TEXT, ["u2"])[0].record.value
    frame = splice(value, prev, 42)
    assert frame.endswith(f',"prev":{written},"pos":42}}'.encode())
    event = decode_event(frame)
    assert isinstance(event, Message)
    assert (event.prev, event.pos, event.text) == (prev, 42, TEXT.text)


def test_splice_pos_leaves_prev_out() -> None:
    event = decode_message(splice_pos(message_records(TEXT, ["u2"])[0].record.value, 42))
    assert (event.prev, event.pos) == (msgspec.UNSET, 42)


def test_deliveries_come_back_as_they_were() -> None:
    batch = DeliveryBatch(7, [Delivery("u2", 42, 1_000, None, True, b"{}"), Delivery("g7", 43, 1_001, "read", False, b"[]")])
    assert unpack_deliveries(pack_deliveries(batch)) == batch
    anyone = batch._replace(incarnation=None)
    assert unpack_deliveries(pack_deliveries(anyone)) == anyone


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x92\x01", pack_deliveries(DeliveryBatch(1, []))[:-1]])
def test_broken_deliveries_are_refused(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack_deliveries(value)


def test_receipts_and_presence_come_back_as_they_were() -> None:
    receipts = Receipts(2, "device-1", {"u2": 42, "g7": 3})
    assert receipts_record(receipts, 9).key == b"u2"
    assert decode_receipts(receipts_record(receipts, 9).value) == receipts
    event = PresenceEvent(event="login", user=2, at=9, edge="a", incarnation=5, session="s", device="d")
    assert decode_presence(presence_record(event).value) == event


@pytest.mark.parametrize("value", [b"", b"{}", b'{"user":"2","device":"d","acks":{}}'])
def test_broken_receipts_are_refused(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_receipts(value)


@pytest.mark.parametrize(
    ("timeline", "sender", "to", "group", "conversation"),
    [
        ("u2", 1, 2, None, "u1"),  # received
        ("u1", 1, 2, None, "u2"),  # one's own copy
        ("u1", 1, 1, None, "u1"),  # a note to oneself
        ("g7", 1, None, 7, "g7"),
        ("u2", 1, None, 7, "g7"),
        ("u2", 1, None, None, "u1"),
    ],
)
def test_a_conversation_is_named_by_its_other_end(
    timeline: str, sender: int, to: int | None, group: int | None, conversation: str
) -> None:
    assert conversation_of(timeline, sender, to, group) == conversation


def test_the_partition_of_a_timeline_is_fixed() -> None:
    assert user_timeline(42) == "u42"
    assert group_timeline(7) == "g7"
    # CRC-32 of "u42" and "g7", as any other implementation computes them.
    assert [partition_of(t, 2**32) for t in ("u42", "g7")] == [0xDE86D1DE, 0xD3D84A90]


def test_a_dead_record_says_where_it_was_found() -> None:
    assert dead_headers("t", 1, 2, "why", of="x") == (
        ("topic", b"t"), ("partition", b"1"), ("offset", b"2"), ("why", b"why"), ("of", b"x"),
    )  # fmt: skip
