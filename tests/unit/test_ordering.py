"""The chain: what a reader takes, buffers, asks for and acknowledges. The sequence is in test_sequence.py."""

from __future__ import annotations

from typing import Any

import pytest

from chat.ordering import (
    BACKSTOP,
    RETRY_FAILED,
    RETRY_INCOMPLETE,
    Acknowledge,
    AskSync,
    Effect,
    ReaderState,
    Show,
    StartOver,
    TimelineReader,
)
from chat.protocol import Head, Message, Synced

ME = 42


def text(pos: int, seq: int, *, prev: int | None = None, stream: int = 5, sender: int = 34, to: int = ME) -> Message:
    return Message(sender=sender, to=to, stream=stream, seq=seq, sent_at=1, kind="text", text="x", prev=prev, pos=pos)


def notice(pos: int, *, prev: int | None = None) -> Message:
    return Message(sender=34, to=ME, sent_at=1, kind="friend_request", prev=prev, pos=pos)


def answer(*messages: Message, upto: int, complete: bool = True, **more: Any) -> Synced:
    return Synced(timeline="u42", messages=list(messages), upto=upto, complete=complete, **more)


def head(next_seq: int, *, stream: int = 5, sender: int = 34, to: int | None = ME) -> Head:
    return Head(sender=sender, to=to, stream=stream, next=next_seq)


def reader(known: int = 0, expected: int = 0, **more: Any) -> TimelineReader:
    """On line, its first sync answered."""
    made = TimelineReader("u42", ME, ReaderState(known, {(34, "u34", 5): expected} if expected else {}), **more)
    assert made.connected(0.0, known) == [AskSync("u42", known, False)]
    assert made.synced(answer(upto=known + 1), 0.0) == []
    return made


def shown(effects: list[Effect]) -> list[int]:
    return [e.message.pos for e in effects if isinstance(e, Show) and isinstance(e.message.pos, int)]


def asked(effects: list[Effect]) -> list[int]:
    return [e.after for e in effects if isinstance(e, AskSync)]


# ------------------------------------------------------------------ rule 1


def test_what_chains_is_shown_and_acknowledged_in_this_order() -> None:
    r = reader(10)
    message = text(12, 0, prev=9)
    assert r.delivery(message, 0.0) == [Show(message), Acknowledge("u42", 12)]
    assert r.known == 12


@pytest.mark.parametrize("pos", [1, 10])
def test_what_is_known_is_dropped(pos: int) -> None:
    r = reader(10)
    assert r.delivery(text(pos, 0, prev=0), 0.0) == []
    assert r.known == 10


@pytest.mark.parametrize("prev", [None, 11])
def test_what_does_not_chain_asks_for_a_sync_and_is_not_taken(prev: int | None) -> None:
    r = reader(10)
    assert r.delivery(text(12, 0, prev=prev), 0.0) == [AskSync("u42", 10, False)]
    assert r.known == 10


def test_prev_zero_chains_to_nothing_known() -> None:
    r = reader(0)
    assert shown(r.delivery(text(1, 0, prev=0), 0.0)) == [1]


def test_a_delivery_without_pos_is_refused() -> None:
    with pytest.raises(ValueError, match="without pos"):
        reader(0).delivery(Message(sender=1, sent_at=1, kind="text"), 0.0)


def test_nothing_is_taken_off_line() -> None:
    r = reader(10)
    r.disconnected()
    assert r.delivery(text(12, 0, prev=10), 0.0) == []
    assert (r.known, r.next_tick, r.tick(1e9), r.resync(0.0)) == (10, None, [], [])


# ------------------------------------------------------------------ rule 2


def test_one_sync_at_a_time() -> None:
    r = reader(10)
    assert asked(r.delivery(text(14, 1, prev=12), 0.0)) == [10]
    assert r.delivery(text(16, 2, prev=None), 0.0) == []
    assert r.resync(0.0) == []


def test_an_answer_is_taken_then_known_follows_upto_then_the_buffer() -> None:
    r = reader(10)
    r.delivery(text(14, 1, prev=12), 0.0)
    effects = r.synced(answer(text(12, 0), upto=13), 0.0)
    assert shown(effects) == [12, 14]
    assert effects[-1] == Acknowledge("u42", 14)
    assert asked(effects) == []


def test_known_follows_upto_without_rows() -> None:
    r = reader(10)
    r.resync(0.0)
    assert r.synced(answer(upto=21), 0.0) == [Acknowledge("u42", 20)]
    assert r.known == 20


