"""However the fetches fall, the merged order is that of the content."""

from __future__ import annotations

import random

from chat.records import Consumed, TopicPartition
from chat.tools.logmerge import Lane, Sourced, merge


def _records(*times: int) -> list[Consumed]:
    return [Consumed(offset, time, b"u1", b"{}", ()) for offset, time in enumerate(times)]


def _merged(parts: list[list[Consumed]], cuts: random.Random, wanted: set[int] | None = None) -> list[Sourced]:
    lanes = [Lane(TopicPartition("t", number), number) for number in range(len(parts))]
    left = [list(part) for part in parts]
    found: list[Sourced] = []
    while lanes:
        for lane in lanes:
            while lane.hungry:
                mine = left[lane.index]
                count = cuts.randint(1, 4)
                some, left[lane.index] = mine[:count], mine[count:]
                lane.feed(some, None if wanted is None else [r.timestamp in wanted for r in some])
                if not left[lane.index]:
                    lane.end()
        found += merge(lanes)
        lanes = [lane for lane in lanes if not lane.finished]
    return found


def test_by_time_over_partitions() -> None:
    found = _merged([_records(1, 4, 5), _records(2, 3, 9)], random.Random(1))
    assert [(p.partition, r.timestamp) for p, r in found] == [(0, 1), (1, 2), (1, 3), (0, 4), (0, 5), (1, 9)]


def test_a_time_that_steps_back_keeps_its_place_behind_the_record_before() -> None:
    found = _merged([_records(10, 3, 11), _records(5, 10)], random.Random(1))
    assert [(p.partition, r.offset) for p, r in found] == [(1, 0), (0, 0), (0, 1), (1, 1), (0, 2)]


def test_the_cuts_do_not_matter_and_what_is_left_out_does_not_move_the_rest() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(200):
        parts = [_records(*(draw.randrange(20) for _ in range(draw.randrange(12)))) for _ in range(draw.randint(1, 4))]
        whole = _merged(parts, random.Random(draw.random()))
        assert sorted(whole, key=lambda s: (s[0], s[1].offset)) == [
            (TopicPartition("t", n), r) for n, part in enumerate(parts) for r in part
        ]
        assert _merged(parts, random.Random(draw.random())) == whole
        wanted = {time for time in range(20) if draw.random() < 0.3}
        assert _merged(parts, random.Random(draw.random()), wanted) == [s for s in whole if s[1].timestamp in wanted]
