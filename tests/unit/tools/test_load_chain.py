"""The load's chain keeps to the recipient's rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat.tools.load.chain import Chain, Offer
from chat.tools.load.wire import Delivery, Synced


def message(pos: int, prev: int | None = None) -> Delivery:
    return Delivery(sender=1, pos=pos, prev=prev)


def answer(*positions: int, upto: int, complete: bool = True) -> Synced:
    return Synced(timeline="u1", messages=[message(p) for p in positions], upto=upto, complete=complete)


def opened(known: int) -> Chain:
    """A chain that has had its first sync."""
    chain = Chain("u1", known)
    assert chain.ask() == known
    assert not chain.answer(answer(upto=known + 1))
    return chain


def test_what_chains_is_taken_once() -> None:
    chain = opened(10)
    assert chain.offer(message(12, 10)) is Offer.TAKEN
    assert chain.offer(message(12, 10)) is Offer.DROPPED
    assert chain.known == 12
    assert chain.settled


def test_a_hole_and_an_unknown_prev_ask_for_a_sync() -> None:
    for prev in (11, None):
        chain = opened(10)
        assert chain.offer(message(15, prev)) is Offer.WAITING
        assert chain.ask() == 10
        assert chain.ask() is None  # one at a time
        assert [m.pos for m in chain.answer(answer(11, 15, upto=16))] == [11, 15]
        assert chain.settled


def test_what_chains_behind_the_answer_is_taken_from_what_was_kept() -> None:
    chain = opened(10)
    chain.offer(message(15, 13))
    chain.ask()
    chain.offer(message(17, 15))
    assert [m.pos for m in chain.answer(answer(13, upto=14))] == [13, 15, 17]
    assert chain.settled


def test_seen_above_known_asks_again() -> None:
    chain = opened(10)
    chain.offer(message(20, 18))
    chain.ask()
    assert not chain.answer(answer(upto=12))
    assert chain.ask() == 11


def test_an_incomplete_answer_that_brings_nothing_pauses_longer_each_time() -> None:
    chain = Chain("u1", 10)
    pauses = []
    for _ in range(8):
        assert chain.ask() == 10
        chain.answer(answer(upto=11, complete=False))
        pauses.append(chain.pause)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert not chain.synced
    chain.ask()
    chain.answer(answer(11, upto=12, complete=False))
    assert chain.pause == 0


def test_a_hint_during_a_sync_is_not_answered_by_it() -> None:
    chain = Chain("u1", 10)
    chain.ask()
    chain.hint()
    chain.answer(answer(upto=11))
    assert chain.ask() == 10


def test_a_refused_sync_is_asked_again() -> None:
    chain = Chain("u1", 10)
    chain.ask()
    chain.failed()
    assert chain.pause > 0
    assert chain.ask() == 10


def test_a_lost_connection_forgets_what_was_kept_but_not_what_is_known() -> None:
    chain = opened(10)
    chain.offer(message(15, 13))
    chain.disconnected()
    assert chain.ask() == 10
    assert not chain.answer(answer(upto=14))  # 15 would chain, but it may be asked for in the next sync alone
    assert chain.settled


@given(st.data())
def test_every_record_is_taken_once_and_in_order_whatever_is_lost(data: st.DataObject) -> None:
    """Records at random positions; deliveries are lost, repeated, shuffled within a few, told without prev."""
    gaps = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    log = [sum(gaps[: at + 1]) for at in range(len(gaps))]
    chain, taken = Chain("u1", 0), []
    wire: list[Delivery] = []
    written = 0
    for _ in range(200):
        if written < len(log) and data.draw(st.booleans()):
            prev = log[written - 1] if written else 0
            copies = data.draw(st.integers(0, 2))
            wire += [message(log[written], data.draw(st.sampled_from([prev, None])))] * copies
            written += 1
        if wire and data.draw(st.booleans()):
            got = wire.pop(data.draw(st.integers(0, min(2, len(wire) - 1))))
            if chain.offer(got) is Offer.TAKEN:
                taken.append(got.pos)
        after = chain.ask()
        if after is not None:
            upto = log[written - 1] + 1 if written else 1
            rows = [pos for pos in log[:written] if after < pos < upto]
            taken += [m.pos for m in chain.answer(answer(*rows, upto=upto))]
    chain.hint()
    after = chain.ask()
    assert after is not None
    taken += [m.pos for m in chain.answer(answer(*[p for p in log[:written] if p > after], upto=log[-1] + 1))]
    assert taken == log[:written]