def test_known_never_falls() -> None:
    r = reader(10)
    r.resync(0.0)
    assert r.synced(answer(upto=5), 0.0) == []
    assert r.known == 10


def test_what_was_seen_since_it_was_asked_asks_again() -> None:
    r = reader(10)
    r.delivery(text(14, 1, prev=None), 0.0)
    r.delivery(text(30, 2, prev=None), 0.0)
    assert asked(r.synced(answer(text(14, 0), upto=15), 0.0)) == [14]
    assert asked(r.synced(answer(text(30, 1), upto=31), 0.0)) == []


def test_what_was_seen_before_it_was_asked_is_answered_by_it() -> None:
    """A duplicate in the log is no row: its position is never known by a row, only by upto."""
    r = reader(10)
    r.delivery(text(14, 0, prev=12), 0.0)
    assert asked(r.synced(answer(upto=12, complete=True), 0.0)) == []


def test_a_hint_that_came_since_asks_again() -> None:
    r = reader(10)
    r.resync(0.0)
    r.resync(0.0)
    assert asked(r.synced(answer(upto=11), 0.0)) == [10]


def test_an_incomplete_answer_that_brought_something_is_followed_at_once() -> None:
    r = reader(10)
    r.resync(0.0)
    effects = r.synced(answer(text(12, 0), upto=13, complete=False), 0.0)
    assert asked(effects) == [12]


def test_an_incomplete_answer_that_brought_nothing_is_followed_later_and_later() -> None:
    r = reader(10, jitter=0.5)
    r.resync(0.0)
    now, waits = 0.0, []
    for _ in range(7):
        assert r.synced(answer(upto=11, complete=False), now) == []
        assert r.next_tick is not None
        waits.append(round(r.next_tick - now, 3))
        assert r.tick(r.next_tick - 0.001) == []
        now = r.next_tick
        assert asked(r.tick(now)) == [10]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, RETRY_INCOMPLETE, RETRY_INCOMPLETE]


def test_live_deliveries_are_taken_while_answers_are_incomplete() -> None:
    r = reader(10)
    r.resync(0.0)
    r.synced(answer(upto=11, complete=False), 0.0)
    assert shown(r.delivery(text(12, 0, prev=10), 0.01)) == [12]


def test_a_failed_sync_is_asked_again_with_back_off() -> None:
    r = reader(10)
    r.resync(0.0)
    now, waits = 0.0, []
    for _ in range(9):
        assert r.sync_failed(now) == []
        assert r.next_tick is not None
        waits.append(round(r.next_tick - now, 3))
        now = r.next_tick
        assert asked(r.tick(now)) == [10]
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert waits[-1] == RETRY_FAILED
    r.sync_failed(now, retry_after=60.0)
    assert r.next_tick == now + 60.0


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_jitter_spreads_retries_and_backstop(jitter: float) -> None:
    r = reader(10, jitter=jitter)
    assert r.next_tick == pytest.approx(BACKSTOP * (0.75 + jitter / 2))
    r.resync(0.0)
    r.sync_failed(0.0)
    assert r.next_tick == pytest.approx(0.05 * (0.75 + jitter / 2))


def test_the_backstop_asks_when_nothing_else_did() -> None:
    r = reader(10, backstop=100.0)
    assert r.tick(99.9) == []
    assert asked(r.tick(100.0)) == [10]
    assert r.next_tick is None
    r.synced(answer(upto=11), 130.0)
    assert r.next_tick == 200.0


def test_answers_that_nobody_asked_for_are_passed_over() -> None:
    r = reader(10)
    assert r.synced(answer(text(12, 0), upto=13), 0.0) == []
    assert r.sync_failed(0.0) == []
    assert r.known == 10


# ------------------------------------------------------------------ the buffer


def test_a_full_buffer_drops_and_a_sync_brings_it() -> None:
    r = reader(10, buffer=1)
    r.delivery(text(14, 1, prev=12), 0.0)
    r.delivery(text(16, 2, prev=14), 0.0)
    effects = r.synced(answer(text(12, 0), upto=13), 0.0)
    assert shown(effects) == [12, 14]
    assert asked(effects) == [14]
    assert shown(r.synced(answer(text(16, 2), upto=17), 0.0)) == [16]


def test_a_repeated_delivery_may_know_prev_where_the_first_did_not() -> None:
    r = reader(10)
    r.delivery(text(14, 1, prev=None), 0.0)
    r.delivery(text(14, 1, prev=12), 0.0)
    r.delivery(text(14, 1, prev=None), 0.0)
    assert shown(r.synced(answer(text(12, 0), upto=13), 0.0)) == [12, 14]


