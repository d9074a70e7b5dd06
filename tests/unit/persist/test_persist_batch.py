"""What a transaction of persist changes; and that it does not matter how the log is cut into transactions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.persist.batch import Changes, Delivered, build
from chat.persist.parse import Parsed, parse_messages, parse_receipts
from chat.persist.relations import Stay
from chat.protocol import Message, encode
from chat.records import Consumed, Receipts, notice
from tests.unit.persist.persist_tables import P, Tables


def record(offset: int, timeline: str, message: Message, *, receipt: bool = False) -> Consumed:
    headers = () if message.kind == "text" else (("k", message.kind.encode()),)
    return Consumed(
        offset, message.sent_at, timeline.encode(), encode(message), headers + ((("r", b""),) if receipt else ())
    )


def text(offset: int, seq: int, said: str = "hi", **more: Any) -> Consumed:
    stream, sender = more.get("stream", 5), more.get("sender", 1)
    message = Message(sender=sender, to=2, stream=stream, seq=seq, sent_at=100 + offset, kind="text", text=said)
    return record(offset, more.get("timeline", "u2"), message)


def note(offset: int, timeline: str, kind: str, sender: int, **more: Any) -> Consumed:
    return record(offset, timeline, notice(kind, sender=sender, sent_at=100 + offset, **more))


def member(offset: int, kind: str, user: int, sender: int = 0) -> Consumed:
    return note(offset, "g7", kind, sender or user, group=7, extra={"user": user, "name": "x", "group": 7})


# ------------------------------------------------------------------ texts


def test_a_text_is_a_row_and_a_head() -> None:
    tables = Tables()
    message = Message(sender=1, to=2, stream=5, seq=0, sent_at=9, kind="text", text="hi", extra={"a": 1})
    tables.store([record(3, "u2", message, receipt=True), record(4, "u1", message)])
    row = tables.rows["u2", 4]
    assert (row.conversation, row.stream, row.seq, row.receipt, row.record.value) == ("u1", 5, 0, True, encode(message))
    assert tables.rows["u1", 5].conversation == "u2"
    assert {(s.timeline, s.conversation): h for s, h in tables.heads.items()} == {
        ("u2", "u1"): (1, 9, 4),
        ("u1", "u2"): (1, 9, 5),
    }


def test_a_resend_is_dropped_in_the_batch_and_behind_it() -> None:
    tables = Tables()
    tables.store([text(0, 0), text(1, 1), text(2, 0)])
    tables.store([text(3, 1), text(4, 2)])
    assert [pos for _, pos in tables.rows] == [1, 2, 5]
    assert (tables.duplicates, tables.dead) == (2, {})


@pytest.mark.parametrize("batches", [1, 2])
def test_the_same_id_with_other_words_is_dead(batches: int) -> None:
    tables, log = Tables(), [text(0, 0, "one"), text(1, 0, "two")]
    for piece in [log] if batches == 1 else [[r] for r in log]:
        tables.store(piece)
    assert len(tables.rows) == 1
    assert "position 1" in tables.dead[1]


def test_a_duplicate_whose_first_copy_was_archived_is_dropped() -> None:
    tables = Tables()
    tables.store([text(0, 0)])
    tables.rows.clear()
    tables.store([text(1, 0, "other")])
    assert (tables.rows, tables.dead, tables.duplicates) == ({}, {}, 1)


def test_a_hole_is_stored_and_told() -> None:
    tables = Tables()
    tables.store([text(0, 0)])
    changes = tables.store([text(1, 4), text(2, 5)])
    assert [e.seq for e in changes.holes] == [4]
    assert [e.seq for e in tables.rows.values()] == [0, 4, 5]
    assert next(iter(tables.heads.values()))[0] == 6


def test_the_first_seq_seen_starts_a_stream() -> None:
    changes = Tables().store([text(0, 3), text(1, 4)])
    assert (changes.holes, len(changes.rows)) == ([], 2)


def test_streams_of_other_senders_and_timelines_are_other_streams() -> None:
    tables = Tables()
    both = Message(sender=2, to=1, stream=5, seq=0, sent_at=1, kind="text", text="x")
    tables.store([text(0, 0), record(1, "u2", both), record(2, "u1", both)])
    assert len(tables.rows) == len(tables.heads) == 3


# ------------------------------------------------------------------ marks


def test_read_counts_in_the_readers_own_timeline() -> None:
    tables = Tables()
    tables.store(
        [note(0, "u2", "read", 2, to=1, extra={"sent_at": 50}), note(1, "u2", "read", 2, to=1, extra={"sent_at": 40})]
    )
    tables.store([note(2, "u1", "read", 2, to=1, extra={"sent_at": 50})])
    tables.store([note(3, "u2", "read", 2, to=2, extra={"sent_at": 7})])
    tables.store([note(4, "u2", "read", 2, to=2, extra={"sent_at": 60, "group": 7})])
    assert tables.read == {(2, "u1"): 50, (2, "u2"): 7, (2, "g7"): 60}
    assert tables.rows == {}


def test_delivered_keeps_the_highest_of_a_stream_and_the_latest_stream() -> None:
    tables = Tables()
    said = [(5, 3), (5, 1), (6, 0), (6, 2)]
    for offset, (stream, seq) in enumerate(said):
        tables.store([note(offset, "u1", "delivered", 2, to=1, extra={"to": 2, "stream": stream, "seq": seq})])
        if offset == 1:
            assert tables.delivered == {(1, "u2"): Delivered(5, 3, 2)}
    assert tables.delivered == {(1, "u2"): Delivered(6, 2, 4)}


def test_cursors_only_grow() -> None:
    parsed = Parsed([], [], [])
    acks = [Receipts(1, "device-one", {"u1": 5, "g7": 9}), Receipts(1, "device-one", {"u1": 3})]
    parse_receipts(parsed, P, [Consumed(n, 0, b"u1", encode(a), ()) for n, a in enumerate(acks)])
    assert build(parsed, Tables().known(_none())).cursors == {(1, "device-one", "u1"): 5, (1, "device-one", "g7"): 9}


# ------------------------------------------------------------------ friends, groups


def test_friendship_by_request_and_answer() -> None:
    tables = Tables()
    ask, accept = ("friend_request", 1), ("friend_accepted", 2)
    for offset, (kind, sender) in enumerate((ask, accept)):
        tables.store(
            [note(offset * 2, "u1", kind, sender, to=3 - sender), note(offset * 2 + 1, "u2", kind, sender, to=3 - sender)]
        )
        if not offset:
            assert tables.friends == {(1, 2): "asked", (2, 1): "asking"}
    assert tables.friends == {(1, 2): "friend", (2, 1): "friend"}
    tables.store([note(9, "u1", "friend_removed", 2, to=1)])
    assert tables.friends == {(2, 1): "friend"}
    assert len(tables.rows) == 5


@pytest.mark.parametrize(
    ("before", "kind", "sender", "after"),
    [
        (None, "friend_request", 1, "asked"), (None, "friend_request", 2, "asking"),
        ("asking", "friend_request", 1, "friend"), ("asked", "friend_request", 2, "friend"),
        ("asked", "friend_request", 1, "asked"), ("friend", "friend_request", 2, "friend"),
        ("asking", "friend_accepted", 1, "friend"), ("asked", "friend_accepted", 1, "asked"),
        ("asked", "friend_accepted", 2, "friend"), ("asking", "friend_accepted", 2, "asking"),
        (None, "friend_accepted", 2, None), ("asked", "friend_rejected", 2, None), ("asking", "friend_rejected", 1, None),
        ("friend", "friend_rejected", 2, "friend"), ("friend", "friend_removed", 1, None), (None, "friend_removed", 2, None),
    ],
)  # fmt: skip
def test_every_rule_of_friendship(before: str | None, kind: str, sender: int, after: str | None) -> None:
    tables = Tables()
    if before:
        tables.friends[1, 2] = before
    tables.store([note(0, "u1", kind, sender, to=3 - sender)])
    assert tables.friends.get((1, 2)) == after


def test_nobody_befriends_himself() -> None:
    tables = Tables()
    tables.store([note(0, "u1", "friend_request", 1, to=1)])
    assert (tables.friends, tables.dead, len(tables.rows)) == ({}, {}, 1)


@pytest.mark.parametrize("together", [True, False])
def test_stays_in_a_group(together: bool) -> None:
    log = [
        member(0, "group_joined", 1), member(1, "group_joined", 2, 1), member(2, "group_joined", 2),
        member(3, "group_left", 2), member(4, "group_left", 2), member(5, "group_joined", 3),
        member(6, "group_joined", 2), member(7, "group_removed", 3, 1), member(8, "group_left", 1),
    ]  # fmt: skip
    tables = Tables({7: 1})
    for piece in [log] if together else [[r] for r in log]:
        tables.store(piece)
    stays = sorted(tables.stays.values())
    assert stays == [
        Stay(7, 1, 1, 100, 9, 108), Stay(7, 2, 2, 101, 4, 103), Stay(7, 2, 7, 106, None), Stay(7, 3, 6, 105, 8, 107)
    ]  # fmt: skip
    assert tables.owners == {7: 2}
    assert len(tables.rows) == len(log)


def test_the_longest_member_becomes_owner_and_the_last_one_leaves_it_as_it_is() -> None:
    tables = Tables({7: 1})
    tables.store([member(n, "group_joined", user) for n, user in enumerate((1, 3, 2))])
    tables.store([member(3, "group_left", 1)])
    assert tables.owners == {7: 3}
    tables.store([member(4, "group_left", 2), member(5, "group_left", 3)])
    assert tables.owners == {7: 3}


def test_membership_notices_in_a_users_timeline_change_nothing() -> None:
    tables = Tables({7: 1})
    changes = tables.store([note(0, "u2", "group_joined", 1, to=2, extra={"user": 2, "group": 7, "name": "x"})])
    assert (tables.stays, len(changes.rows)) == ({}, 1)


# ------------------------------------------------------------------ the dead


_GOOD: dict[str, Any] = {
    "type": "message",
    "from": 1,
    "to": 2,
    "stream": 1,
    "seq": 0,
    "sent_at": 1,
    "kind": "text",
    "text": "x",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, _GOOD), (b"x1", _GOOD), (b"u02", _GOOD), (b"u2", b"{"), (b"u2", b"\xff"), (b"u2", encode(_GOOD) + b" "),
        (b"u2", _GOOD | {"from": 0}), (b"u2", _GOOD | {"from": 2**53}), (b"u2", _GOOD | {"sent_at": -1}),
        (b"u2", _GOOD | {"pos": 4}), (b"u2", _GOOD | {"prev": None}), (b"u3", _GOOD), (b"g2", _GOOD),
        (b"u2", _GOOD | {"group": 4}), (b"g4", _GOOD | {"group": 4}), (b"u2", {**_GOOD, "to": 0}),
        (b"u2", {k: v for k, v in _GOOD.items() if k != "seq"}), (b"u2", {k: v for k, v in _GOOD.items() if k != "text"}),
        (b"u2", _GOOD | {"seq": 2**53}), (b"u2", _GOOD | {"kind": "Strange kind"}), (b"u2", _GOOD | {"kind": "a" * 17}),
        (b"u2", _GOOD | {"kind": "read"}), (b"u2", _GOOD | {"kind": "read", "extra": {"sent_at": "1"}}),
        (b"u2", _GOOD | {"kind": "delivered", "extra": {"stream": 1}}), (b"u3", _GOOD | {"kind": "friend_request"}),
        (b"g4", {"type": "message", "from": 1, "group": 4, "sent_at": 1, "kind": "group_left", "extra": {"user": 0}}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_dead_with_a_reason(key: bytes | None, value: Any) -> None:
    body = value if isinstance(value, bytes) else encode(value)
    tables = Tables()
    tables.store([Consumed(0, 1, key, body, ()), text(1, 0)])
    assert list(tables.dead) == [0]
    assert tables.dead[0]
    assert len(tables.rows) == 1


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", encode(Receipts(0, "device-one", {})), encode(Receipts(1, "'; --", {})),
     encode(Receipts(1, "device-one", {"x1": 1})), encode(Receipts(1, "device-one", {"u1": -1}))],
)  # fmt: skip
def test_receipts_that_do_not_fit_are_dead(value: bytes) -> None:
    parsed = Parsed([], [], [])
    parse_receipts(parsed, P, [Consumed(0, 0, b"u1", value, ())])
    assert (len(parsed.dead), parsed.receipts) == (1, [])


@given(key=st.none() | st.binary(max_size=20), value=st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_dead(key: bytes | None, value: bytes) -> None:
    parsed = Parsed([], [], [])
    parse_messages(parsed, P, 0, [Consumed(0, 0, key, value, ())])
    parse_receipts(parsed, P, [Consumed(0, 0, key, value, ())])
    assert len(parsed.entries) + len(parsed.receipts) + len(parsed.dead) == 2


# ------------------------------------------------------------------ any batching, any redelivery


@st.composite
def logs(draw: st.DrawFn) -> list[Consumed]:
    """A log with resends, as the rules of the edge allow it, with notices and rubbish between."""
    log: list[Consumed] = []
    seqs: dict[int, int] = {}
    for _ in range(draw(st.integers(1, 25))):
        offset, what = len(log), draw(st.integers(0, 9))
        if what < 5:
            stream = draw(st.integers(1, 2))
            next_seq = seqs.get(stream, 0)
            seq = draw(st.integers(max(0, next_seq - 3), next_seq))
            seqs[stream] = max(next_seq, seq + 1)
            log.append(text(offset, seq, f"{stream}/{seq}", stream=stream))
        elif what == 5:
            log.append(
                text(offset, 0, "other words", stream=1) if seqs.get(1) else Consumed(offset, 0, b"u2", b"rubbish", ())
            )
        elif what == 6:
            kind = draw(st.sampled_from(["friend_request", "friend_accepted", "friend_rejected", "friend_removed"]))
            sender = draw(st.integers(1, 2))
            log.append(note(offset, "u1", kind, sender, to=3 - sender))
        elif what == 7:
            kind = draw(st.sampled_from(["group_joined", "group_left", "group_removed"]))
            log.append(member(offset, kind, draw(st.integers(1, 4))))
        elif what == 8:
            log.append(note(offset, "u2", "read", 2, to=1, extra={"sent_at": draw(st.integers(0, 9))}))
        else:
            extra = {"to": 2, "stream": draw(st.integers(1, 2)), "seq": draw(st.integers(0, 3))}
            log.append(note(offset, "u1", "delivered", 2, to=1, extra=extra))
    return log


@given(log=logs(), cuts=st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=60))
def test_any_cutting_and_any_lost_transaction_gives_the_same(log: list[Consumed], cuts: list[tuple[int, bool]]) -> None:
    """The second member of a cut says whether that transaction was rolled back (then it is read again)."""
    whole = Tables({7: 1})
    whole.store(log)
    cut = Tables({7: 1})
    steps = [*cuts, *[(1, True)] * len(log)]
    while cut.next_offset < len(log):
        length, committed = steps.pop(0)
        piece = log[cut.next_offset : cut.next_offset + length]
        changes = cut.changes(piece)
        if committed:
            cut.apply(changes, piece[-1].offset + 1)
    for name in ("rows", "heads", "read", "delivered", "friends", "stays", "owners", "dead", "duplicates", "next_offset"):
        assert getattr(cut, name) == getattr(whole, name), name
    texts = [(e.stream, e.seq) for e in cut.rows.values() if e.message.kind == "text"]
    assert len(texts) == len(set(texts))


def _none() -> Any:
    from chat.persist.batch import Needs

    return Needs()


def test_an_empty_batch_changes_nothing() -> None:
    assert build(Parsed([], [], []), Tables().known(_none())) == Changes()
