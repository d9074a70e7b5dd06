"""The router's memory of prev, and who gets what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from chat.persist.parse import Parsed, parse_messages
from chat.positions import position
from chat.protocol import Message, decode_event, encode
from chat.records import Consumed, Headers, TopicPartition, pack_deliveries
from chat.router.plan import Item, Location, Memory, cut, item, plan

P = TopicPartition("chat.messages", 0)


def record(offset: int, timeline: str = "u2", text: str = "hi", headers: Headers = ()) -> Consumed:
    to = int(timeline[1:])
    message = Message(sender=1, to=to, stream=1, seq=offset, sent_at=10 + offset, kind="text", text=text)
    return Consumed(offset, 10 + offset, timeline.encode(), encode(message), headers)


def items(count: int, timeline: str = "u2", text: str = "hi") -> list[Item]:
    return [one for n in range(count) if (one := item(record(n, timeline, text), 0, None))]


# ------------------------------------------------------------------ prev


def test_prev_is_zero_only_when_read_from_the_first_record_ever() -> None:
    memory = Memory(10)
    memory.begin(P, 0, first_ever=True)
    assert list(memory.read(P, 0, [record(0), record(1, "u3"), record(2)])) == [0, 0, 1]
    memory.begin(P, 0)
    assert list(memory.read(P, 0, [record(0), record(1)])) == [None, 1]


def test_beginning_again_forgets() -> None:
    memory = Memory(10)
    memory.begin(P, 5)
    list(memory.read(P, 0, [record(5)]))
    memory.begin(P, 6)
    assert list(memory.read(P, 0, [record(6)])) == [None]


def test_a_hole_in_the_offsets_forgets() -> None:
    memory = Memory(10)
    memory.begin(P, 0, first_ever=True)
    assert list(memory.read(P, 0, [record(0), record(2), record(3, "u9")])) == [0, None, None]


def test_forgetting_for_space_ends_the_certainty_of_zero() -> None:
    memory = Memory(1)
    memory.begin(P, 0, first_ever=True)
    assert list(memory.read(P, 0, [record(0, "u1"), record(1, "u2"), record(2, "u1"), record(3, "u3")])) == [
        0,
        0,
        None,
        None,
    ]


def test_partitions_that_are_lost_are_forgotten() -> None:
    memory, other = Memory(10), TopicPartition("chat.messages", 1)
    memory.begin(P, 0, first_ever=True)
    memory.begin(other, 0, first_ever=True)
    memory.keep_only([other], 10)
    assert list(memory.read(other, 0, [record(0)])) == [0]
    assert P not in memory._read


@given(
    log=st.lists(st.sampled_from(["u1", "u2", "g3", "u4"]), max_size=30),
    begins=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 10)), max_size=5),
    bound=st.integers(1, 4),
    generation=st.integers(0, 2),
)
def test_prev_is_the_record_before_or_unknown(
    log: list[str], begins: list[tuple[int, int]], bound: int, generation: int
) -> None:
    """However reading was begun again, in whatever pieces: a prev that is said is right, and 0 means none."""
    memory = Memory(bound)
    for start, length in [(0, 30), *begins]:
        memory.begin(P, start, first_ever=start == 0 and generation == 0)
        for at in range(start, len(log), length):
            piece = [record(n, log[n]) for n in range(at, min(at + length, len(log)))]
            for one, prev in zip(piece, memory.read(P, generation, piece), strict=True):
                before = [n for n in range(one.offset) if log[n] == log[one.offset]]
                right = position(generation, before[-1]) if before else 0
                assert prev in (None, right)
                assert prev != 0 or generation == 0


# ------------------------------------------------------------------ items


def test_an_item_is_the_frame_with_prev_and_pos() -> None:
    one = item(record(6, headers=(("k", b"read"), ("r", b""))), 0, 3)
    assert one is not None
    delivery = one.delivery
    assert (delivery.timeline, delivery.pos, delivery.sent_at, delivery.kind, delivery.receipt) == (
        "u2",
        7,
        16,
        "read",
        True,
    )
    message = decode_event(delivery.payload)
    assert isinstance(message, Message)
    assert (message.prev, message.pos, message.text) == (3, 7, "hi")


def test_what_is_no_message_of_ours_is_no_item() -> None:
    good = record(0)
    for key in (None, b"", b"u", b"x1", b"u01", b"u1x", b"u" + b"1" * 17):
        assert item(good._replace(key=key), 0, None) is None
    for value in (b"", b"{}", b"[1]", b'{"a":1', b"\xff}", b"[" * 5_000 + b"}", b'{"type":"message"}', b'{"type":"ack"}'):
        assert item(good._replace(value=value), 0, None) is None


def routed(value: bytes, key: bytes | None) -> bool:
    """Whether it becomes an item, which it must exactly where persist has an entry."""
    record = Consumed(0, 10, key, value, ())
    parsed = Parsed([], [], [])
    parse_messages(parsed, TopicPartition("chat.messages", 0), 0, [record])
    found = item(record, 0, None) is not None
    assert found == bool(parsed.entries)
    return found


def test_what_persist_would_bury_is_no_item() -> None:
    good = Message(sender=1, to=2, stream=1, seq=0, sent_at=10, kind="text", text="hi")
    in_group = Message(sender=1, group=2, stream=1, seq=0, sent_at=10, kind="text", text="hi")
    joined = Message(sender=1, group=2, sent_at=10, kind="group_joined", extra={"user": 1})
    read = Message(sender=1, to=2, sent_at=10, kind="read", extra={"sent_at": 4})
    assert routed(encode(good), b"u1")
    assert routed(encode(good), b"u2")
    assert routed(encode(in_group), b"g2")
    assert routed(encode(joined), b"g2")
    assert routed(encode(read), b"u2")
    for wrong, key in (
        (good, b"u3"), (good, b"g2"), (in_group, b"g3"), (in_group, b"u1"), (replace(good, to=None), b"u1"),
        (replace(good, seq=UNSET), b"u1"), (replace(good, stream=UNSET), b"u1"), (replace(good, text=UNSET), b"u1"),
        (replace(good, seq=2**53), b"u1"), (replace(good, stream=-1), b"u1"), (replace(good, sender=2**53), b"u2"),
        (replace(good, sent_at=-1), b"u1"), (replace(good, to=2**60), b"u1"), (replace(good, pos=7), b"u1"),
        (replace(good, prev=None), b"u1"), (replace(in_group, to=3), b"g2"),
        (replace(read, extra={}), b"u2"), (replace(read, sender=2**70), b"u2"), (replace(read, kind="Strange kind"), b"u2"),
    ):  # fmt: skip
        assert not routed(encode(wrong), key), wrong


def test_a_notice_is_no_item_where_a_client_would_take_it_for_another_timelines() -> None:
    """A client tells the timeline of a frame by its `group` alone: it would take the position for one of the other, and then
    drop the message that has it."""
    assert not routed(encode(Message(sender=1, to=2, sent_at=10, kind="read", extra={"sent_at": 4})), b"g2")
    assert not routed(encode(Message(sender=1, group=2, sent_at=10, kind="group_joined", extra={"user": 1})), b"u1")
    assert not routed(encode(Message(sender=1, group=3, sent_at=10, kind="group_joined", extra={"user": 1})), b"g2")
    assert not routed(encode(Message(sender=1, to=2, sent_at=10, kind="anything")), b"u3")


MESSAGES = st.builds(
    Message,
    sender=st.sampled_from([0, 1, 2, 2**53, 2**70]),
    to=st.sampled_from([None, -1, 1, 2, 2**53]),
    group=st.sampled_from([None, 0, 2, 3]),
    sent_at=st.just(10),
    kind=st.sampled_from(["text", "read", "delivered", "friend_request", "group_joined", "group_left", "new_kind", "A", ""]),
    stream=st.sampled_from([UNSET, 1]),
    seq=st.sampled_from([UNSET, 0]),
    text=st.sampled_from([UNSET, "hi"]),
    extra=st.dictionaries(
        st.sampled_from(["user", "sent_at", "stream", "seq", "group", "to"]), st.sampled_from([0, 2, "2", -1])
    ),
)


@given(MESSAGES, st.sampled_from([b"u1", b"u2", b"u3", b"g2", b"g3", b"u9007199254740992", None]))
def test_an_item_reads_as_of_its_own_timeline(message: Message, key: bytes | None) -> None:
    if routed(encode(message), key):
        group = message.group
        assert key in ((b"u%d" % message.sender, b"u%d" % (message.to or 0)) if group is None else (b"g%d" % group,))


# ------------------------------------------------------------------ plans


def test_deliveries_go_once_to_each_edge_that_is_leased() -> None:
    found = {
        "u2": [Location("a", 1), Location("a", 1), Location("b", 2), Location("c", 8)],
        "u3": [Location("a", 7)],
        "u4": [],
    }
    mixed = [*items(1, "u2"), *items(1, "u3"), *items(1, "u4"), *items(1, "u5")]
    made = plan(mixed, found, {"a": 1, "b": 2, "c": 9}, 900_000)
    assert {e: [[d.timeline for d in b.deliveries] for b in batches] for e, batches in made.edges.items()} == {
        "a": [["u2"]],
        "b": [["u2"]],
    }
    assert [b.incarnation for batches in made.edges.values() for b in batches] == [1, 2]
    assert (made.offline, made.dead) == (3, 2)


def test_one_batch_an_edge_where_it_fits() -> None:
    made = plan(items(100), {"u2": [Location("a", 1)]}, {"a": 1}, 900_000)
    assert [len(b.deliveries) for b in made.edges["a"]] == [100]


@given(
    sizes=st.lists(st.integers(0, 3_000), max_size=30),
    limit=st.integers(1_000, 10_000),
    incarnation=st.none() | st.integers(0, 2**48),
)
def test_batches_stay_below_the_bound_in_order(sizes: list[int], limit: int, incarnation: int | None) -> None:
    made = [one for n, size in enumerate(sizes) if (one := item(record(2**43 + n, text="é" * size), 511, 2**52))]
    batches = list(cut(made, incarnation, limit))
    assert [d for b in batches for d in b.deliveries] == [one.delivery for one in made]
    for batch in batches:
        assert len(pack_deliveries(batch)) + 80 <= limit or len(batch.deliveries) == 1
