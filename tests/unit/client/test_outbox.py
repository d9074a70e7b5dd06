from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import pytest

from chat.client.lane import RETRY_MAX
from chat.client.outbox import NOTHING, STALLED, Changes, Entry, Outbox, OutboxFull, TooLarge
from chat.protocol import Error, Send

STREAM = 1


def outbox(saved: Iterable[Entry] = (), **more: object) -> Outbox:
    made = Outbox(STREAM, count(100).__next__, saved, **more)  # type: ignore[arg-type]
    made.connected(0.0)
    return made


def compose(box: Outbox, texts: str, conversation: str = "u34") -> list[Entry]:
    """One message for each letter."""
    return [e for text in texts for e in box.add(conversation, text, created=1_000).put]


def sent(box: Outbox, now: float = 0.0) -> list[tuple[str, int, int]]:
    return [(e.text, e.stream, e.seq) for e in box.sends(now)]


def refusal(code: str, seq: int, *, to: int = 34, stream: int = STREAM, **more: int) -> Error:
    retriable = code in ("sequence_gap", "rate_limited", "unavailable")
    return Error(code=code, message="m", retriable=retriable, to=to, stream=stream, seq=seq, **more)  # type: ignore[arg-type]


def accept(box: Outbox, seq: int, *, stream: int = STREAM) -> str:
    return "".join(e.text for e in box.accepted("u34", stream, seq, 0.0).accepted)


def left(box: Outbox) -> str:
    return "".join(e.text for e in box)


# ------------------------------------------------------------------ the straight way


def test_messages_are_numbered_sent_in_order_and_kept_until_accepted() -> None:
    box = outbox()
    compose(box, "ab")
    assert sent(box) == [("a", 1, 0), ("b", 1, 1)]
    assert sent(box) == []
    compose(box, "c")
    assert sent(box) == [("c", 1, 2)]
    assert (left(box), len(box)) == ("abc", 3)
    assert accept(box, 1) == "ab"
    assert accept(box, 1) == ""
    assert accept(box, 2) == "c"
    assert len(box) == 0


def test_a_stream_that_has_rested_for_weeks_is_not_gone_on_with() -> None:
    """Its head is left out of what a new device begins from by then."""
    box = outbox()
    day = 86_400_000

    def numbered(text: str, at: int) -> tuple[int, int]:
        (entry,) = box.add("u34", text, created=at).put
        assert [e.text for e in box.sends(0.0)] == [text]
        return entry.stream, entry.seq

    assert numbered("a", 0) == (1, 0)
    assert numbered("b", 24 * day) == (1, 1)
    assert numbered("c", 50 * day) == (1, 2)  # "b" is not accepted: no seq is left out, and `expire` gives it up
    accept(box, 2)
    assert numbered("d", 74 * day) == (1, 3)
    accept(box, 3)
    assert numbered("e", 99 * day) == (100, 0)
    accept(box, 0, stream=100)
    assert numbered("f", 100 * day) == (100, 1)
    assert box.add("g7", "g", created=100 * day).put[0].stream == 1


def test_conversations_are_numbered_apart_and_sent_in_the_order_of_composition() -> None:
    box = outbox()
    for text, conversation in (("a", "u34"), ("b", "g7"), ("c", "u34")):
        compose(box, text, conversation)
    assert sent(box) == [("a", 1, 0), ("b", 1, 0), ("c", 1, 1)]


def test_an_entry_is_the_request_it_becomes() -> None:
    box = outbox()
    (entry,) = box.add("u34", "a", created=1, extra={"x": 1}, seen=5, receipt=True).put
    assert entry.request() == Send(to=34, stream=1, seq=0, text="a", extra={"x": 1}, seen=5, receipt=True)
    (entry,) = box.add("g7", "a", created=1).put
    assert entry.request() == Send(group=7, stream=1, seq=0, text="a")


def test_nothing_is_sent_before_log_in_and_everything_again_after_the_next() -> None:
    box = outbox()
    box.disconnected()
    compose(box, "abc")
    assert sent(box) == []
    box.connected(0.0)
    assert len(sent(box)) == 3
    accept(box, 0)
    box.disconnected()
    box.connected(0.0)
    assert sent(box) == [("b", 1, 1), ("c", 1, 2)]


def test_what_was_not_sent_on_this_connection_is_not_accepted() -> None:
    box = outbox()
    compose(box, "ab")
    assert accept(box, 1) == ""
    assert box.accepted("u99", STREAM, 0, 0.0) == NOTHING


