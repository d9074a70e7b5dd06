"""A dead record is put where it belongs while persist runs: neither builds on what the other has changed since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from chat.admin import mending
from chat.admin.graveyard import Dead
from chat.admin.mending import Hopeless, mend
from chat.errors import Conflict
from chat.persist.batch import Changes
from chat.ports import Database, Result, Statement
from chat.records import TopicPartition, Topics, message_records, notice
from tests.integration.business.world import TOPIC, World

pytestmark = pytest.mark.servers

TOPICS, NOTE = Topics("t"), Statement("DO 0")


class Between:
    """A Database that does something else before each of the first writes."""

    def __init__(self, database: Database, *steps: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._steps = list(steps)

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        if self._steps:
            await self._steps.pop(0)()
        return await self._database.write(statements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def say(world: World, kind: str, sender: int, to: int) -> None:
    said = notice(kind, sender=sender, to=to, sent_at=world.clock.sent_at(sender))
    await world.log.publish(message_records(said, [f"u{to}"]))


async def dead_request(world: World) -> Dead:
    """The first record of u2, a friend request of user 1, which persist has buried."""
    world.log.persisting = False
    await say(world, "friend_request", 1, 2)
    world.log.persisting = True
    place = world.log.partition("u2")
    (record,) = world.log.records[place.partition]
    await world.log.store.write(Changes(), {place: (0, 1)})
    world.log.stored[place.partition] = 1
    return Dead(0, TOPIC, place.partition, "why", record)


async def friends(world: World) -> list[tuple[Any, ...]]:
    return await world.sql("SELECT user, other, state FROM friends")


async def test_what_persist_stores_meanwhile_is_not_overwritten(world: World) -> None:
    dead = await dead_request(world)
    between: Any = Between(world.real, lambda: say(world, "friend_removed", 1, 2))
    assert "computed anew" in await mend(between, TOPICS, dead, NOTE)
    assert await friends(world) == []  # asked, and taken back
    assert len(await world.sql("SELECT 1 FROM messages WHERE timeline = 'u2'")) == 2


async def test_persist_does_not_go_on_from_a_state_that_was_mended_meanwhile(world: World) -> None:
    dead = await dead_request(world)
    place = TopicPartition(TOPIC, dead.partition)
    await mend(world.real, TOPICS, dead, NOTE)
    assert await friends(world) == [(2, 1, "asking")]
    with pytest.raises(Conflict):
        await world.log.store.write(Changes(), {place: (1, 2)}, {place: 0})  # as read before it was mended
    await world.log.store.write(Changes(), {place: (1, 2)}, {place: 1})


async def test_other_partitions_are_left_alone(world: World) -> None:
    dead = await dead_request(world)
    await mend(world.real, TOPICS, dead, NOTE)
    rows = await world.sql("SELECT topic_partition, next_offset, mended FROM offsets ORDER BY topic_partition")
    assert rows == [(n, int(n == dead.partition), int(n == dead.partition)) for n in range(len(rows))]


async def test_a_persist_that_always_comes_first_is_said_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "TRIES", 5)
    dead = await dead_request(world)
    steps = [lambda: say(world, "friend_removed", 1, 2)] * 5
    between: Any = Between(world.real, *steps)
    with pytest.raises(Hopeless, match="run this again"):
        await mend(between, TOPICS, dead, NOTE)
    assert "computed anew" in await mend(world.real, TOPICS, dead, NOTE)
