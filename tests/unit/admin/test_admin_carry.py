"""What edges wrote into a topic that cannot go on."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from chat.admin.carry import carry_over
from chat.persist.offsets import Found
from chat.ports import Result, Statement
from chat.positions import position
from chat.records import Record, partition_of
from tests.fakes.kafka import FakeKafka

OLD, NEW = "chat.messages", "chat.messages.1"


class Rows:
    """A database that knows the digests of some rows."""

    def __init__(self, stored: dict[tuple[str, int], bytes]) -> None:
        self._stored = stored

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        (statement,) = statements
        rows = [
            (timeline, pos, sha256(body).hexdigest())
            for (timeline, pos), body in self._stored.items()
            if f"('{timeline}',{pos})" in statement.sql
        ]
        return [Result(rows, 0, 0)]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not asked for")


def found(kafka: FakeKafka, topic: str) -> Found:
    logs = kafka.topics[topic]
    return Found(topic, kafka.ids[topic], [log.start for log in logs], [log.end for log in logs])


async def test_what_is_not_stored_is_appended_once_in_its_order() -> None:
    kafka = FakeKafka()
    kafka.create(OLD, 2)
    kafka.create(NEW, 2)
    place = partition_of("u7", 2)
    log = kafka.topics[OLD][place]
    log.append([Record(b"u7", b"%d" % n, 100 - n, (("k", b"x"),)) for n in range(5)])
    log.append([Record(None, b"no key", 1)])
    stored = {("u7", position(0, 1)): b"1", ("u7", position(0, 2)): b"another body"}
    async with kafka.open_log_reader() as reader, kafka.open_producer() as producer:
        for expected in (5, 0):  # run again, nothing is left to do
            done = await carry_over(
                found(kafka, OLD), 0, found(kafka, NEW), database=Rows(stored), reader=reader, producer=producer,
                max_batch_bytes=900_000,
            )  # fmt: skip
            assert done == expected
    carried = kafka.topics[NEW][place].records
    assert [r.value for r in carried if r.key] == [b"0", b"2", b"3", b"4"]
    assert (carried[0].timestamp, carried[0].headers) == (100, (("k", b"x"),))
    assert b"no key" in kafka.values(NEW, partition_of("", 2))


async def test_where_partitions_change_the_order_is_by_time() -> None:
    kafka = FakeKafka()
    kafka.create(OLD, 2)
    kafka.create(NEW, 1)
    kafka.topics[OLD][0].append([Record(b"u7", b"later", 20)])
    kafka.topics[OLD][1].append([Record(b"u7", b"sooner", 10)])
    async with kafka.open_log_reader() as reader, kafka.open_producer() as producer:
        await carry_over(
            found(kafka, OLD),
            0,
            found(kafka, NEW),
            database=Rows({}),
            reader=reader,
            producer=producer,
            max_batch_bytes=99_999,
        )
    assert kafka.values(NEW) == [b"sooner", b"later"]