def test_only_so_many_are_under_way() -> None:
    box = outbox(under_way=3)
    compose(box, "abcde")
    compose(box, "x", "g7")
    assert [t for t, _, _ in sent(box)] == ["a", "b", "c"]
    assert sent(box) == []
    accept(box, 1)
    assert [t for t, _, _ in sent(box)] == ["d", "e"]
    accept(box, 4)
    assert [t for t, _, _ in sent(box)] == ["x"]


def test_the_outbox_is_bounded() -> None:
    box = outbox(entries=2)
    compose(box, "ab")
    with pytest.raises(OutboxFull):
        compose(box, "c")
    sent(box)
    accept(box, 0)
    assert compose(box, "c")[0].seq == 2
    with pytest.raises(OutboxFull):
        outbox(size=5).add("u34", "123456", created=1)


def test_what_fits_no_frame_is_not_added() -> None:
    box = outbox(max_frame=100)
    with pytest.raises(TooLarge):
        box.add("u34", "a" * 100, created=1)
    assert len(box) == 0
    assert compose(box, "a")[0].seq == 0


# ------------------------------------------------------------------ the disk


def test_nothing_is_sent_before_it_is_stored() -> None:
    box = outbox(keeps=True)
    first, second = (box.add("u34", t, created=1) for t in "ab")
    assert sent(box) == []
    box.stored(second)
    assert sent(box) == []  # in order
    box.stored(first)
    assert [t for t, _, _ in sent(box)] == ["a", "b"]


def test_a_new_number_is_stored_before_it_is_sent() -> None:
    box = outbox(keeps=True)
    changes = [box.add("u34", t, created=1) for t in "ab"]
    for change in changes:
        box.stored(change)
    sent(box)
    box.refused(refusal("bad_request", 0), 0.0)
    renumbered = box.refused(refusal("sequence_gap", 1, expected=0), 0.0)
    assert [(e.text, e.seq) for e in renumbered.put] == [("b", 0)]
    assert sent(box, 9.0) == []
    box.stored(changes[1])  # an older version of it
    assert sent(box, 9.0) == []
    box.stored(renumbered)
    assert sent(box, 9.0) == [("b", 1, 0)]


def test_a_new_run_drains_the_old_stream_and_numbers_on_its_own() -> None:
    saved = compose(outbox(), "abc")[1:]
    box = Outbox(2, count(100).__next__, reversed(saved))
    compose(box, "d")
    box.connected(0.0)
    assert sent(box) == [("b", 1, 1), ("c", 1, 2), ("d", 2, 0)]
    assert accept(box, 2, stream=1) == "bc"
    assert accept(box, 0, stream=2) == "d"


def test_ids_go_on_where_they_ended() -> None:
    saved = compose(outbox(), "ab")
    assert compose(Outbox(2, count(100).__next__, saved), "c")[0].id > max(e.id for e in saved)


def test_a_stream_is_never_numbered_on_by_a_later_run() -> None:
    with pytest.raises(ValueError, match="earlier"):
        Outbox(STREAM, count(100).__next__, compose(outbox(), "a"))


def test_saved_entries_with_a_hole_are_refused() -> None:
    a, _, c = compose(outbox(), "abc")
    with pytest.raises(ValueError, match="stored behind"):
        Outbox(2, count(100).__next__, [a, c])


# ------------------------------------------------------------------ refused for now


def test_after_a_retriable_refusal_the_same_again_in_order_when_all_is_answered() -> None:
    box = outbox()
    compose(box, "abcd")
    sent(box)
    box.refused(refusal("rate_limited", 1, retry_after_ms=2_000), 10.0)
    box.refused(refusal("sequence_gap", 2, expected=1), 10.0)
    assert accept(box, 0) == "a"
    compose(box, "e")
    assert sent(box, 20.0) == []  # d has not been answered
    box.refused(refusal("sequence_gap", 3, expected=1), 10.0)
    assert box.next_tick == 12.0
    assert sent(box, 11.9) == []
    assert sent(box, 12.0) == [("b", 1, 1), ("c", 1, 2), ("d", 1, 3), ("e", 1, 4)]


def test_a_rate_is_the_users_so_all_conversations_wait() -> None:
    box = outbox()
    compose(box, "a")
    sent(box)
    box.refused(refusal("rate_limited", 0, retry_after_ms=1_000), 0.0)
    compose(box, "b", "g7")
    assert sent(box, 0.5) == []
    assert len(sent(box, 1.0)) == 2


def test_another_part_away_holds_up_its_conversation_alone() -> None:
    box = outbox()
    compose(box, "a")
    sent(box)
    box.refused(refusal("unavailable", 0), 0.0)
    compose(box, "b", "g7")
    assert [t for t, _, _ in sent(box, 0.0)] == ["b"]


