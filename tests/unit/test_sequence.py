"""The sequence: gaps inside the log, what waits, fetches, voids; through a TimelineReader, as it is used."""

from __future__ import annotations

from chat.ordering import (
    Acknowledge,
    AskFetch,
    AskSync,
    Effect,
    ReaderState,
    Reconnect,
    Show,
    TimelineReader,
)
from chat.protocol import Fetched, Head, Message, Synced
from chat.sequence import FETCH_SEQS, FETCH_WAIT, GAP_WAIT, PENDING_MAX, ROUNDS

ME, HIM, STREAM = 42, 34, 5
KEY = (HIM, "u34", STREAM)


def text(pos: int, seq: int, prev: int | None = None, *, stream: int = STREAM) -> Message:
    return Message(sender=HIM, to=ME, stream=stream, seq=seq, sent_at=1, kind="text", text="x", prev=prev, pos=pos)


def answer(*messages: Message, upto: int, complete: bool = True) -> Synced:
    return Synced(timeline="u42", messages=list(messages), upto=upto, complete=complete)


def fetched(*messages: Message, void: tuple[int, ...] = (), pending: tuple[int, ...] = ()) -> Fetched:
    return Fetched(messages=list(messages), void=list(void), pending=list(pending))


def reader(known: int = 10, *, waiting: int = 1_000) -> TimelineReader:
    made = TimelineReader("u42", ME, ReaderState(known, {KEY: 1}), waiting=waiting)
    made.connected(0.0, known)
    made.synced(answer(upto=known + 1), 0.0)
    return made


def seqs(effects: list[Effect]) -> list[int]:
    return [e.message.seq for e in effects if isinstance(e, Show) and isinstance(e.message.seq, int)]


def fetches(effects: list[Effect]) -> list[tuple[int, ...]]:
    return [e.seqs for e in effects if isinstance(e, AskFetch)]


def acknowledged(effects: list[Effect]) -> list[int]:
    return [e.pos for e in effects if isinstance(e, Acknowledge)]


def test_a_duplicate_in_the_log_is_dropped_and_acknowledged() -> None:
    r = reader()
    assert r.delivery(text(11, 0, 10), 0.0) == [Acknowledge("u42", 11)]


def test_what_is_too_early_waits_and_is_shown_behind_what_was_missing() -> None:
    r = reader()
    assert r.delivery(text(11, 3, 10), 0.0) == []
    assert r.delivery(text(12, 2, 11), 0.0) == []
    effects = r.delivery(text(13, 1, 12), 0.0)
    assert seqs(effects) == [1, 2, 3]
    assert acknowledged(effects) == [13]
    assert r.next_tick == 300.0


def test_other_streams_are_not_held_up() -> None:
    r = reader()
    r.delivery(text(11, 3, 10), 0.0)
    assert seqs(r.delivery(text(12, 0, 11, stream=6), 0.0)) == [0]


def test_what_waits_holds_back_the_cursor_and_the_state() -> None:
    r = reader()
    r.delivery(text(11, 1, 10), 0.0)
    r.delivery(text(12, 3, 11), 0.0)
    effects = r.delivery(text(13, 0, 12, stream=6), 0.0)
    assert seqs(effects) == [0]
    assert acknowledged(effects) == []
    assert r.known == 13
    assert r.state().known == 11


def test_a_gap_is_asked_for_after_a_second() -> None:
    r = reader()
    r.delivery(text(11, 4, 10), 5.0)
    assert r.next_tick == 5.0 + GAP_WAIT
    assert r.tick(5.99) == []
    assert r.tick(6.0) == [AskFetch("u42", HIM, ME, None, STREAM, (1, 2, 3), "u34")]
    assert r.tick(6.1) == []


def test_in_a_group_the_group_is_asked() -> None:
    r = TimelineReader("g7", ME, ReaderState(0, {}))
    r.connected(0.0, 0)
    message = Message(sender=HIM, group=7, stream=STREAM, seq=1, sent_at=1, kind="text", text="x", pos=1)
    r.synced(Synced(timeline="g7", messages=[message], upto=2, complete=True), 0.0)
    assert r.tick(1.0) == [AskFetch("g7", HIM, None, 7, STREAM, (0,), "g7")]


def test_the_answer_brings_what_was_missing() -> None:
    r = reader()
    r.delivery(text(12, 3, 10), 0.0)
    r.tick(1.0)
    effects = r.fetched(*KEY, fetched(text(11, 2), text(9, 1)), 1.0)
    assert seqs(effects) == [1, 2, 3]
    assert acknowledged(effects) == [12]
    assert r.state() == ReaderState(12, {KEY: 4}, False)


