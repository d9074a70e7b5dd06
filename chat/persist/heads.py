"""Stream heads in memory: what is known without asking MySQL. Pure.

Only what a committed transaction has written or read comes in, and a partition's heads are forgotten whenever it is begun
anew: another process may have moved them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chat.persist.batch import Stream
from chat.records import TopicPartition


class Heads(Mapping[Stream, int]):
    """Stream → next seq, of all partitions; at most `bound`, least recently changed forgotten first."""

    def __init__(self, bound: int) -> None:
        self._bound = max(1, bound)
        self._next: dict[Stream, tuple[int, TopicPartition]] = {}

    def __getitem__(self, stream: Stream) -> int:
        return self._next[stream][0]

    def __contains__(self, stream: object) -> bool:
        return stream in self._next

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._next)

    def __len__(self) -> int:
        return len(self._next)

    def committed(self, stream: Stream, next_seq: int, partition: TopicPartition) -> None:
        self._next.pop(stream, None)
        self._next[stream] = (next_seq, partition)
        while len(self._next) > self._bound:
            del self._next[next(iter(self._next))]

    def forget(self, partition: TopicPartition) -> None:
        self._next = {s: kept for s, kept in self._next.items() if kept[1] != partition}
