from hypothesis import given
from hypothesis import strategies as st

from chat.edge.clock import EdgeClock


class Wall:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_it_follows_the_wall_clock_and_never_goes_back() -> None:
    wall = Wall(1_000)
    clock = EdgeClock(5_000, wall)
    assert clock.sent_at(1) == 1_000
    wall.now = 1_001
    assert clock.sent_at(1) == 1_001
    wall.now = 900
    assert clock.now() == 1_001
    assert clock.sent_at(1) == 1_001


def test_an_answer_does_not_sort_before_what_it_answers() -> None:
    clock = EdgeClock(5_000, Wall(1_000))
    clock.now()
    clock.shown([1], 1_700)
    assert clock.sent_at(1) == 1_701
    assert clock.sent_at(1) == 1_701
    assert clock.sent_at(2) == 1_000


def test_seen_is_believed_a_few_seconds_ahead() -> None:
    clock = EdgeClock(5_000, Wall(1_000))
    assert clock.sent_at(1, seen=900) == 1_000
    assert clock.sent_at(1, seen=1_000) == 1_001
    assert clock.sent_at(2, seen=99_999) == 6_001
    assert clock.sent_at(2) == 6_001


def test_what_lies_below_the_wall_clock_is_not_remembered() -> None:
    wall = Wall(1_000)
    clock = EdgeClock(5_000, wall)
    clock.now()
    for user in range(50_000):
        wall.now += 1
        clock.now()
        clock.shown([user], wall.now + 1)
    assert len(clock._users) <= 20_001


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 100), st.integers(0, 2_000)), max_size=50))
def test_what_one_user_sends_never_goes_back(steps: list[tuple[int, int, int]]) -> None:
    wall = Wall(1_000)
    clock = EdgeClock(100, wall)
    last = 0
    for moved, shown, seen in steps:
        wall.now += moved
        clock.shown([1], wall.now + shown)
        sent_at = clock.sent_at(1, seen)
        assert sent_at >= last
        assert sent_at > wall.now + shown
        last = sent_at