def test_retries_back_off_until_something_is_accepted() -> None:
    box = outbox()
    compose(box, "ab")
    now, waits = 0.0, []
    for _ in range(9):
        assert sent(box, now) == [("a", 1, 0), ("b", 1, 1)]
        box.refused(refusal("unavailable", 0), now)
        box.refused(refusal("sequence_gap", 1, expected=0), now)
        assert box.next_tick is not None
        waits.append(round(box.next_tick - now, 3))
        now = box.next_tick
    assert waits[:4] == [0.05, 0.1, 0.2, 0.4]
    assert waits[-1] == RETRY_MAX
    sent(box, now)
    accept(box, 0)
    box.refused(refusal("unavailable", 1), now)
    assert box.next_tick == pytest.approx(now + 0.05)


def test_errors_that_do_not_concern_what_is_under_way_change_nothing() -> None:
    box = outbox()
    compose(box, "ab")
    sent(box)
    accept(box, 0)
    for error in (
        refusal("bad_request", 0),
        refusal("bad_request", 2),
        refusal("bad_request", 1, to=35),
        refusal("bad_request", 1, stream=9),
        Error(code="forbidden", message="m", retriable=False),
        Error(code="bad_request", message="m", retriable=False, to=34, stream=STREAM),
        Error(code="bad_request", message="m", retriable=False, stream=STREAM, seq=1),
    ):
        assert box.refused(error, 0.0) == NOTHING
    assert accept(box, 1) == "b"


# ------------------------------------------------------------------ refused for good


def test_a_refused_one_is_dropped_and_those_behind_it_are_numbered_anew() -> None:
    box = outbox()
    compose(box, "abcd")
    sent(box)
    assert box.refused(refusal("bad_request", 1), 0.0) == NOTHING
    assert box.refused(refusal("sequence_gap", 2, expected=1), 0.0) == NOTHING
    assert accept(box, 0) == "a"
    changes = box.refused(refusal("sequence_gap", 3, expected=1), 0.0)
    assert [(e.text, e.seq) for e in changes.put] == [("c", 1), ("d", 2)]
    assert [(f.entry.text, f.code, f.certain) for f in changes.failed] == [("b", "bad_request", True)]
    assert changes.gone == [2]
    assert sent(box, 9.0) == [("c", 1, 1), ("d", 1, 2)]
    assert compose(box, "e")[0].seq == 3


def test_it_is_settled_by_an_accepted_too() -> None:
    box = outbox()
    compose(box, "ab")
    sent(box)
    box.refused(refusal("blocked", 1), 0.0)
    changes = box.accepted("u34", STREAM, 0, 0.0)
    assert [e.text for e in changes.accepted] == ["a"]
    assert [f.entry.text for f in changes.failed] == ["b"]
    assert compose(box, "c")[0].seq == 1


def test_several_refused_at_once() -> None:
    box = outbox()
    compose(box, "abcd")
    sent(box)
    for seq, code in ((0, "bad_request"), (1, "sequence_gap"), (2, "bad_request"), (3, "sequence_gap")):
        changes = box.refused(refusal(code, seq), 0.0)
    assert [f.entry.text for f in changes.failed] == ["a", "c"]
    assert sent(box, 9.0) == [("b", 1, 0), ("d", 1, 1)]


def test_a_refused_one_that_an_earlier_connection_sent_is_given_up_as_uncertain_and_its_stream_ends() -> None:
    box = outbox()
    compose(box, "abc")
    assert len(sent(box)) == 3
    box.disconnected()
    compose(box, "d")
    box.connected(0.0)
    assert len(sent(box)) == 4
    box.refused(refusal("blocked", 1), 0.0)
    box.refused(refusal("sequence_gap", 2, expected=1), 0.0)
    box.refused(refusal("sequence_gap", 3, expected=1), 0.0)
    changes = box.accepted("u34", STREAM, 0, 0.0)
    assert [(f.entry.text, f.code, f.certain) for f in changes.failed] == [("b", "blocked", False), ("c", "behind", False)]
    assert [(e.text, e.stream, e.seq) for e in changes.put] == [("d", 100, 0)]
    assert sent(box, 9.0) == [("d", 100, 0)]
    entry = compose(box, "e")[0]
    assert (entry.stream, entry.seq) == (100, 1)
    assert compose(box, "f", "g7")[0].stream == STREAM


