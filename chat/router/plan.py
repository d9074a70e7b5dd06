"""What a router remembers and decides. Pure: records and locations in, batches of deliveries for edges out.

**prev.** The memory of a partition is as good as its reading is gapless: `begin` empties it, and so does a hole in the
offsets. A timeline that is not in it has an unknown prev (None), unless the partition was read from the first record that
ever was in it: then there is nothing before (0). Forgetting a timeline, to stay bounded, ends that certainty.

**Locations** are looked up by the caller after the records were fetched, each timeline once a cycle:

    Found      timeline → edges that hold it by their leased incarnation
    Everyone   Redis is away: all edges that have a topic; each picks out its own
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from chat.fitting import Unfit, fit
from chat.positions import position
from chat.records import (
    KIND_HEADER,
    RECEIPT_HEADER,
    Consumed,
    Delivery,
    DeliveryBatch,
    TopicPartition,
    splice,
)  # fmt: skip

#: Bytes in msgpack around a payload, at most: timeline, two integers, kind, receipt and the lengths of all.
_AROUND_DELIVERY: Final = 80
_AROUND_BATCH: Final = 256  # the batch's own, and Kafka's around one record and its header


class Memory:
    """Positions of the last record of each timeline, per partition. `bound` timelines per partition at most."""

    __slots__ = ("_bound", "_read")

    def __init__(self, bound: int) -> None:
        self._bound = max(1, bound)
        self._read: dict[TopicPartition, _Read] = {}

    def begin(self, partition: TopicPartition, offset: int, *, first_ever: bool = False) -> None:
        """Reading begins anew at `offset`. `first_ever`: nothing of any timeline lies before it, not even trimmed or in
        an older generation."""
        self._read[partition] = _Read(offset, first_ever)

    def keep_only(self, partitions: Collection[TopicPartition], bound: int) -> None:
        """The others are lost; `bound` from now on."""
        self._bound = max(1, bound)
        for gone in self._read.keys() - set(partitions):
            del self._read[gone]

    def read(self, partition: TopicPartition, generation: int, records: Iterable[Consumed]) -> Iterator[int | None]:
        """Take records in order; yields `prev` for each. What is not iterated over is not taken."""
        read = self._read[partition]
        for record in records:
            if record.offset != read.next_offset:
                read.last.clear()
                read.complete = False
            read.next_offset = record.offset + 1
            key = record.key or b""
            prev = read.last.pop(key, 0 if read.complete else None)
            read.last[key] = position(generation, record.offset)
            while len(read.last) > self._bound:
                del read.last[next(iter(read.last))]
                read.complete = False
            yield prev


class _Read:
    __slots__ = ("complete", "last", "next_offset")

    def __init__(self, next_offset: int, complete: bool) -> None:
        self.next_offset = next_offset
        self.complete = complete  # a timeline that is not in `last` has no record
        self.last: dict[bytes, int] = {}  # least recently used first


class Item(NamedTuple):
    """A record to be delivered. `size`: an upper bound of its bytes in a batch."""

    delivery: Delivery
    size: int


class Location(NamedTuple):
    """One session of a user, or one edge of a group, as Redis has it."""

    edge: str
    incarnation: int


Found = Mapping[str, Collection[Location]]


def item(record: Consumed, generation: int, prev: int | None) -> Item | None:
    """The delivery of a record, its frame spliced. None where it does not fit: it is persist's to bury, and no client's to
    see."""
    try:
        timeline = fit(record.key, record.value).timeline
    except Unfit:
        return None
    kind, receipt = None, False
    for name, said in record.headers:
        if name == KIND_HEADER:
            kind = said[:32].decode("ascii", "replace")
        elif name == RECEIPT_HEADER:
            receipt = True
    pos = position(generation, record.offset)
    payload = splice(record.value, prev, pos)
    return Item(Delivery(timeline, pos, record.timestamp, kind, receipt, payload), len(payload) + _AROUND_DELIVERY)


class Plan(NamedTuple):
    """`edges`: batches for each edge, to be produced in this order; mostly one. `offline`: deliveries that no edge takes.
    `dead`: locations that were passed over, since their incarnation is not the leased one."""

    edges: dict[str, list[DeliveryBatch]]
    offline: int
    dead: int


def plan(items: Sequence[Item], found: Found, leased: Mapping[str, int], max_bytes: int) -> Plan:
    """Who gets what, where Redis was asked. `leased`: edge → incarnation of its lease; `max_bytes`: of one batch."""
    targets: dict[str, list[str]] = {}
    dead = 0
    for timeline, locations in found.items():
        edges: dict[str, None] = {}
        for location in locations:
            if leased.get(location.edge) == location.incarnation:
                edges[location.edge] = None
            else:
                dead += 1
        targets[timeline] = list(edges)
    by_edge: dict[str, list[Item]] = {}
    offline = 0
    for one in items:
        edges_of = targets.get(one.delivery.timeline)
        if not edges_of:
            offline += 1
            continue
        for edge in edges_of:
            if edge in by_edge:
                by_edge[edge].append(one)
            else:
                by_edge[edge] = [one]
    return Plan({edge: list(cut(mine, leased[edge], max_bytes)) for edge, mine in by_edge.items()}, offline, dead)


def cut(items: Sequence[Item], incarnation: int | None, max_bytes: int) -> Iterator[DeliveryBatch]:
    """Batches of at most `max_bytes` packed, in order. A delivery that is larger by itself goes alone."""
    room = max_bytes - _AROUND_BATCH
    batch: list[Delivery] = []
    size = 0
    for one in items:
        if batch and size + one.size > room:
            yield DeliveryBatch(incarnation, batch)
            batch, size = [], 0
        batch.append(one.delivery)
        size += one.size
    if batch:
        yield DeliveryBatch(incarnation, batch)