def test_only_a_void_is_skipped() -> None:
    r = reader()
    r.delivery(text(12, 4, 10), 0.0)
    r.tick(1.0)
    effects = r.fetched(*KEY, fetched(text(11, 2), void=(1,), pending=(3,)), 1.0)
    assert seqs(effects) == [2]
    assert fetches(effects) == [(3,)]
    assert seqs(r.fetched(*KEY, fetched(void=(3,)), 1.0)) == [4]


def test_what_was_not_asked_for_is_not_taken() -> None:
    r = reader()
    r.delivery(text(12, 3, 10), 0.0)
    r.tick(1.0)
    other = text(11, 2, stream=9)
    effects = r.fetched(*KEY, fetched(other, text(13, 7), void=(0, 3, 9)), 1.0)
    assert seqs(effects) == []
    assert r.state().expected[KEY] == 1


def test_a_void_that_is_already_here_is_not_skipped() -> None:
    r = reader()
    r.delivery(text(12, 3, 10), 0.0)
    r.tick(1.0)
    r.delivery(text(13, 2, 12), 1.0)
    assert seqs(r.fetched(*KEY, fetched(void=(1, 2)), 1.0)) == [2, 3]


def test_pending_is_asked_again_later_and_later() -> None:
    r = reader()
    r.delivery(text(12, 2, 10), 0.0)
    now, waits = 1.0, []
    for _ in range(5):
        assert fetches(r.tick(now)) == [(1,)]
        assert r.fetched(*KEY, fetched(pending=(1,)), now) == []
        assert r.next_tick is not None
        waits.append(r.next_tick - now)
        now = r.next_tick
    assert waits == [1.0, 2.0, 4.0, PENDING_MAX, PENDING_MAX]


def test_rounds_without_an_answer_end_in_a_reconnect_never_in_a_skip() -> None:
    r = reader()
    r.delivery(text(12, 2, 10), 0.0)
    effects: list[Effect] = []
    now = 1.0
    for _ in range(100):
        effects = r.tick(now)
        if any(isinstance(e, Reconnect) for e in effects):
            break
        assert r.next_tick is not None
        now = r.next_tick
    assert any(isinstance(e, Reconnect) for e in effects)
    assert now <= 1.0 + ROUNDS * (FETCH_WAIT + PENDING_MAX)
    assert r.state().expected[KEY] == 1


def test_failed_and_empty_rounds_count_as_unanswered() -> None:
    r = reader()
    r.delivery(text(12, 2, 10), 0.0)
    r.tick(1.0)
    assert r.fetch_failed(*KEY, 1.0) == []
    assert fetches(r.tick(2.0)) == [(1,)]
    assert r.fetched(*KEY, fetched(), 2.0) == []
    assert fetches(r.tick(10.0)) == [(1,)]
    (effect,) = r.fetch_failed(*KEY, 10.0)
    assert isinstance(effect, Reconnect)


def test_answers_that_nobody_asked_for_are_passed_over() -> None:
    r = reader()
    assert r.fetched(*KEY, fetched(text(11, 1)), 0.0) == []
    assert r.fetch_failed(*KEY, 0.0) == []
    r.delivery(text(12, 2, 10), 0.0)
    assert r.fetched(*KEY, fetched(void=(1,)), 0.5) == []


def test_after_the_connection_what_waited_is_read_again() -> None:
    r = reader()
    r.delivery(text(11, 0, 10, stream=6), 0.0)
    r.delivery(text(12, 3, 11), 0.0)
    r.disconnected()
    assert r.connected(1.0, 10) == [Acknowledge("u42", 11), AskSync("u42", 11, False)]
    assert seqs(r.synced(answer(text(12, 3), upto=13), 1.0)) == []
    r.tick(2.0)
    assert seqs(r.fetched(*KEY, fetched(void=(1, 2)), 2.0)) == [3]


def test_a_long_gap_is_asked_for_in_pieces() -> None:
    r = reader()
    r.delivery(text(12, 450, 10), 0.0)
    asked = fetches(r.tick(1.0))[0]
    assert asked == tuple(range(1, 1 + FETCH_SEQS))
    rounds = 1
    while asked:
        effects = r.fetched(*KEY, fetched(void=asked), 1.0)
        asked = next(iter(fetches(effects)), ())
        rounds += 1
    assert seqs(effects) == [450]
    assert rounds == 4


