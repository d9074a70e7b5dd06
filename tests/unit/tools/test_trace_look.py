"""Records that a trace comes by; sessions out of presence events; what is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from chat.message_id import MessageId
from chat.positions import position
from chat.protocol import Message, encode
from chat.records import (
    Consumed,
    Delivery,
    DeliveryBatch,
    PresenceEvent,
    Receipts,
    Record,
    Routed,
    TopicPartition,
    Topics,
    dead_headers,
    message_records,
    notice,
    pack_deliveries,
    presence_record,
    receipts_record,
    routed_by,
    routed_headers,
    splice,
)
from chat.tools.trace.asked import At, Last, asked, group_number, user_number
from chat.tools.trace.facts import Ack, Facts, Way
from chat.tools.trace.look import Look, newest
from chat.tools.trace.sessions import sessions

TOPICS = Topics("t")
LOG, EDGE = TopicPartition(TOPICS.messages, 0), TopicPartition(TOPICS.edge("edge-1"), 0)


def text(seq: int, *, sender: int = 1, to: int = 2, stream: int = 5) -> Message:
    return Message(sender=sender, to=to, stream=stream, seq=seq, sent_at=50, kind="text", text=f"text {seq}")


def consumed(record: Record, offset: int) -> Consumed:
    return Consumed(offset, record.timestamp, record.key, record.value, record.headers)


@pytest.fixture
def facts() -> Facts:
    ways = [Way("u2", "to", readers=[2]), Way("u1", "own", readers=[1])]
    return Facts(now=0, id=MessageId(1, "u2", 5, 3), sender=1, ways=ways)


def test_its_records_its_deliveries_its_receipts(facts: Facts) -> None:
    look = Look(facts, TOPICS, True)
    there, own = (r.record for r in message_records(text(3), ["u2", "u1"]))
    look(LOG, consumed(there, 10))
    look(LOG, consumed(own._replace(headers=(("e", b"edge-9"),)), 11))
    look(LOG, consumed(there, 10))  # the same again: another pass came by
    for other in (text(4), text(3, stream=6), text(3, sender=3)):
        for one in message_records(other, ["u2", "u1"]):
            look(LOG, consumed(one.record, 12))
    assert [copy.pos for copy in facts.ways[0].copies] == [position(0, 10)]
    assert [(copy.pos, copy.edge) for copy in facts.ways[1].copies] == [(position(0, 11), "edge-9")]

    payload = splice(there.value, None, position(0, 10))
    batch = DeliveryBatch(4, [Delivery("u2", position(0, 10), there.timestamp, None, False, payload)])
    headers = routed_headers(Routed("router-1", "redis", 77))
    look(EDGE, Consumed(0, 78, None, pack_deliveries(batch), headers))
    look(EDGE, Consumed(1, 79, None, pack_deliveries(batch._replace(incarnation=None)), ()))  # of a router that says nothing
    look(EDGE, Consumed(2, 80, None, b"damaged" + payload, ()))
    one, other_one = facts.ways[0].handed
    assert (one.edge, one.incarnation, one.at, one.router, one.how, one.fetched) == (
        "edge-1",
        4,
        78,
        "router-1",
        "redis",
        77,
    )
    assert (other_one.incarnation, other_one.router) == (None, None)

    where = TopicPartition(TOPICS.receipts, 0)
    for offset, (device, pos) in enumerate([("a", 10), ("a", 11), ("a", 20), ("b", 30)]):
        look(where, consumed(receipts_record(Receipts(2, device, {"u2": pos, "g1": 99}), 100 + offset), offset))
    look(where, consumed(receipts_record(Receipts(9, "c", {"u2": 99}), 99), 9))
    assert facts.acks == {("u2", 2, "a"): Ack(11, 101), ("u2", 2, "b"): Ack(30, 103)}


def test_a_dead_record_is_found_by_where_it_was(facts: Facts) -> None:
    look = Look(facts, TOPICS, True)
    record = message_records(text(3), ["u2"])[0].record
    where = TopicPartition(TOPICS.dead, 0)
    for offset, headers in enumerate([dead_headers(TOPICS.messages, 0, 10, "why not"), dead_headers("x", 0, 10, ""), ()]):
        look(where, consumed(record._replace(headers=(("r", b""), *headers)), offset))
    assert [(dead.number, dead.pos, dead.why) for dead in facts.dead] == [(0, position(0, 10), "why not")]


def test_a_notice_is_found_by_its_position() -> None:
    pos = position(0, 10)
    facts = Facts(now=0, ways=[Way("u2", "to", readers=[2])])
    look = Look(facts, TOPICS, True)
    record = message_records(notice("friend_request", sender=1, to=2, sent_at=5), ["u2"])[0].record
    look.message(LOG, consumed(record, 10))
    look = Look(facts, TOPICS, True)
    payload = splice(record.value, 0, pos)
    look(EDGE, Consumed(0, 7, None, pack_deliveries(DeliveryBatch(4, [Delivery("u2", pos, 5, "k", False, payload)])), ()))
    look(LOG, consumed(record, 12))  # another one, that says the same
    assert ([c.pos for c in facts.ways[0].copies], [h.pos for h in facts.ways[0].handed]) == ([pos], [pos])


def test_the_newest_of_a_sender() -> None:
    found = [
        (LOG, consumed(r, n)) for n, m in enumerate([text(0), text(1), text(2, to=9)]) for _, r in message_records(m, ["u1"])
    ]
    assert newest(found, 1, []) == MessageId(1, "u9", 5, 2)
    assert newest(found, 1, ["u2"]) == MessageId(1, "u2", 5, 1)
    assert newest(found, 8, []) is None


@pytest.mark.parametrize("value", [b"", b"router", b"router redis x", b"a b c d", b"\xff \xff \xff"])
def test_a_header_that_says_nothing(value: bytes) -> None:
    assert routed_by((("by", value),)) is None
    assert routed_by(()) is None
    assert routed_by(routed_headers(Routed("router-1", "all", 5))) == Routed("router-1", "all", 5)


# ------------------------------------------------------------------ sessions


def event(
    what: Any, at: int, session: str, *, user: int = 2, device: str = "", edge: str = "e1", run: int = 1
) -> PresenceEvent:
    return PresenceEvent(event=what, user=user, at=at, edge=edge, incarnation=run, session=session, device=device or session)


def test_sessions_end_by_log_out_by_a_later_log_in_and_with_their_edge() -> None:
    found = sessions(
        [
            event("logout", 5, "z"),
            event("login", 10, "a"),
            event("login", 11, "b", device="a", edge="e2", run=7),
            event("login", 12, "c"),
            event("login", 13, "d", edge="e2", run=7),
            event("logout", 14, "a"),
            event("login", 20, "x", user=99, edge="e2", run=8),
            event("logout", 21, "b", device="a", edge="e2", run=7),
            event("login", 22, "d", edge="e2", run=8),
            event("blocked", 23, ""),
        ],
        {2},
    )
    assert {(s.session, s.since, s.until, s.ended) for s in found} == {
        ("z", None, 5, "logged out"),
        ("a", 10, 11, "replaced by a later log-in"),
        ("b", 11, 20, "its edge was restarted"),
        ("c", 12, None, ""),
        ("d", 22, None, ""),
    }
    assert found[0].open_at(4)
    assert not found[0].open_at(5)


def test_presence_records_are_kept_in_order_of_the_topic(facts: Facts) -> None:
    look, where = Look(facts, TOPICS, True), TopicPartition(TOPICS.presence, 0)
    for offset, one in ((4, event("logout", 9, "a")), (3, event("login", 8, "a"))):
        look(where, consumed(presence_record(one), offset))
    look(where, Consumed(5, 9, b"u2", b"{", ()))
    assert [e.event for _, e in sorted(look.events.items())] == ["login", "logout"]


# ------------------------------------------------------------------ what is asked


def test_what_is_asked() -> None:
    assert asked("1/u2/5/0", None, None, None, False) == MessageId(1, "u2", 5, 0)
    assert asked(None, None, None, "g7@12", False) == At("g7", 12)
    assert asked(None, "alice", "bob", None, True) == Last("alice", "bob")
    assert (user_number("id:12"), user_number("u12"), user_number("12")) == (12, None, None)
    assert (group_number("#7"), group_number("group:7"), group_number("g7")) == (7, 7, None)


@pytest.mark.parametrize(
    "words",
    [
        (None, None, None, None, False),
        ("1/u2/5/0", "alice", None, None, False),
        ("1/u2/5/0", None, "bob", None, False),
        (None, "alice", None, None, False),
        (None, None, None, "u0@1", False),
        (None, None, None, "u1@0", False),
        ("hello", None, None, None, False),
    ],
)
def test_what_cannot_be_asked(words: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        asked(*words)


def test_a_record_of_a_message_is_bytes_that_are_searched_for() -> None:
    """The search for bytes rests on the order of the fields."""
    assert b'"stream":5,"seq":3,' in encode(text(3))
