"""Records in; `prev` remembered, frames spliced, planned over two edges, packed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from benchmarks.data import consumed
from benchmarks.measure import Case, Job
from chat.records import Consumed, TopicPartition, pack_deliveries
from chat.router.plan import Location, Memory, item, plan

_RECORDS: Final = 2_000
_CYCLE: Final = 100
_USERS: Final = 500
_PLACE: Final = TopicPartition("chat.messages", 0)
_EDGES: Final = {"edge-1": 11, "edge-2": 12}


@asynccontextmanager
async def _route() -> AsyncIterator[Job]:
    memory, rounds = Memory(100_000), count()
    memory.begin(_PLACE, 0, first_ever=True)
    names = list(_EDGES)
    found = {
        f"u{user}": [Location(names[user % len(names)], _EDGES[names[user % len(names)]])] for user in range(1, _USERS + 1)
    }
    records: list[Consumed] = []

    def prepare() -> None:
        base = next(rounds) * _RECORDS // _USERS
        records[:] = [consumed(number, _USERS, base) for number in range(_RECORDS)]

    async def run() -> None:
        for at in range(0, _RECORDS, _CYCLE):
            cycle = records[at : at + _CYCLE]
            items = [
                made
                for one, prev in zip(cycle, memory.read(_PLACE, 0, cycle), strict=True)
                if (made := item(one, 0, prev)) is not None
            ]
            timelines = dict.fromkeys(i.delivery.timeline for i in items)
            planned = plan(items, {timeline: found[timeline] for timeline in timelines}, _EDGES, 900_000)
            for batches in planned.edges.values():
                for batch in batches:
                    pack_deliveries(batch)

    async def settle() -> None:
        prepare()

    prepare()
    yield Job(_RECORDS, run, settle)


CASES: Final = (Case("route", "memory of prev, splice, plan, pack, 100 records a cycle; a record", _route),)
