"""The check at start, while others store and trim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chat.persist.offsets import check_offsets
from chat.ports import Result, Statement
from chat.records import Record, TopicPartition, Topics
from tests.fakes.kafka import FakeKafka, FakeLogAdmin

TOPICS = Topics("chat")
PLACE = TopicPartition(TOPICS.messages, 0)


class BusyMysql:
    """While it is asked, records are written, and another process stores them all."""

    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka
        self.begun_anew: list[Statement] = []

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        (asked,) = statements
        if "MAX(generation)" in asked.sql:
            return [Result([(0,)], 0, 0)]
        topic = asked.args[0]
        log = self._kafka.log(TopicPartition(topic, 0))
        log.append([Record(b"u1", b"{}", 1)] * 5)
        row = (0, self._kafka.ids[topic], log.end)
        await FakeLogAdmin(self._kafka).delete_records({TopicPartition(topic, 0): log.end})
        return [Result([row], 0, 0)]

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        self.begun_anew += statements
        return [Result([], 1, 0) for _ in statements]


async def test_what_others_store_meanwhile_is_no_lost_log() -> None:
    kafka = FakeKafka()
    for topic in (TOPICS.messages, TOPICS.receipts):
        kafka.create(topic, 1)
    database = BusyMysql(kafka)
    given: Any = database
    for _ in range(3):
        assert await check_offsets(given, FakeLogAdmin(kafka), TOPICS, [TOPICS.messages]) == [
            TOPICS.messages,
            TOPICS.receipts,
        ]
    assert not database.begun_anew  # receipts neither