def test_when_too_much_waits_the_chain_stands_until_there_is_room() -> None:
    r = reader(waiting=2)
    r.delivery(text(11, 3, 10), 0.0)
    r.delivery(text(12, 4, 11), 0.0)
    assert r.delivery(text(13, 5, 12), 0.0) == []
    assert r.known == 12
    assert r.delivery(text(14, 0, 13, stream=6), 0.0) == []  # it does not chain any more
    assert r.resync(0.0) == []
    assert r.next_tick == GAP_WAIT  # no sync meanwhile
    r.tick(1.0)
    effects = r.fetched(*KEY, fetched(void=(1, 2)), 1.0)
    assert seqs(effects) == [3, 4]
    assert effects[-1] == AskSync("u42", 12, False)
    assert seqs(r.synced(answer(text(13, 5), text(14, 0, stream=6), upto=15), 1.0)) == [5, 0]


def test_an_answer_is_taken_as_far_as_there_is_room() -> None:
    r = reader(waiting=1)
    r.resync(0.0)
    r.synced(answer(text(11, 3), text(12, 4), text(13, 0, stream=6), upto=14), 0.0)
    assert r.known == 11
    r.tick(1.0)
    effects = r.fetched(*KEY, fetched(void=(1, 2)), 1.0)
    assert effects[-1] == AskSync("u42", 11, False)


def test_what_is_next_is_taken_however_much_waits() -> None:
    r = reader(waiting=1)
    r.delivery(text(11, 2, 10), 0.0)
    assert seqs(r.delivery(text(12, 1, 11), 0.0)) == [1, 2]


def test_a_duplicate_of_what_waits_takes_no_room() -> None:
    r = reader(waiting=1)
    r.delivery(text(11, 2, 10), 0.0)
    assert r.delivery(text(12, 2, 11), 0.0) == []
    assert r.known == 12
    assert r.state().known == 10


def test_heads_leave_a_gap_open_that_lies_below_them() -> None:
    """What was read as pages before the heads came and waits is still to be shown; other streams begin at their heads."""
    r = TimelineReader("u42", ME, None)
    r.connected(0.0, 10)
    r.synced(answer(text(11, 7), text(12, 9), upto=13, complete=False), 0.0)
    heads = [Head(sender=HIM, to=ME, stream=s, next=n) for s, n in ((STREAM, 10), (6, 3))]
    whole = Synced(timeline="u42", messages=[], upto=13, complete=True, heads=heads)
    assert seqs(r.synced(whole, 0.0)) == []
    assert not r.fresh
    assert fetches(r.tick(1.0)) == [(8,)]
    effects = r.fetched(*KEY, fetched(void=(8,)), 1.0)
    assert seqs(effects) == [9]
    assert r.state() == ReaderState(12, {KEY: 10, (HIM, "u34", 6): 3}, False)


def test_a_fetch_ends_with_its_connection() -> None:
    r = reader()
    r.delivery(text(12, 2, 10), 0.0)
    assert fetches(r.tick(1.0)) == [(1,)]
    r.connected(2.0, 10)
    assert r.synced(answer(text(12, 2), upto=13), 2.0) == []
    assert fetches(r.tick(3.0)) == [(1,)]


def test_what_came_by_the_chain_meanwhile_is_not_taken_from_the_answer() -> None:
    r = reader()
    r.delivery(text(12, 4, 10), 0.0)
    assert fetches(r.tick(1.0)) == [(1, 2, 3)]
    assert seqs(r.delivery(text(13, 1, 12), 1.0)) == [1]
    effects = r.fetched(*KEY, fetched(text(9, 1), text(11, 2), void=(3,)), 1.0)
    assert seqs(effects) == [2, 4]
    assert fetches(effects) == []
    assert r.next_tick == 300.0


def test_a_member_again_is_not_shown_again_what_lies_above_a_position_held_back() -> None:
    r = reader()
    r.delivery(text(11, 3, 10), 0.0)
    assert seqs(r.delivery(text(12, 0, 11, stream=6), 0.0)) == [0]
    assert r.begin_again(0.0) == [AskSync("u42", 10, True)]
    heads = [Head(sender=HIM, to=ME, stream=s, next=n) for s, n in ((STREAM, 4), (6, 1))]
    rows = [text(11, 3), text(12, 0, stream=6)]
    answered = Synced(timeline="u42", messages=rows, upto=13, complete=True, heads=heads)
    assert seqs(r.synced(answered, 0.0)) == []
    assert fetches(r.tick(1.0)) == [(1, 2)]
    assert seqs(r.fetched(*KEY, fetched(void=(1, 2)), 1.0)) == [3]
