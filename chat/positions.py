"""Positions, offsets and the commit watermark. Pure.

A **position** says where a record stands in its timeline: ``generation × 2^44 + Kafka offset + 1``. It is 1 or above and
below 2^53, grows along a timeline, and has holes (a partition carries many timelines). A generation is a new topic.
"""

from __future__ import annotations

from collections import deque

OFFSET_BITS = 44
MAX_GENERATION = (1 << (53 - OFFSET_BITS)) - 1
_OFFSET_MASK = (1 << OFFSET_BITS) - 1


def position(generation: int, offset: int) -> int:
    """The position of the record at `offset` in the topic of `generation`.

    Also the *upto* of a consumer whose next offset is `offset`: everything below it has been read.
    """
    return (generation << OFFSET_BITS) + offset + 1


def generation_of(pos: int) -> int:
    return (pos - 1) >> OFFSET_BITS


def offset_of(pos: int) -> int:
    return (pos - 1) & _OFFSET_MASK


class Watermark:
    """The contiguous low watermark of one partition: what may be committed.

    `begin` an offset range when its work starts, `finish` it when every effect of it is done; ranges may finish in any
    order. `next_offset` is where a successor has to read from: everything below it is done.
    """

    __slots__ = ("_open", "next_offset")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self._open: deque[list[int | bool]] = deque()  # [end of range, done], in log order

    def begin(self, end: int) -> list[int | bool]:
        """Work on everything below `end` (exclusive) begins. Returns the handle for `finish`."""
        last = self._open[-1][0] if self._open else self.next_offset
        if end < last:
            raise ValueError(f"range ends at {end}, behind {last}")
        handle: list[int | bool] = [end, False]
        self._open.append(handle)
        return handle

    def finish(self, handle: list[int | bool]) -> bool:
        """The work of the range is done. True where `next_offset` moved."""
        handle[1] = True
        moved = False
        while self._open and self._open[0][1]:
            self.next_offset = int(self._open.popleft()[0])
            moved = True
        return moved

    @property
    def open_ranges(self) -> int:
        return len(self._open)