def test_what_lies_before_it_is_still_under_way() -> None:
    box = outbox()
    compose(box, "ab")
    sent(box)
    box.disconnected()
    box.connected(0.0)
    sent(box)
    box.refused(refusal("blocked", 1), 0.0)
    assert left(box) == "ab"
    box.disconnected()
    assert left(box) == "a"
    box.connected(0.0)
    assert sent(box) == [("a", 1, 0)]
    assert accept(box, 0) == "a"


def test_behind_a_refused_one_nothing_was_taken_so_a_reconnect_leaves_it_certain() -> None:
    box = outbox()
    compose(box, "abc")
    sent(box)
    box.refused(refusal("bad_request", 1), 0.0)
    changes = box.disconnected()  # before c was answered
    assert [(f.entry.text, f.certain) for f in changes.failed] == [("b", True)]
    assert [(e.text, e.seq) for e in changes.put] == [("c", 1)]
    box.connected(0.0)
    sent(box)
    box.refused(refusal("bad_request", 1), 0.0)
    assert [f.certain for f in box.accepted("u34", STREAM, 0, 0.0).failed] == [True]


def test_after_a_retriable_refusal_alone_a_reconnect_leaves_it_certain_too() -> None:
    box = outbox()
    compose(box, "a")
    sent(box)
    box.refused(refusal("unavailable", 0), 0.0)
    assert box.disconnected() == NOTHING
    box.connected(0.0)
    sent(box)
    (failed,) = box.refused(refusal("blocked", 0), 0.0).failed
    assert failed.certain


def test_loaded_entries_count_as_sent() -> None:
    saved = compose(outbox(), "ab")
    box = Outbox(2, count(100).__next__, saved)
    box.connected(0.0)
    sent(box)
    box.refused(refusal("not_found", 0), 0.0)
    changes = box.refused(refusal("sequence_gap", 1, expected=0), 0.0)
    assert [(f.entry.text, f.certain) for f in changes.failed] == [("a", False), ("b", False)]
    assert changes.put == ()
    assert len(box) == 0


# ------------------------------------------------------------------ giving up


def test_what_was_never_sent_may_be_cancelled() -> None:
    box = outbox(under_way=1)
    a, b, c = compose(box, "abc")
    sent(box)
    assert box.cancel(a.id) is None
    changes = box.cancel(b.id)
    assert changes is not None
    assert [(f.entry.text, f.code, f.certain) for f in changes.failed] == [("b", "cancelled", True)]
    assert [(e.text, e.seq) for e in changes.put] == [("c", 1)]
    accept(box, 0)
    assert sent(box) == [("c", 1, 1)]
    assert box.cancel(c.id) is None
    assert box.cancel(999) is None


def test_entries_grow_too_old() -> None:
    box = outbox()
    box.disconnected()
    old, new = box.add("u34", "a", created=1), box.add("u34", "b", created=5)
    changes = box.expire(5)
    assert [(f.entry, f.code, f.certain) for f in changes.failed] == [(old.put[0], "expired", True)]
    assert changes.put == (new.put[0]._replace(seq=0),)
    assert box.expire(5) == NOTHING


def test_what_is_under_way_does_not_grow_too_old_yet() -> None:
    box = outbox()
    compose(box, "ab")
    sent(box)
    assert box.expire(5_000) == NOTHING
    box.disconnected()
    changes = box.expire(5_000)
    assert [f.certain for f in changes.failed] == [False, False]
    assert compose(box, "c")[0].stream == 100


# ------------------------------------------------------------------ stalled


def test_a_connection_without_answers_is_of_no_use() -> None:
    box = outbox()
    compose(box, "ab")
    assert not box.stalled(1e6)
    sent(box, 5.0)
    assert box.next_tick == 5.0 + STALLED
    assert not box.stalled(5.0 + STALLED - 0.1)
    assert box.stalled(5.0 + STALLED)
    box.accepted("u34", STREAM, 0, 10.0)
    assert not box.stalled(10.0 + STALLED - 0.1)
    box.accepted("u34", STREAM, 1, 10.0)
    assert not box.stalled(1e6)
    assert box.next_tick is None


def test_an_edge_that_asks_for_what_was_accepted_is_left() -> None:
    box = outbox()
    compose(box, "ab")
    sent(box)
    accept(box, 0)
    box.refused(refusal("sequence_gap", 1, expected=0), 0.0)
    assert box.stalled(0.0)
    box.disconnected()
    assert not box.stalled(0.0)


def test_a_full_window_waits_for_answers_not_for_time() -> None:
    box = outbox(under_way=1)
    compose(box, "ab")
    sent(box, 0.0)
    assert box.next_tick == STALLED


def test_changes_know_what_to_remove() -> None:
    assert Changes().gone == []
