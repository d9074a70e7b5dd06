"""The account of messages: every way in which one can go wrong is seen, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.tools.load.ledger import Ledger, Track
from chat.tools.load.wire import Delivery

ANN, BOB, EVE = 1, 2, 3
BASE = 1 << 30


def delivery(seq: int, *, stream: int = BASE, sender: int = ANN, stamp: int = 0) -> Delivery:
    return Delivery(sender=sender, pos=seq + 1, stream=stream, seq=seq, text=f"{stamp:016d}xxxx")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(BASE)


@pytest.fixture
def track(ledger: Ledger) -> Track:
    track = ledger.open(ANN, [BOB], to=BOB, group=None, size=20)
    for stamp in (100, 200, 300):
        ledger.add(track, stamp)
    assert len(list(track.frames())) == 3
    return track


def test_all_well(ledger: Ledger, track: Track) -> None:
    ledger.accepted(BASE, 2, 350)
    for seq in range(3):
        ledger.took(ANN, delivery(seq, stamp=(seq + 1) * 100), 400)
        ledger.took(BOB, delivery(seq, stamp=(seq + 1) * 100), 400)
    assert ledger.settled
    counts = ledger.close()
    assert counts.sound
    assert (counts.sent, counts.accepted, counts.shown, counts.expected) == (3, 3, 6, 6)
    assert (ledger.delivery.count, ledger.delivery.longest) == (3, 300)  # the sender's own copy is not a delivery
    assert (ledger.acceptance.count, ledger.acceptance.total) == (3, 250 + 150 + 50)


def test_lost_are_the_accepted_ones_that_a_device_has_not_shown(ledger: Ledger, track: Track) -> None:
    ledger.accepted(BASE, 1, 350)
    ledger.took(ANN, delivery(0), 400)
    ledger.took(ANN, delivery(1), 400)
    ledger.took(BOB, delivery(0), 400)
    assert ledger.missing() == {BOB: 1}
    assert ledger.close().lost == 1
    assert ledger.outstanding == 1
    assert not ledger.settled


def test_what_came_early_is_disordered_not_lost(ledger: Ledger, track: Track) -> None:
    ledger.accepted(BASE, 2, 350)
    for seq in (0, 2):
        ledger.took(BOB, delivery(seq), 400)
    assert ledger.counts.disordered == 1
    assert ledger.missing() == {ANN: 3, BOB: 1}
    ledger.took(BOB, delivery(1), 400)
    assert ledger.missing() == {ANN: 3}
    ledger.took(BOB, delivery(2), 400)
    assert ledger.counts.doubled == 1


def test_a_second_copy_is_doubled(ledger: Ledger, track: Track) -> None:
    for _ in range(2):
        ledger.took(BOB, delivery(0), 400)
    assert ledger.counts.doubled == 1
    assert ledger.counts.shown == 1


def test_a_second_copy_of_an_early_one_is_doubled(ledger: Ledger, track: Track) -> None:
    for _ in range(2):
        ledger.took(BOB, delivery(2), 400)
    assert (ledger.counts.doubled, ledger.counts.disordered) == (1, 1)


def test_only_what_was_really_sent_again_may_come_again(ledger: Ledger, track: Track) -> None:
    ledger.accepted(BASE, 0, 350)
    track.reconnected()
    assert [b'"seq":%d,' % seq in frame for seq, frame in zip((1, 2), track.frames(), strict=True)] == [True, True]
    for seq in (0, 1, 2, 2, 1, 0):
        ledger.took(BOB, delivery(seq), 400)
    assert (ledger.counts.again, ledger.counts.doubled) == (2, 1)


def test_misdelivered(ledger: Ledger, track: Track) -> None:
    ledger.took(EVE, delivery(0), 400)  # not for her
    ledger.took(BOB, delivery(0, sender=EVE), 400)  # not from her
    ledger.took(BOB, delivery(3), 400)  # never sent
    assert ledger.counts.misdelivered == 3
    assert ledger.counts.shown == 0


def test_other_runs_and_notices_do_not_count(ledger: Ledger, track: Track) -> None:
    ledger.took(BOB, delivery(0, stream=BASE - 1), 400)
    ledger.took(BOB, delivery(0, stream=BASE + 1), 400)
    ledger.took(BOB, Delivery(sender=ANN, pos=9), 400)
    assert (ledger.counts.older, ledger.counts.shown, ledger.counts.misdelivered) == (2, 0, 0)


def test_what_comes_after_the_rescue_is_late(ledger: Ledger, track: Track) -> None:
    ledger.rescue = True
    ledger.took(BOB, delivery(0), 400)
    assert ledger.counts.late == 1
    assert not ledger.close().sound


def test_warm_up_is_counted_but_not_measured(ledger: Ledger, track: Track) -> None:
    ledger.measure_from = 200
    ledger.accepted(BASE, 2, 350)
    for seq in range(3):
        ledger.took(BOB, delivery(seq, stamp=(seq + 1) * 100), 400)
    assert (ledger.delivery.count, ledger.acceptance.count, ledger.counts.shown) == (2, 2, 3)


def test_accepted_but_never_sent(ledger: Ledger, track: Track) -> None:
    with pytest.raises(ValueError, match="only those below 3"):
        ledger.accepted(BASE, 3, 400)
    assert ledger.accepted(BASE + 7, 0, 400) is None  # of another run


def test_a_refused_seq_is_written_again_with_what_follows(ledger: Ledger, track: Track) -> None:
    track.refused(1, until=5.0)
    assert [b'"seq":%d,' % seq in frame for seq, frame in zip((1, 2), track.frames(), strict=True)] == [True, True]
    assert not track.resent  # what was refused is not in the log: twice would be wrong
    track.refused(0, until=4.0)
    assert track.held_until == 5.0


def test_a_group_expects_every_member(ledger: Ledger) -> None:
    track = ledger.open(ANN, [BOB, EVE], to=None, group=7, size=20)
    ledger.add(track, 100)
    ledger.accepted(BASE, 0, 200)
    assert ledger.missing() == {ANN: 1, BOB: 1, EVE: 1}
    assert ledger.counts.expected == 3


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_any_order_with_any_copies_is_accounted_for(order: list[int], copies: list[int]) -> None:
    ledger = Ledger(BASE)
    track = ledger.open(ANN, [BOB], to=BOB, group=None, size=20)
    for _ in order:
        ledger.add(track, 0)
    ledger.accepted(BASE, 5, 1)
    highest = -1
    overtaken = 0
    contiguous: set[int] = set()
    for seq in order:
        ledger.took(BOB, delivery(seq), 2)
        overtaken += seq != len(contiguous)
        contiguous.add(seq)
        while highest + 1 in contiguous:
            highest += 1
    for seq in copies:
        ledger.took(BOB, delivery(seq), 2)
    assert ledger.missing() == {ANN: 6}
    assert ledger.counts.doubled == len(copies)
    assert ledger.counts.shown == 6
    assert (ledger.counts.disordered == 0) == (list(order) == sorted(order))