def test_a_live_delivery_lets_the_buffer_follow() -> None:
    r = reader(10)
    r.delivery(text(14, 1, prev=12), 0.0)
    assert shown(r.delivery(text(12, 0, prev=10), 0.0)) == [12, 14]


def test_the_buffer_ends_with_the_connection() -> None:
    r = reader(10)
    r.delivery(text(14, 1, prev=12), 0.0)
    assert asked(r.connected(0.0, 10)) == [10]
    assert shown(r.synced(answer(text(12, 0), upto=13), 0.0)) == [12]


# ------------------------------------------------------------------ acknowledgements and state


def test_what_the_server_does_not_know_is_acknowledged_again_after_a_reconnect() -> None:
    r = reader(10)
    r.delivery(text(12, 0, prev=10), 0.0)
    r.disconnected()
    assert r.connected(0.0, 10) == [Acknowledge("u42", 12), AskSync("u42", 12, False)]
    r.disconnected()
    assert r.connected(0.0, 12) == [AskSync("u42", 12, False)]


def test_the_state_begins_where_it_ended() -> None:
    r = reader(10)
    r.delivery(text(12, 0, prev=10), 0.0)
    assert r.state() == ReaderState(12, {(34, "u34", 5): 1}, False)
    again = TimelineReader("u42", ME, r.state())
    again.connected(0.0, 10)
    assert shown(again.synced(answer(text(12, 0), text(14, 1), upto=15), 0.0)) == [14]


def test_changes_tell_only_what_moved() -> None:
    r = reader(10)
    r.delivery(text(12, 0, prev=10), 0.0)
    r.delivery(text(14, 0, prev=12, stream=6), 0.0)
    assert r.changes() == ReaderState(14, {(34, "u34", 5): 1, (34, "u34", 6): 1}, False)
    r.delivery(text(16, 1, prev=14), 0.0)
    assert r.changes() == ReaderState(16, {(34, "u34", 5): 2}, False)


def test_notices_follow_the_chain_alone() -> None:
    r = reader(10)
    assert shown(r.delivery(notice(12, prev=10), 0.0)) == [12]
    assert r.delivery(notice(12, prev=10), 0.0) == []
    assert r.state().expected == {}


def test_ones_own_messages_are_sequenced_by_the_other_end() -> None:
    r = reader(0)
    r.delivery(text(1, 0, prev=0, sender=ME, to=34), 0.0)
    r.delivery(text(2, 0, prev=1, sender=ME, to=ME), 0.0)
    r.delivery(text(3, 0, prev=2, sender=34), 0.0)
    assert r.state().expected == {(ME, "u34", 5): 1, (ME, "u42", 5): 1, (34, "u34", 5): 1}


# ------------------------------------------------------------------ a device without its state


def fresh(cursor: int | None = 100) -> TimelineReader:
    r = TimelineReader("u42", ME, None)
    assert r.connected(0.0, cursor) == [AskSync("u42", cursor or 0, True)]
    return r


def test_a_fresh_device_takes_nothing_live_before_the_heads() -> None:
    r = fresh()
    assert r.delivery(text(101, 7, prev=100), 0.0) == []
    effects = r.synced(answer(upto=101, heads=[head(7)]), 0.0)
    assert shown(effects) == [101]
    assert not r.fresh


def test_streams_begin_where_the_heads_say_and_others_at_zero() -> None:
    r = fresh()
    r.synced(answer(upto=101, heads=[head(7), head(3, sender=ME, to=34)]), 0.0)
    assert r.delivery(text(102, 6, prev=100), 0.0) == [Acknowledge("u42", 102)]  # a resend of what lies below
    assert shown(r.delivery(text(103, 7, prev=102), 0.0)) == [103]
    assert shown(r.delivery(text(104, 3, prev=103, sender=ME, to=34), 0.0)) == [104]
    assert shown(r.delivery(text(105, 0, prev=104, stream=6), 0.0)) == [105]


def test_pages_before_the_heads_are_shown_from_whatever_seq_they_begin_with() -> None:
    r = fresh()
    effects = r.synced(answer(text(101, 7), text(103, 8), upto=104, complete=False), 0.0)
    assert shown(effects) == [101, 103]
    assert [e for e in effects if isinstance(e, AskSync)] == [AskSync("u42", 103, True)]
    assert r.delivery(text(105, 9, prev=103), 0.0) == []
    effects = r.synced(answer(text(105, 9), upto=106, heads=[head(10)]), 0.0)
    assert shown(effects) == [105]
    assert r.state() == ReaderState(105, {(34, "u34", 5): 10}, False)


