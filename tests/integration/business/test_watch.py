"""`watch` and presence."""

from __future__ import annotations

from typing import Any

import pytest

from chat import protocol as p
from chat.edge import watch
from chat.errors import PartError
from chat.records import PresenceEvent
from tests.integration.business.world import Session, World, refused, until

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEASES_S", 0.05)
    monkeypatch.setattr(watch, "AGAIN_S", 0.05)
    monkeypatch.setattr(watch, "FRIENDS_S", 0.1)


@pytest.fixture
async def friends(world: World) -> tuple[Session, Session]:
    anna, bert = await world.online("anna"), await world.online("bert")
    await world.ask(anna, p.FriendRequest(user=bert.user))
    await world.ask(bert, p.FriendAccept(user=anna.user))
    lease(world, "a", 1)
    return anna, bert


def lease(world: World, edge: str, incarnation: int | None) -> None:
    if incarnation is None:
        world.memory.execute("DEL", f"t:edge:{edge}")
    else:
        world.memory.execute("SET", f"t:edge:{edge}", f'{{"incarnation": {incarnation}, "address": "x", "weight": 1}}')


def place(world: World, user: int, session: str, where: str | None) -> None:
    if where is None:
        world.memory.execute("HDEL", f"t:loc:{user}", session)
    else:
        world.memory.execute("HSET", f"t:loc:{user}", session, f"{where} device-1")


def event(world: World, user: int, what: Any = "login") -> None:
    world.services.heard(PresenceEvent(event=what, user=user, at=1))


def told(session: Session) -> list[tuple[int, bool]]:
    return [(o.user, o.online) for frame in session.sent if isinstance(frame, p.Presence) for o in frame.users]


async def test_what_others_wrote_into_redis_ends_nothing(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    world.memory.execute("HSET", f"t:loc:{bert.user}", "odd", b"\xff", "odder", "a b", "broken", "b 1 device-1")
    world.memory.execute("SET", "t:edge:b", "no lease")
    reply = await world.ask(anna, p.Watch(users=[bert.user]))
    assert reply.users == [p.Online(bert.user, False)]
    event(world, bert.user)
    place(world, bert.user, "s1", "a 1")
    event(world, bert.user)
    await until(lambda: told(anna) == [(bert.user, True)])


async def test_now_and_at_each_change(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    reply = await world.ask(anna, p.Watch(users=[bert.user, bert.user]))
    assert reply == p.Presence(users=[p.Online(bert.user, False)], rid=7)
    place(world, bert.user, "s1", "a 1")
    event(world, bert.user)
    await until(lambda: told(anna) == [(bert.user, True)])
    place(world, bert.user, "s2", "a 1")
    event(world, bert.user)
    place(world, bert.user, "s1", None)
    event(world, bert.user, "logout")
    place(world, bert.user, "s2", None)
    event(world, bert.user, "logout")
    await until(lambda: told(anna) == [(bert.user, True), (bert.user, False)])


async def test_an_event_may_come_before_the_location(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    await world.ask(anna, p.Watch(users=[bert.user]))
    looked = len(world.memory.pipelines)
    event(world, bert.user)
    await until(lambda: len(world.memory.pipelines) > looked)
    place(world, bert.user, "s1", "a 1")
    await until(lambda: told(anna) == [(bert.user, True)])


async def test_a_location_of_a_dead_edge_is_none(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    place(world, bert.user, "old", "a 77")
    place(world, bert.user, "gone", "b 1")
    assert not (await world.ask(anna, p.Watch(users=[bert.user]))).users[0].online
    place(world, bert.user, "s1", "a 1")
    assert (await world.ask(anna, p.Watch(users=[bert.user]))).users[0].online
    lease(world, "a", None)
    await until(lambda: told(anna) == [(bert.user, False)])


async def test_redis_away(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    place(world, bert.user, "s1", "a 1")
    await world.ask(anna, p.Watch(users=[bert.user]))
    world.memory.away = True
    with pytest.raises(PartError) as caught:
        await world.ask(bert, p.Watch(users=[anna.user]))
    assert caught.value.part == "redis"
    event(world, bert.user, "logout")
    world.memory.away = False
    place(world, bert.user, "s1", None)
    await until(lambda: told(anna) == [(bert.user, False)])


async def test_only_friends_and_only_while_they_are(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    carl = await world.online("carl")
    await refused(world, carl, p.Watch(users=[bert.user]), "forbidden")
    await refused(world, anna, p.Watch(users=[bert.user, carl.user]), "forbidden")
    await world.ask(anna, p.Watch(users=[bert.user]))
    await world.ask(bert, p.FriendRemove(user=anna.user))
    await until(lambda: not world.services.watches._watchers)
    assert await world.ask(anna, p.Watch(users=[])) == p.Presence(users=[], rid=7)


async def test_the_last_one_counts_and_nothing_is_left(world: World, friends: tuple[Session, Session]) -> None:
    anna, bert = friends
    await world.ask(anna, p.Watch(users=[bert.user]))
    await world.ask(anna, p.Watch(users=[]))
    watches = world.services.watches
    assert not watches._watchers
    await world.ask(anna, p.Watch(users=[bert.user]))
    world.services.closed(anna)
    assert [watches._watchers, watches._watched, watches._online, watches._places] == [{}] * 4
    world.hub.sessions.clear()  # it ended while it was looked up
    await world.ask(anna, p.Watch(users=[bert.user]))
    assert not watches._watched
