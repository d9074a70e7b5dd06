"""The commit watermark and the outgoing window, against what they mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chat.ordering import TAKEN, Again, Gap, Window
from chat.positions import MAX_GENERATION, OFFSET_BITS, Watermark, generation_of, offset_of, position

offsets = st.integers(0, (1 << OFFSET_BITS) - 2)
places = st.tuples(st.integers(0, MAX_GENERATION), offsets)


@given(places, places)
def test_positions_keep_the_order_of_generation_and_offset(a: tuple[int, int], b: tuple[int, int]) -> None:
    pos = position(*a)
    assert (generation_of(pos), offset_of(pos)) == a
    assert 1 <= pos < 2**53
    assert (a < b) == (pos < position(*b))


class WatermarkMachine(RuleBasedStateMachine):
    """`next_offset` is the end of the last range before the first open one."""

    @initialize(start=st.integers(0, 100))
    def begin(self, start: int) -> None:
        self.mark, self.start, self.end = Watermark(start), start, start
        self.ranges: list[tuple[int, list[int | bool]]] = []
        self.done: set[int] = set()

    @rule(length=st.integers(0, 5))
    def begin_range(self, length: int) -> None:
        self.end += length
        self.ranges.append((self.end, self.mark.begin(self.end)))

    @precondition(lambda self: len(self.done) < len(self.ranges))
    @rule(data=st.data())
    def finish_range(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([i for i in range(len(self.ranges)) if i not in self.done]))
        before = self.mark.next_offset
        self.done.add(index)
        moved = self.mark.finish(self.ranges[index][1])
        assert moved or self.mark.next_offset == before

    @invariant()
    def everything_below_is_done(self) -> None:
        expected = self.start
        for index, (end, _) in enumerate(self.ranges):
            if index not in self.done:
                break
            expected = end
        assert self.mark.next_offset == expected


class WindowMachine(RuleBasedStateMachine):
    """What is taken is contiguous from the start; what is told as accepted was acknowledged, with all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.taken: list[int] = []
        self.start: int | None = None
        self.acknowledged: set[int] = set()

    @rule(seq=st.integers(0, 12))
    def offer(self, seq: int) -> None:
        answer = self.window.offer("u1", 7, seq)
        if self.start is None:
            self.start = seq
        expected = self.taken[-1] + 1 if self.taken else self.start
        assert (answer == TAKEN) == (seq == expected)
        if answer == TAKEN:
            self.taken.append(seq)
        elif isinstance(answer, Gap):
            assert seq > answer.expected == expected
        else:
            assert isinstance(answer, Again)
            assert seq < expected
            self.check(answer.acknowledged)

    @rule(seq=st.integers(0, 12))
    def refuse(self, seq: int) -> None:
        self.window.refuse("u1", 7, seq)
        if self.start is None:
            self.start = seq

    @precondition(lambda self: set(self.taken) - self.acknowledged)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from([s for s in self.taken if s not in self.acknowledged]))
        before = self.contiguous()
        self.acknowledged.add(seq)
        told = self.window.acknowledge("u1", 7, seq)
        after = self.contiguous()
        assert told == (after if after != before else None)

    def contiguous(self) -> int | None:
        found = None
        for seq in self.taken:
            if seq not in self.acknowledged:
                break
            found = seq
        return found

    def check(self, told: int | None) -> None:
        assert told == self.contiguous()


TestWatermark = WatermarkMachine.TestCase
TestWindow = WindowMachine.TestCase
