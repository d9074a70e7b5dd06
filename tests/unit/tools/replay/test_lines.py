"""A line a record: for people and for machines, whatever lies in the log."""

from __future__ import annotations

import json

from chat.protocol import Message, encode
from chat.records import (
    Consumed,
    Delivery,
    DeliveryBatch,
    PresenceEvent,
    Receipts,
    Routed,
    TopicPartition,
    Topics,
    dead_headers,
    message_records,
    pack_deliveries,
    presence_record,
    receipts_record,
    routed_headers,
    splice,
)
from chat.tools.logmerge import Sourced
from chat.tools.replay.lines import Lines

TOPICS = Topics("chat")
AT = 1_700_000_000_123


def _message(text: str = "hello", **more: object) -> Consumed:
    message = Message(sender=1, to=2, stream=5, seq=7, sent_at=AT, kind="text", text=text, **more)  # type: ignore[arg-type]
    ((_, (key, value, at, headers)),) = message_records(message, ["u2"])
    return Consumed(105, at, key, value, headers)


def _shown(*records: Sourced, width: int = 80, names: dict[str, str] | None = None) -> list[str]:
    return Lines(TOPICS, as_json=False, width=width, names=names).batch(records).decode().splitlines()


def _json(*records: Sourced) -> list[dict[str, object]]:
    return [json.loads(line) for line in Lines(TOPICS, as_json=True).batch(records).splitlines()]


MESSAGES = TopicPartition(TOPICS.messages, 2)


def test_a_message_for_people() -> None:
    (line,) = _shown((MESSAGES, _message()))
    assert line.split() == ["2023-11-14T22:13:20.123Z", "2@105", "106", "u2", "text", "u1→u2", "5/7", "hello"]
    (line,) = _shown((TopicPartition("chat.messages.1", 2), _message()), names={"u1": "alice", "u2": "bob"})
    assert line.split()[2] == str((1 << 44) + 106)
    assert "alice→bob" in line


def test_nothing_in_a_text_moves_the_cursor_or_is_too_long() -> None:
    (line,) = _shown((MESSAGES, _message("a\x1b[2J\nb 你好 " + "x" * 100)), width=20)
    assert line.endswith("a\\x1b[2J\\nb 你好 xxxxxxxx…")
    (line,) = _shown((MESSAGES, _message("secret")), width=0)
    assert "secret" not in line


def test_a_message_for_machines_has_everything() -> None:
    record = _message(extra={"a": [1]})
    (line,) = _json((MESSAGES, record._replace(headers=(("r", b""), ("e", b"edge-1")))))
    assert line == {
        "topic": "chat.messages", "partition": 2, "offset": 105, "time": AT, "key": "u2",
        "headers": [["r", ""], ["e", "edge-1"]], "position": 106, "id": "1/u2/5/7", "value": json.loads(record.value),
    }  # fmt: skip


def test_what_is_no_message_is_shown_too() -> None:
    for value in (b"{", b"", b"\xff\xfe", b'{"type":"message"}', b"[1,\n2]"):
        record = Consumed(1, AT, b"u2", value, ())
        (line,) = _shown((MESSAGES, record))
        assert "not a message" in line
        (found,) = _json((MESSAGES, record))
        assert found["position"] == 2
    assert _json((MESSAGES, Consumed(1, AT, None, b"[1,\n2]", ())))[0]["value"] == [1, 2]
    assert _json((MESSAGES, Consumed(1, AT, b"\xff", b"\xff", ())))[0]["value"] == {"base64": "/w=="}


def test_the_other_topics() -> None:
    receipts = receipts_record(Receipts(2, "device-two", {"u2": 9, "g7": 4}), AT)
    login = presence_record(PresenceEvent(event="login", user=2, at=AT, edge="edge-1", session="s", device="device-two"))
    dead = Consumed(0, AT, b"x", b"?", dead_headers("chat.messages", 1, 5, "the key is not a timeline"))
    lines = _shown(
        (TopicPartition(TOPICS.receipts, 0), Consumed(0, AT, receipts.key, receipts.value, ())),
        (TopicPartition(TOPICS.presence, 0), Consumed(1, AT, login.key, login.value, ())),
        (TopicPartition(TOPICS.dead, 0), dead),
    )
    assert lines[0].endswith("receipts/0@0 u2 device-two has u2=9 g7=4")
    assert "presence/0@1 login u2 edge=edge-1" in lines[1]
    assert lines[2].endswith("dead/0@0 x from chat.messages/1@5: the key is not a timeline ?")


def test_deliveries_one_by_one() -> None:
    payload = splice(_message().value, 90, 106)
    batch = DeliveryBatch(77, [Delivery("u2", 106, AT, None, False, payload), Delivery("u9", 3, AT, None, False, payload)])
    record = Consumed(4, AT + 5, None, pack_deliveries(batch), routed_headers(Routed("router-1", "redis", AT + 2)))
    where = TopicPartition(TOPICS.edge("edge-1"), 0)
    lines = _shown((where, record))
    assert len(lines) == 2
    assert lines[0].endswith("edge.edge-1/0@4 by router-1 (redis) to 77 u2 106 after 90 text u1→u2 5/7 hello")
    first, second = _json((where, record))
    assert (first["number"], second["number"], first["incarnation"], first["router"]) == (0, 1, 77, "router-1")
    assert first["payload"]["prev"] == 90  # type: ignore[index]


def test_the_same_records_give_the_same_bytes() -> None:
    records: list[Sourced] = [(MESSAGES, _message(f"text {n}")) for n in range(50)]
    for as_json in (False, True):
        whole = Lines(TOPICS, as_json=as_json).batch(records)
        lines = Lines(TOPICS, as_json=as_json)
        assert b"".join(lines.batch(records[at : at + 7]) for at in range(0, 50, 7)) == whole


def test_unknown_fields_do_no_harm() -> None:
    value = encode({"type": "message", "from": 1, "sent_at": 1, "kind": "news", "more": {"x": 1}})
    (line,) = _shown((MESSAGES, Consumed(1, AT, b"u2", value, ())))
    assert "news" in line
