"""PROTOCOL, "People and groups": names, friends, blocks, presence."""

from __future__ import annotations

import pytest
import trio

from tests.integration.raw import Frame, Raw, World, leave, new_name, new_stream, until

pytestmark = pytest.mark.servers


async def states(raw: Raw) -> dict[int, str]:
    answer = await raw.done("friends")
    assert all(isinstance(f["name"], str) for f in answer["friends"])
    return {f["user"]: f["state"] for f in answer["friends"]}


async def until_states(raw: Raw, wanted: dict[int, str]) -> None:
    async def so() -> bool:
        return await states(raw) == wanted

    await until(so)


async def notice(raw: Raw, kind: str, sender: Raw, to: Raw) -> Frame:
    frame = await raw.expect("message", kind=kind)
    assert (frame["from"], frame["to"]) == (sender.user, to.user)
    assert "stream" not in frame
    assert "seq" not in frame
    assert isinstance(frame["pos"], int)
    assert "prev" in frame
    return frame


async def test_users_are_found_by_name(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    answer = await ann.done("find_user", name=bob.logged_in["name"])
    assert (answer["type"], answer["user"], answer["name"]) == ("user", bob.user, bob.logged_in["name"])
    await ann.refused("not_found", "find_user", name=new_name())
    await ann.refused("not_found", "find_user", name="Not A Name!")


async def test_friends_by_request_and_acceptance(world: World) -> None:
    ann, bob = await world.person("ann"), await world.person("bob", "there")
    await ann.done("friend_request", user=bob.user, text="It is me, Ann")
    for raw in (ann, bob):
        assert (await notice(raw, "friend_request", ann, bob))["text"] == "It is me, Ann"
    await until_states(ann, {bob.user: "asked"})
    await until_states(bob, {ann.user: "asking"})
    await bob.done("friend_accept", user=ann.user)
    for raw in (ann, bob):
        await notice(raw, "friend_accepted", bob, ann)
    await until_states(ann, {bob.user: "friend"})
    await until_states(bob, {ann.user: "friend"})
    await ann.done("friend_remove", user=bob.user)
    for raw in (ann, bob):
        await notice(raw, "friend_removed", ann, bob)
    await until_states(ann, {})
    await until_states(bob, {})


async def test_rejected(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    await ann.done("friend_request", user=bob.user)
    await bob.expect("message", kind="friend_request")
    await until_states(bob, {ann.user: "asking"})
    await bob.done("friend_reject", user=ann.user)
    for raw in (ann, bob):
        await notice(raw, "friend_rejected", bob, ann)
    await until_states(ann, {})
    await until_states(bob, {})


async def test_both_ask(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ann.done("friend_request", user=bob.user))
        nursery.start_soon(lambda: bob.done("friend_request", user=ann.user))
    await until_states(ann, {bob.user: "friend"})
    await until_states(bob, {ann.user: "friend"})


async def test_a_request_waits_for_one_who_is_away(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    await leave(bob)
    await ann.done("friend_request", user=bob.user, text="later")
    again = await world.again(bob, "there")
    messages, _ = await again.synced(f"u{bob.user}", again.logged_in["cursors"][f"u{bob.user}"])
    assert [(m["kind"], m["text"]) for m in messages] == [("friend_request", "later")]
    assert await states(again) == {ann.user: "asking"}


async def test_what_cannot_be(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    nobody = 2**52
    await ann.refused("not_found", "friend_request", user=nobody)
    for kind in ("friend_accept", "friend_reject"):
        await ann.refused("not_found", kind, user=bob.user)  # he has not asked
    await ann.refused("not_found", "block", user=nobody)
    assert await states(ann) == {}


async def test_blocked(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    await bob.done("block", user=ann.user)

    async def refused() -> bool:
        return (await ann.say("too early?", to=bob.user, stream=new_stream(), seq=0)).get("code") == "blocked"

    await until(refused)  # Ann's edge hears of it
    await bob.say("through", to=ann.user, stream=new_stream(), seq=0)
    await ann.message("through")
    await leave(ann)
    again = await world.again(ann, "there")
    answer = await again.say("elsewhere", to=bob.user, stream=new_stream(), seq=0)
    assert answer["code"] == "blocked"
    assert (await again.ask("friend_request", user=bob.user))["code"] == "blocked"
    await bob.done("unblock", user=ann.user)
    await bob.done("unblock", user=ann.user)  # twice is once

    async def let_through() -> bool:
        return (await again.say("again", to=bob.user, stream=new_stream(), seq=0))["type"] == "accepted"

    await until(let_through)
    await bob.message("again")


async def test_on_one_edge_a_block_holds_from_its_ok_on(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    stream = new_stream()
    await ann.say("before", to=bob.user, stream=stream, seq=0)
    for _ in range(10):
        await bob.done("block", user=ann.user)
        assert (await ann.say("blocked", to=bob.user, stream=stream, seq=1))["code"] == "blocked"
        await bob.done("unblock", user=ann.user)
        assert (await ann.say("through", to=bob.user, stream=new_stream(), seq=0))["type"] == "accepted"


async def test_presence_of_friends_now_and_at_each_change(world: World) -> None:
    ann, bob = await world.person("ann"), await world.person("bob", "there")
    stranger = await world.person()
    await ann.done("friend_request", user=bob.user)
    await until_states(bob, {ann.user: "asking"})
    await bob.done("friend_accept", user=ann.user)
    await until_states(ann, {bob.user: "friend"})
    answer = await ann.done("watch", users=[bob.user])
    assert (answer["type"], answer["users"]) == ("presence", [{"user": bob.user, "online": True}])
    second = await world.device_of(bob)
    await leave(bob)
    await ann.silence("presence")  # a device of his is still on line
    await leave(second)
    await ann.expect("presence", users=[{"user": bob.user, "online": False}])
    back = await world.again(bob, "front")
    await ann.expect("presence", users=[{"user": bob.user, "online": True}])
    await trio.aclose_forcefully(back.stream)
    await ann.expect("presence", users=[{"user": bob.user, "online": False}])
    assert (await ann.done("watch", users=[]))["users"] == []
    await world.again(bob)
    await ann.silence("presence")
    await stranger.refused("forbidden", "watch", users=[bob.user])
