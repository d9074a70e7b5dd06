"""A MySQL so slow that a whole fetch does not fit the time-out is not asked for the same for ever."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chat.config import PersistConfig
from chat.errors import PartAway
from chat.metrics import PersistMetrics
from chat.persist.cycle import Persist
from chat.persist.heads import Heads
from chat.ports import Result
from chat.records import Record, TopicPartition
from tests.fakes.kafka import FakeGroupConsumer, FakeKafka

PLACE = TopicPartition("chat.messages", 0)
RECORDS = 1_000


class SlowMysql:
    """The offsets, and persist's work on them: a transaction of more than `most` records is not done in time."""

    def __init__(self) -> None:
        self.next_offset = 0
        self.most = 60
        self.stored: list[int] = []
        self.moved = trio.Event()

    async def until(self, offset: int) -> None:
        while self.next_offset < offset:
            self.moved = trio.Event()
            await self.moved.wait()

    async def read(self, _: Any) -> list[Result]:
        await trio.lowlevel.checkpoint()
        return [Result([(PLACE.topic, PLACE.partition, self.next_offset, 0)], 0, 0)]

    def begun(self, places: Any) -> None:
        """It remembers nothing."""

    async def store(self, fetched: Any) -> dict[TopicPartition, int]:
        [(begin, records)] = fetched.values()
        assert begin == self.next_offset
        await trio.sleep(5)
        if len(records) > self.most:
            raise PartAway("mysql", "no answer in time")
        self.stored.append(len(records))
        self.next_offset += len(records)
        self.moved.set()
        return {PLACE: self.next_offset}


@pytest.mark.parametrize("most", [60, 1])
async def test_what_does_not_fit_the_time_is_tried_by_halves(autojump_clock: MockClock, most: int) -> None:
    kafka, mysql, nothing = FakeKafka(), SlowMysql(), None
    mysql.most = most
    kafka.create(PLACE.topic)
    kafka.log(PLACE).append([Record(b"u1", b"{}", n) for n in range(RECORDS if most > 1 else 20)])
    database: Any = mysql
    work: Any = mysql
    check: Any = nothing
    persist = Persist(
        PersistConfig(max_records=500),
        consumer=FakeGroupConsumer(kafka, "g", [PLACE.topic]),
        database=database,
        work=work,
        heads=Heads(1),
        metrics=PersistMetrics(),
        check=check,
    )
    stop = trio.Event()
    with trio.fail_after(3_600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(persist.run, stop, lambda: None)
            await mysql.until(kafka.log(PLACE).end)
            mysql.most = 10_000
            kafka.log(PLACE).append([Record(b"u1", b"{}", n) for n in range(4 * RECORDS)])
            kafka.tell()
            await mysql.until(kafka.log(PLACE).end)
            stop.set()
    assert max(mysql.stored) == 500  # it is fast again: so are we
