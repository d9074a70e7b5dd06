"""PROTOCOL, "People and groups": the people."""

from __future__ import annotations

import pytest

from chat import protocol as p
from chat.errors import PartError, Unavailable
from tests.integration.business.world import Session, World, refused

pytestmark = pytest.mark.servers


async def states(world: World, session: Session) -> dict[str, str]:
    reply = await world.ask(session, p.Friends())
    return {f.name: f.state for f in reply.friends}


async def test_a_user_is_found_by_name_and_by_number(world: World) -> None:
    anna, bert = await world.online("anna"), await world.user("bert")
    assert await world.ask(anna, p.FindUser(name="bert")) == p.UserReply(user=bert, name="bert", rid=7)
    assert await world.ask(anna, p.FindUser(user=bert)) == p.UserReply(user=bert, name="bert", rid=7)
    for name in ("bertha", "Bert", "", "b'; --", "ё" * 5, "b" * 128):
        await refused(world, anna, p.FindUser(name=name), "not_found")
    await refused(world, anna, p.FindUser(), "bad_request")


async def test_asked_and_accepted(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    await world.ask(anna, p.FriendRequest(user=bert.user, text="I am Anna"))
    assert await states(world, anna) == {"bert": "asked"}
    assert await states(world, bert) == {"anna": "asking"}
    synced = await world.sync(bert, f"u{bert.user}")
    assert [(m.kind, m.sender, m.to, m.text) for m in synced.messages] == [
        ("friend_request", anna.user, bert.user, "I am Anna")
    ]
    await refused(world, anna, p.FriendRequest(user=bert.user), "exists")
    await refused(world, anna, p.FriendAccept(user=bert.user), "not_found")
    await world.ask(bert, p.FriendAccept(user=anna.user))
    assert await states(world, anna) == {"bert": "friend"}
    assert await states(world, bert) == {"anna": "friend"}
    await refused(world, bert, p.FriendAccept(user=anna.user), "exists")
    await refused(world, bert, p.FriendRequest(user=anna.user), "exists")


async def test_two_requests_that_cross_make_friends(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    await world.ask(anna, p.FriendRequest(user=bert.user))
    await world.ask(bert, p.FriendRequest(user=anna.user))
    assert await states(world, anna) == {"bert": "friend"}


async def test_rejected_taken_back_removed(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    await refused(world, bert, p.FriendReject(user=anna.user), "not_found")
    await world.ask(anna, p.FriendRequest(user=bert.user))
    await world.ask(bert, p.FriendReject(user=anna.user))
    assert await states(world, anna) == await states(world, bert) == {}
    await world.ask(anna, p.FriendRequest(user=bert.user))
    await world.ask(anna, p.FriendRemove(user=bert.user))
    assert await states(world, bert) == {}
    await world.ask(anna, p.FriendRequest(user=bert.user))
    await world.ask(bert, p.FriendAccept(user=anna.user))
    await world.ask(bert, p.FriendRemove(user=anna.user))
    assert await states(world, anna) == await states(world, bert) == {}
    await refused(world, bert, p.FriendRemove(user=anna.user), "not_found")


@pytest.mark.parametrize("kind", [p.FriendRequest, p.FriendAccept, p.FriendReject, p.FriendRemove, p.Block, p.Unblock])
async def test_nobody_and_oneself(world: World, kind: type[p.FriendRequest]) -> None:
    anna = await world.online("anna")
    await refused(world, anna, kind(user=anna.user), "bad_request")
    await refused(world, anna, kind(user=anna.user + 1000), "not_found")


async def test_blocking_is_told_to_all_edges_and_idempotent(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    for _ in range(2):
        await world.ask(anna, p.Block(user=bert.user))
    assert [(e.event, e.user, e.by) for e in world.log.events] == [("blocked", bert.user, anna.user)] * 2
    await refused(world, bert, p.FriendRequest(user=anna.user), "blocked")
    await world.ask(anna, p.FriendRequest(user=bert.user))
    world.log.events.clear()
    for _ in range(2):
        await world.ask(anna, p.Unblock(user=bert.user))
    assert [(e.event, e.user, e.by) for e in world.log.events] == [("unblocked", bert.user, anna.user)] * 2
    assert await world.sql("SELECT COUNT(*) FROM blocks") == [(0,)]


async def test_kafka_away_changes_nothing(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.ask(anna, p.FriendRequest(user=bert.user))
    world.log.away = False
    assert await states(world, anna) == {}
    await world.ask(anna, p.FriendRequest(user=bert.user))
    assert await states(world, anna) == {"bert": "asked"}


async def test_persist_behind_does_not_refuse(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    world.log.persisting = False
    await world.ask(anna, p.FriendRequest(user=bert.user))
    assert await states(world, anna) == {}
    await world.log.persist()
    assert await states(world, anna) == {"bert": "asked"}


async def test_mysql_away_is_told_at_once(world: World) -> None:
    anna, bert = await world.online("anna"), await world.user("bert")
    world.database.away = True
    for request in (p.FriendRequest(user=bert), p.Friends(), p.FindUser(name="bert"), p.Block(user=bert)):
        with pytest.raises(PartError) as caught:
            await world.ask(anna, request)
        assert caught.value.part == "mysql"


async def test_a_block_is_in_effect_here_before_its_answer_and_told_to_the_others(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    world.log.away = True
    await refused(world, anna, p.Block(user=bert.user), "unavailable")
    world.log.away = False
    await world.ask(anna, p.Block(user=bert.user))
    assert world.hub.blocked_by(bert.user) == {anna.user}
    assert [(e.event, e.user) for e in world.log.events] == [("blocked", bert.user)]
    await world.ask(anna, p.Unblock(user=bert.user))
    assert not world.hub.blocked_by(bert.user)
