"""Merging partitions by time, in an order that only their content decides. Pure.

A partition's records keep their order; between partitions, each record stands at the highest time that its partition has
shown up to it, then in the order of the partitions. Times within a partition may step back a little (each edge has its own
clock), which the highest so far levels out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from chat.records import Consumed, TopicPartition

#: A record and where it lies.
Sourced = tuple[TopicPartition, Consumed]
_Item = tuple[int, int, int, Consumed]  # highest time so far, lane's index, offset, record


class Lane:
    """One partition: what of it was read and not merged yet. Lanes that are merged together have their own `index` each."""

    __slots__ = ("_high", "_items", "_last", "_over", "index", "partition")

    def __init__(self, partition: TopicPartition, index: int) -> None:
        self.partition = partition
        self.index = index
        self._high = -1
        self._items: list[_Item] = []
        self._last: tuple[int, int, int] | None = None  # place of the last record fed; what comes lies behind it
        self._over = False

    @property
    def hungry(self) -> bool:
        """It must be fed before more can be merged."""
        return not self._items and not self._over

    @property
    def finished(self) -> bool:
        return not self._items and self._over

    def feed(self, records: Sequence[Consumed], wanted: Iterable[bool] | None) -> None:
        """Records in their order. Those that are not wanted still say how far the partition is."""
        high, index, items = self._high, self.index, self._items
        if wanted is None:
            for record in records:
                high = max(high, record[1])
                items.append((high, index, record[0], record))
        else:
            for record, take in zip(records, wanted, strict=True):
                high = max(high, record[1])
                if take:
                    items.append((high, index, record[0], record))
        self._high = high
        if records:
            self._last = (high, index, records[-1][0])

    def end(self) -> None:
        """Nothing follows."""
        self._over = True

    def take(self, bound: tuple[int, int, int] | None) -> list[_Item]:
        """Those up to `bound`, None: all."""
        items = self._items
        count = len(items) if bound is None else bisect_right(items, bound, key=_place)
        taken, self._items = items[:count], items[count:]
        return taken

    @property
    def reached(self) -> tuple[int, int, int] | None:
        """Everything up to here is known; None: all there is."""
        return None if self._over else self._last or (-1, -1, -1)


def _place(item: _Item) -> tuple[int, int, int]:
    return item[:3]


def merge(lanes: Sequence[Lane]) -> list[Sourced]:
    """What can be merged now: all that certainly comes before whatever the lanes get later."""
    bound = min((reached for lane in lanes if (reached := lane.reached) is not None), default=None)
    items = [item for lane in lanes for item in lane.take(bound)]
    items.sort()
    partitions = {lane.index: lane.partition for lane in lanes}
    return [(partitions[item[1]], item[3]) for item in items]
