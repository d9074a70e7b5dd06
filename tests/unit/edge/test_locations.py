"""Redis follows the hub: what is written, when it is written anew, and whom that tells to sync."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from chat.config import EdgeConfig
from chat.edge.connection import Connection
from chat.edge.locations import GIVE_UP, PROBES, RENEW, Locations
from chat.errors import SetupError
from chat.metrics import EdgeMetrics
from tests.fakes.redis import FakeRedis


class Session:
    """What locations see of a connection."""

    def __init__(self, user: int, name: str) -> None:
        self.user, self.session, self.device = user, name, f"device-{name}"
        self.ended = self.registered = self.resync_when_written = False


class Hub:
    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.groups: dict[int, list[Session]] = {}
        self.resynced: list[tuple[list[str], list[str] | None]] = []

    def members_here(self, group: int) -> Any:
        return self.groups.get(group, [])

    def all_sessions(self) -> Any:
        return self.sessions

    def all_groups(self) -> Collection[int]:
        return list(self.groups)

    def resync(self, sessions: Collection[Connection], timelines: list[str] | None = None) -> None:
        self.resynced.append((sorted(s.session for s in sessions), timelines))


def renew(redis: FakeRedis, keys: list[bytes], args: list[bytes]) -> int:
    """As the script says."""
    value, incarnation, _, take = args
    there = redis.data.get(keys[0])
    result = 0
    if isinstance(there, bytes):
        if str(json.loads(there)["incarnation"]).encode() == incarnation:
            result = 1
        elif take != b"take":
            return -1
    redis.data[keys[0]] = value
    return result


class World:
    def __init__(self) -> None:
        self.redis, self.hub = FakeRedis(), Hub()
        self.redis.scripts |= {
            RENEW: renew,
            GIVE_UP: lambda redis, keys, args: int(redis.data.pop(keys[0], None) is not None),
        }
        self.metrics = EdgeMetrics()
        self.locations = Locations(
            EdgeConfig(name="a"), incarnation=7, address="h:1", memory=self.redis, prefix="", metrics=self.metrics
        )
        self.locations.follow(self.hub)

    def come(self, *sessions: Session, group: int = 0) -> None:
        for session in sessions:
            self.hub.sessions.append(session)
            self.locations.session_changed(cast(Connection, session))
        if group:
            self.hub.groups[group] = list(sessions)
            self.locations.group_changed(group)

    def there(self, user: int) -> dict[bytes, bytes]:
        found = self.redis.data.get(f"loc:{user}".encode(), {})
        assert isinstance(found, dict)
        return found

    def lost(self, why: str) -> float:
        return float(self.metrics.lease_losses.labels(why)._value.get())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.locations.run)
            await trio.sleep(0.1)
            assert self.locations.held
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def world() -> World:
    return World()


async def test_sessions_and_groups_are_written_and_removed(autojump_clock: MockClock, world: World) -> None:
    session = Session(42, "s1")
    async with world.running():
        world.come(session, group=5)
        await trio.sleep(0.5)
        assert world.there(42) == {b"s1": b"a 7 device-s1"}
        assert world.redis.data[b"group:5:edges"] == {b"a": b"7"}
        assert world.locations.held
        session.ended = True
        world.hub.sessions.clear()
        world.hub.groups.clear()
        world.locations.session_changed(cast(Connection, session))
        world.locations.group_changed(5)
        await trio.sleep(0.5)
        assert world.there(42) == {}
        assert b"group:5:edges" not in world.redis.data
        await world.locations.leave()
        assert b"edge:a" not in world.redis.data
    assert not world.hub.resynced


@pytest.mark.parametrize("why", ["lapsed", "run_id", "keys"])
async def test_what_redis_lost_is_written_again_and_synced(autojump_clock: MockClock, world: World, why: str) -> None:
    sessions = [Session(user, f"s{user}") for user in range(1, PROBES // 2)]
    async with world.running():
        world.come(*sessions, group=5)
        await trio.sleep(3)
        assert not world.hub.resynced
        if why == "run_id":
            world.redis.restart()
        elif why == "lapsed":
            del world.redis.data[b"edge:a"]
        else:
            del world.redis.data[b"loc:3"]
        await trio.sleep(3)
        assert world.lost(why) == 1
        assert all(world.there(session.user) for session in sessions)
        assert ([s.session for s in sorted(sessions, key=lambda s: s.session)], None) in [
            (sorted(name for names, _ in world.hub.resynced for name in names if names), None)
        ]
        await trio.sleep(30)
        assert [world.lost(each) for each in ("lapsed", "run_id", "keys")].count(1) == 1  # once is enough


async def test_a_group_that_redis_lost_is_written_again(autojump_clock: MockClock, world: World) -> None:
    async with world.running():
        world.come(Session(1, "s1"), group=5)
        await trio.sleep(3)
        del world.redis.data[b"group:5:edges"]
        await trio.sleep(3)
        assert world.redis.data[b"group:5:edges"] == {b"a": b"7"}
        assert (["s1"], ["g5"]) in world.hub.resynced


async def test_one_of_many_sessions_is_found_by_the_sweep_at_last(autojump_clock: MockClock, world: World) -> None:
    sessions = [Session(user, f"s{user}") for user in range(1, 2_000)]
    async with world.running():
        world.come(*sessions)
        await trio.sleep(3)
        del world.redis.data[b"loc:3"]
        await trio.sleep(EdgeConfig().sweep_s + 5)
        assert world.there(3)
    assert any("s3" in names for names, _ in world.hub.resynced)


async def test_redis_away_and_back(autojump_clock: MockClock, world: World) -> None:
    async with world.running():
        world.come(Session(1, "s1"))
        await trio.sleep(3)
        world.redis.away = True
        world.come(Session(2, "s2"))
        await trio.sleep(60)
        assert world.locations.away
        world.redis.restart(lose=True)
        world.redis.away = False
        await trio.sleep(5)
        assert world.there(1)
        assert world.there(2)
        assert any("s1" in names for names, _ in world.hub.resynced)


async def test_another_process_takes_the_name(autojump_clock: MockClock, world: World) -> None:
    with pytest.RaisesGroup(SetupError, flatten_subgroups=True):
        async with world.running():
            await trio.sleep(3)
            world.redis.data[b"edge:a"] = b'{"incarnation":8}'
            await trio.sleep(30)