def test_heads_of_a_snapshot_older_than_what_is_known_do_not_count() -> None:
    """The device had acknowledged live deliveries that persist has not stored yet."""
    r = fresh(cursor=100)
    assert r.synced(answer(upto=90, complete=False, heads=[head(3)]), 0.0) == []
    assert r.fresh
    assert [e for e in r.tick(1.0) if isinstance(e, AskSync)] == [AskSync("u42", 100, True)]
    r.synced(answer(upto=101, heads=[head(7)]), 1.0)
    assert r.state() == ReaderState(100, {(34, "u34", 5): 7}, False)


def test_a_complete_answer_without_heads_leaves_it_fresh() -> None:
    r = fresh()
    assert r.synced(answer(upto=101, complete=True), 0.0) == []
    assert r.fresh
    assert [e for e in r.tick(1.0) if isinstance(e, AskSync)] == [AskSync("u42", 100, True)]


def test_it_stays_fresh_through_a_reconnect_and_a_restart_and_goes_on_from_what_it_has() -> None:
    r = fresh()
    r.synced(answer(text(101, 7), upto=102, complete=False), 0.0)
    assert r.connected(0.0, 100)[-1] == AskSync("u42", 101, True)
    again = TimelineReader("u42", ME, r.state())
    assert again.connected(0.0, 100)[-1] == AskSync("u42", 101, True)
    assert shown(again.synced(answer(text(103, 8), upto=104, heads=[head(9)]), 0.0)) == [103]


def test_without_a_cursor_it_begins_at_nothing() -> None:
    assert fresh(None).known == 0


def test_heads_do_not_touch_a_device_that_has_its_state() -> None:
    r = reader(10, expected=3)
    r.resync(0.0)
    r.synced(answer(upto=11, heads=[head(9)]), 0.0)
    assert r.state().expected == {(34, "u34", 5): 3}


def test_too_old_begins_anew_from_the_heads() -> None:
    r = reader(10, expected=3)
    r.resync(0.0)
    effects = r.synced(answer(upto=5_000, too_old=True, heads=[head(9, stream=6)]), 0.0)
    assert effects == [StartOver("u42", 5_000), Acknowledge("u42", 4_999)]
    assert r.state() == ReaderState(4_999, {(34, "u34", 5): 3, (34, "u34", 6): 9}, False)


def test_heads_never_take_a_stream_back() -> None:
    """Their snapshot may be older than what came live."""
    r = reader(10, expected=3)
    r.begin_again(0.0)
    r.synced(answer(upto=11, heads=[head(2)]), 0.0)
    assert not r.fresh
    assert r.state().expected == {(34, "u34", 5): 3}


def test_too_old_without_heads_changes_nothing() -> None:
    r = reader(10, expected=3)
    r.resync(0.0)
    r.synced(answer(upto=5, too_old=True, heads=[]), 0.0)
    assert r.state() == ReaderState(10, {(34, "u34", 5): 3}, False)


def test_who_is_a_member_again_begins_anew_from_what_he_knows() -> None:
    r = reader(10, expected=3)
    effects = r.begin_again(0.0)
    assert effects == [AskSync("u42", 10, True)]
    assert r.delivery(text(12, 8, prev=10, stream=6), 0.0) == []
    assert shown(r.synced(answer(text(12, 8, stream=6), upto=13, heads=[head(9, stream=6), head(3)]), 0.0)) == [12]
    assert r.state() == ReaderState(12, {(34, "u34", 5): 3, (34, "u34", 6): 9}, False)


def test_an_answer_from_before_that_is_thrown_away() -> None:
    r = reader(10, expected=3)
    r.resync(0.0)
    assert r.begin_again(0.0) == []
    assert r.synced(answer(text(12, 3), upto=13), 0.0) == [AskSync("u42", 10, True)]
    assert r.known == 10


# ------------------------------------------------------------------ groups


def test_a_groups_timeline() -> None:
    r = TimelineReader("g7", ME, ReaderState(0, {}))
    r.connected(0.0, None)
    message = Message(sender=34, group=7, stream=5, seq=0, sent_at=1, kind="text", text="x", pos=3)
    joined = Message(sender=34, group=7, sent_at=1, kind="group_joined", extra={"user": 8}, pos=2)
    effects = r.synced(Synced(timeline="g7", messages=[joined, message], upto=4, complete=True), 0.0)
    assert effects == [Show(joined), Show(message), Acknowledge("g7", 3)]
    assert r.state().expected == {(34, "g7", 5): 1}
