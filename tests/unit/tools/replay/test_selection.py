"""Times, and which records are wanted."""

from __future__ import annotations

import pytest

from chat.message_id import MessageId
from chat.protocol import Message, encode
from chat.records import Consumed, Delivery, DeliveryBatch, TopicPartition, pack_deliveries, splice
from chat.tools.replay.pace import Pace, parse_speed
from chat.tools.replay.selection import Which, by_key, in_deliveries, in_messages, parse_time

NOW = 1_767_225_600_000  # 2026-01-01T00:00 UTC
PLACE = TopicPartition("chat.messages", 0)


def _record(key: str, sender: int, to: int | None = None, *, group: int | None = None, seq: int = 7) -> Consumed:
    message = Message(sender=sender, to=to, group=group, stream=5, seq=seq, sent_at=9, kind="text", text="x")
    return Consumed(3, 9, key.encode(), encode(message), ())


RECORDS = {
    "to me": _record("u2", 1, 2),
    "my copy": _record("u2", 2, 1),
    "the other's copy": _record("u1", 2, 1),
    "in a group": _record("g7", 2, group=7),
    "by another in a group": _record("g7", 1, group=7),
    "of others": _record("u3", 4, 3),
    "another seq": _record("u1", 2, 1, seq=70),
    "no message": Consumed(3, 9, b"u2", b"{", ()),
    "no key": Consumed(3, 9, None, b"{}", ()),
}


def _chosen(which: Which) -> set[str]:
    wanted = in_messages(which)
    assert wanted is not None
    return {name for name, record in RECORDS.items() if wanted(PLACE, record)}


def test_what_is_wanted_of_messages() -> None:
    assert in_messages(Which()) is None
    mine = {"to me", "my copy", "the other's copy", "in a group", "another seq", "no message"}
    assert _chosen(Which(user=2)) == mine
    assert _chosen(Which(group=7)) == {"in a group", "by another in a group"}
    assert _chosen(Which(user=2, group=7)) == {"in a group"}
    assert _chosen(Which(user=2, conversation="u1")) == {"to me", "my copy", "no message"}
    assert _chosen(Which(conversation="g7")) == {"in a group", "by another in a group"}
    assert _chosen(Which(message=MessageId(2, "u1", 5, 7))) == {"my copy", "the other's copy"}
    assert _chosen(Which(message=MessageId(2, "u1", 5, 7), user=1)) == {"the other's copy"} | set()
    assert _chosen(Which(message=MessageId(2, "g7", 5, 7))) == {"in a group"}
    assert _chosen(Which(message=MessageId(2, "u1", 5, 8))) == set()


def test_what_is_wanted_elsewhere() -> None:
    payload = splice(RECORDS["to me"].value, None, 4)
    batch = pack_deliveries(DeliveryBatch(9, [Delivery("u2", 4, 9, None, False, payload)]))
    record = Consumed(0, 9, None, batch, ())
    for which, expected in ((Which(user=2), True), (Which(user=3), False), (Which(group=7), False)):
        wanted = in_deliveries(which)
        assert wanted is not None
        assert wanted(PLACE, record) is expected
    chosen = by_key(Which(user=2))
    assert chosen is not None
    assert chosen(PLACE, RECORDS["to me"])
    assert not chosen(PLACE, RECORDS["of others"])


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2h", NOW - 7_200_000),
        ("1d12h", NOW - 129_600_000),
        ("90s", NOW - 90_000),
        ("1.5s", NOW - 1_500),
        ("2026-01-01", NOW),
        ("2025-12-31T23:59:30", NOW - 30_000),
        ("2026-01-01T01:00+01:00", NOW),
        ("0:30", NOW + 1_800_000),
        (str(NOW), NOW),
    ],
)
def test_times(text: str, ms: int) -> None:
    assert parse_time(text, NOW) == ms


@pytest.mark.parametrize("text", ["", "soon", "2x", "2026-13-01", "h"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        parse_time(text, NOW)


def test_the_pace_is_that_of_the_records() -> None:
    speed = parse_speed("10x")
    assert speed == 10
    assert parse_speed("max") is None
    pace = Pace(speed)
    assert pace.due(5_000, 100.0) == 100.0
    assert pace.due(7_000, 100.1) == 100.2
    assert pace.due(4_000, 100.2) < 100.2
    for text in ("0x", "fast", "-1"):
        with pytest.raises(ValueError, match="no speed"):
            parse_speed(text)
