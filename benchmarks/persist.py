"""Records in; parsed and checked, duplicates judged, the text of one transaction made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.data import consumed
from benchmarks.measure import Case, Job
from chat.persist.batch import Known, build, needs
from chat.persist.parse import Parsed, parse_messages
from chat.persist.store import transaction
from chat.records import TopicPartition

_RECORDS: Final = 2_000
_BATCH: Final = 500
_USERS: Final = 500
_PLACE: Final = TopicPartition("chat.messages", 0)


@asynccontextmanager
async def _persist() -> AsyncIterator[Job]:
    records = [consumed(number, _USERS) for number in range(_RECORDS)]

    async def run() -> None:
        for at in range(0, _RECORDS, _BATCH):
            batch = records[at : at + _BATCH]
            parsed = Parsed([], [], [])
            parse_messages(parsed, _PLACE, 0, batch)
            heads = dict.fromkeys(needs(parsed).streams, at // _USERS)
            changes = build(parsed, Known(heads))
            if len(changes.rows) != len(batch):
                raise AssertionError(f"{len(batch) - len(changes.rows)} records would not be stored")
            transaction(changes, {_PLACE: (at, at + len(batch))})

    yield Job(_RECORDS, run)


CASES: Final = (Case("persist", "parse, batch, SQL text, 500 records a transaction; a record", _persist),)
