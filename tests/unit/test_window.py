import pytest

from chat.ordering import TAKEN, Again, Full, Gap, Window


def test_the_first_seq_seen_sets_the_start() -> None:
    window = Window()
    assert window.offer("u1", 7, 5) == TAKEN
    assert window.offer("u1", 7, 6) == TAKEN
    assert window.offer("u1", 7, 9) == Gap(7)
    assert window.offer("u1", 7, 7) == TAKEN


def test_streams_and_conversations_are_apart() -> None:
    window = Window()
    for conversation, stream in (("u1", 7), ("g1", 7), ("u1", 8)):
        assert window.offer(conversation, stream, 0) == TAKEN
    assert len(window) == 3


def test_a_resend_is_answered_with_what_kafka_has_never_with_its_own_number() -> None:
    window = Window()
    for seq in (3, 4, 5):
        window.offer("u1", 7, seq)
    assert window.offer("u1", 7, 5) == Again(None)
    assert window.acknowledge("u1", 7, 3) == 3
    assert window.offer("u1", 7, 5) == Again(3)
    assert window.offer("u1", 7, 2) == Again(3)


def test_below_the_start_nothing_is_known_until_kafka_acknowledges() -> None:
    window = Window()
    window.offer("u1", 7, 3)
    assert window.offer("u1", 7, 1) == Again(None)


def test_acknowledgements_out_of_order_are_told_when_contiguous() -> None:
    window = Window()
    for seq in range(4):
        window.offer("u1", 7, seq)
    assert window.acknowledge("u1", 7, 2) is None
    assert window.acknowledge("u1", 7, 1) is None
    assert window.acknowledge("u1", 7, 0) == 2
    assert window.acknowledge("u1", 7, 0) is None
    assert window.acknowledge("u1", 7, 3) == 3


def test_a_refused_first_send_pins_the_start() -> None:
    window = Window()
    window.refuse("u1", 7, 0)
    assert window.offer("u1", 7, 1) == Gap(0)
    assert window.offer("u1", 7, 0) == TAKEN


def test_a_refusal_changes_nothing_of_a_stream_under_way() -> None:
    window = Window()
    window.offer("u1", 7, 0)
    window.refuse("u1", 7, 1)
    assert window.offer("u1", 7, 2) == Gap(1)
    assert window.offer("u1", 7, 1) == TAKEN


def test_the_number_of_streams_is_bounded() -> None:
    window = Window(limit=2)
    window.offer("u1", 7, 0)
    window.refuse("u2", 7, 0)
    with pytest.raises(Full):
        window.offer("u3", 7, 0)
    with pytest.raises(Full):
        window.refuse("u3", 7, 0)
    assert window.offer("u1", 7, 1) == TAKEN
