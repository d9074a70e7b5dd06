"""What the topic of the dead says, as an operator sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chat.admin.graveyard import Graveyard
from chat.admin.mending import Hopeless, mend
from chat.errors import PartError, SetupError
from chat.ports import Database, Result, Statement
from chat.records import Record, Topics, dead_headers
from tests.fakes.kafka import FakeKafka, FakeLogAdmin, FakeLogReader

TOPICS = Topics("chat")


class Handled:
    """A database with nothing but the table of what is handled."""

    def __init__(self, outcomes: dict[int, str] | PartError) -> None:
        self._outcomes = outcomes

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        if isinstance(self._outcomes, PartError):
            raise self._outcomes
        assert statements[0].args == ("id-1", 0)
        return [Result(list(self._outcomes.items()), 0, 0)]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not asked for")


def graveyard_of(kafka: FakeKafka, database: Database) -> Graveyard:
    return Graveyard(TOPICS, database, FakeLogAdmin(kafka), FakeLogReader(kafka))


@pytest.fixture
def kafka() -> FakeKafka:
    kafka = FakeKafka()
    kafka.create(TOPICS.dead)
    kafka.topics[TOPICS.dead][0].append(
        [
            Record(b"u1", b"{", 5, (("k", b"read"), *dead_headers(TOPICS.messages, 2, 40, "not a message"))),
            Record(None, b"?", 6),
            Record(b"u1", b"{}", 7, dead_headers("chat.presence", 0, 1, "odd")),
            Record(b"u1", b"{", 8, dead_headers(TOPICS.messages, 2, 41, "too large (value cut from 9 to 1 bytes)")),
        ]
    )
    return kafka


async def test_a_record_is_as_it_was_where_it_was_found(kafka: FakeKafka) -> None:
    first, foreign, *_ = await graveyard_of(kafka, Handled({1: "skipped"})).all()
    assert (first.number, first.topic, first.partition, first.why) == (0, TOPICS.messages, 2, "not a message")
    assert (first.record.offset, first.record.headers, first.outcome) == (40, (("k", b"read"),), None)
    assert (foreign.topic, foreign.outcome) == ("", "skipped")
    assert "no headers" in foreign.why


async def test_only_what_is_there_can_be_named(kafka: FakeKafka) -> None:
    graveyard = graveyard_of(kafka, Handled({}))
    assert [d.number for d in await graveyard.some([3, 0])] == [3, 0]
    with pytest.raises(SetupError, match="no dead record 4: they are 0 to 3"):
        await graveyard.some([4])


async def test_a_missing_table_or_topic_says_what_to_run(kafka: FakeKafka) -> None:
    with pytest.raises(SetupError, match="chat migrate"):
        await graveyard_of(kafka, Handled(PartError("mysql", "1146: no such table"))).all()
    with pytest.raises(SetupError, match="chat topics create"):
        await graveyard_of(FakeKafka(), Handled({})).all()


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (0, "it cannot be read: not a message"),
        (1, "unknown topic"),
        (2, "nothing is stored from chat.presence"),
        (3, "too large"),
    ],
)
async def test_what_cannot_be_retried_says_why(kafka: FakeKafka, number: int, why: str) -> None:
    (one,) = await graveyard_of(kafka, Handled({})).some([number])
    with pytest.raises(Hopeless, match=why):
        await mend(Handled({}), TOPICS, one, Statement(""))
