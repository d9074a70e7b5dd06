"""How many streams a user may begin, and streams that have rested."""

from __future__ import annotations

import pytest
import trio

from chat.config import EdgeConfig
from chat.edge.dispatch import Later
from chat.edge.streams import DAY_MS, NUMBERS, Streams
from chat.errors import ChatError
from chat.ports import Result, Statement
from tests.fakes.small_edge import FewUsers, small_edge

NOW = 100 * DAY_MS


class Stored(FewUsers):
    def __init__(self) -> None:
        super().__init__()
        self.written: dict[tuple[str, str, int, int], int] = {}

    async def read(self, statements: list[Statement]) -> list[Result]:  # type: ignore[override]
        if "FROM streams" in statements[0].sql:
            self._check()
            self.asked += statements
            return [Result([(*key, at) for key, at in self.written.items()], 0, 0)]
        return await super().read(statements)


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def streams(stored: Stored) -> Streams:
    return Streams(EdgeConfig(streams_per_hour=100), stored, lambda: NOW)  # type: ignore[arg-type]


async def admit(streams: Streams, conversation: str, stream: int, seq: int, *, user: int = 1) -> None:
    """As the dispatch does."""
    try:
        streams.admit(user, conversation, stream, seq, trio.current_time())
    except Later as later:
        async with trio.open_nursery() as nursery:
            await nursery.start(streams.run)
            try:
                await later.wait()
            finally:
                nursery.cancel_scope.cancel()
        streams.admit(user, conversation, stream, seq, trio.current_time())


async def test_a_stream_for_each_message_is_too_many(streams: Streams) -> None:
    for stream in range(100):
        await admit(streams, "u2", stream, 0)
    with pytest.raises(ChatError) as refused:
        await admit(streams, "u2", 100, 0)
    assert refused.value.code == "rate_limited"
    assert 30_000 < refused.value.fields["retry_after_ms"] <= 36_001
    await admit(streams, "u3", 100 - NUMBERS, 0)  # one that was begun goes on, in other conversations too
    await admit(streams, "u2", 100, 0, user=2)  # and others have their own


async def test_one_that_has_rested_is_refused_for_good(streams: Streams, stored: Stored) -> None:
    stored.written = {("u1", "u2", 1, 5): NOW - 31 * DAY_MS, ("g7", "g7", 1, 5): NOW - 29 * DAY_MS}
    with pytest.RaisesGroup(pytest.RaisesExc(ChatError, match="rested")):
        await admit(streams, "u2", 5, 9)
    await admit(streams, "g7", 5, 9)
    await admit(streams, "u2", 6, 9)  # nothing is stored of it
    await admit(streams, "u2", 5, 0)  # said again from its start: persist knows it


async def test_what_is_fresh_is_asked_for_once(streams: Streams, stored: Stored) -> None:
    for _ in range(3):
        await admit(streams, "u2", 5, 9)
    assert len(stored.asked) == 1


async def test_without_mysql_it_counts_as_fresh(streams: Streams, stored: Stored) -> None:
    stored.away = True
    await admit(streams, "u2", 5, 9)


async def test_on_the_wire() -> None:
    async with small_edge(streams_per_hour=2) as small:
        ann = await small.client(1)
        for stream in (5, 6):
            await ann.send("send", to=2, stream=stream, seq=0, text="x")
            await ann.expect("accepted", stream=stream, seq=0)
        await ann.send("send", to=2, stream=7, seq=0, text="x")
        await ann.send("send", to=2, stream=7, seq=1, text="y")
        assert (await ann.expect("error", stream=7, seq=0))["code"] == "rate_limited"
        assert (await ann.expect("error", stream=7, seq=1))["code"] == "sequence_gap"  # pinned
        await ann.send("send", to=2, stream=7, seq=0, text="x")
        assert (await ann.expect("error", stream=7, seq=0))["code"] == "rate_limited"  # still
        await ann.send("send", to=3, stream=6, seq=4, text="x")
        await ann.expect("accepted", stream=6, seq=4)
