import pytest

from chat.positions import MAX_GENERATION, OFFSET_BITS, Watermark, generation_of, offset_of, position


def test_a_position_holds_its_generation_and_offset() -> None:
    assert position(0, 0) == 1
    assert position(1, 0) == (1 << OFFSET_BITS) + 1
    for generation in (0, 1, MAX_GENERATION):
        for offset in (0, 1, (1 << OFFSET_BITS) - 2):
            pos = position(generation, offset)
            assert (generation_of(pos), offset_of(pos)) == (generation, offset)
            assert 1 <= pos < 2**53


def test_a_later_generation_lies_above_every_offset_of_an_earlier_one() -> None:
    assert position(1, 0) > position(0, (1 << OFFSET_BITS) - 2)


def test_the_watermark_waits_for_the_lowest_range() -> None:
    mark = Watermark(10)
    first, second, third = mark.begin(15), mark.begin(15), mark.begin(20)
    assert not mark.finish(third)
    assert not mark.finish(second)
    assert (mark.next_offset, mark.open_ranges) == (10, 3)
    assert mark.finish(first)
    assert (mark.next_offset, mark.open_ranges) == (20, 0)


def test_a_range_may_not_end_behind_one_that_is_open_or_done() -> None:
    mark = Watermark(10)
    with pytest.raises(ValueError, match="behind 10"):
        mark.begin(9)
    mark.begin(15)
    with pytest.raises(ValueError, match="behind 15"):
        mark.begin(14)
