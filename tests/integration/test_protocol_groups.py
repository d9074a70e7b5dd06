"""PROTOCOL, "People and groups": groups, who is in them and what he may read."""

from __future__ import annotations

import pytest
import trio

from tests.integration.raw import Frame, Raw, World, leave, new_stream, until

pytestmark = pytest.mark.servers


async def members(raw: Raw, group: int) -> dict[int, str]:
    found, after = {}, None
    while True:
        answer = await raw.done("group_members", group=group, **({"after": after} if after else {}))
        assert answer["type"] == "members"
        found |= {m["user"]: m["role"] for m in answer["members"]}
        after = answer["next"]
        if after is None:
            return found


async def until_members(raw: Raw, group: int, wanted: dict[int, str]) -> None:
    found: dict[int, str] = {}

    async def so() -> bool:
        found.clear()
        found.update(await members(raw, group))
        return found == wanted

    try:
        await until(so)
    except AssertionError:
        raise AssertionError(f"{found} instead of {wanted}") from None


async def create(owner: Raw, *others: Raw, name: str = "a group", **fields: object) -> int:
    answer = await owner.done("group_create", name=name, members=[o.user for o in others], **fields)
    assert (answer["type"], answer["name"]) == ("group", name)
    group: int = answer["group"]
    await until_members(owner, group, {owner.user: "owner"} | {o.user: "member" for o in others})
    return group


async def texts(raw: Raw, group: int) -> list[str]:
    """What he finds in the group's history, oldest first."""
    answer = await raw.done("history", group=group, limit=500)
    return [m["text"] for m in reversed(answer["messages"]) if m["kind"] == "text"]


async def stored(raw: Raw, group: int) -> None:
    """All that was accepted in the group is persisted."""
    await raw.synced(f"g{group}", 0)


async def test_all_members_get_everything_the_sender_too(world: World) -> None:
    people = [await world.person(f"p{at}", door) for at, door in enumerate(["here", "there", "front", "here"])]
    outsider = await world.person()
    group = await create(people[0], *people[1:])
    streams = [new_stream() for _ in people]
    for number in range(8):
        sender = people[number % 4]
        await sender.say(f"t{number}", group=group, stream=streams[number % 4], seq=number // 4)
    for raw in people:
        got: list[Frame] = [await raw.expect("message", group=group, kind="text") for _ in range(8)]
        assert [m["text"] for m in got] == [f"t{number}" for number in range(8)]
        assert [m["from"] for m in got] == [people[number % 4].user for number in range(8)]
        assert all("to" not in m for m in got)
    await outsider.silence("message", group=group)
    await stored(people[1], group)
    assert await texts(people[1], group) == [f"t{number}" for number in range(8)]


async def test_members_hear_who_comes_and_goes(world: World) -> None:
    ann, bob, eve = await world.person("ann"), await world.person("bob", "there"), await world.person("eve")
    group = await create(ann, bob, open=True)
    own = await bob.take(lambda f: f.get("kind") == "group_joined" and "group" not in f)
    assert own["to"] == bob.user
    assert own["extra"]["group"] == group
    await eve.done("group_join", group=group)
    joined = await bob.take(lambda f: f.get("kind") == "group_joined" and f["extra"]["user"] == eve.user)
    assert (joined["from"], joined["group"]) == (eve.user, group)
    assert joined["extra"]["name"] == eve.logged_in["name"]
    await eve.expect("resync")
    await until_members(ann, group, {ann.user: "owner", bob.user: "member", eve.user: "member"})
    await eve.done("group_leave", group=group)
    left = await bob.expect("message", kind="group_left", group=group)
    assert left["extra"]["user"] == eve.user
    await ann.done("group_remove", group=group, user=bob.user)
    removed = await bob.take(lambda f: f.get("kind") == "group_removed" and f.get("to") == bob.user)
    assert (removed["from"], removed["extra"]["group"]) == (ann.user, group)
    await until_members(ann, group, {ann.user: "owner"})
    kinds = [m["kind"] for m in await ann.persisted(group=group)]
    assert list(reversed(kinds)) == ["group_joined"] * 3 + ["group_left", "group_removed"]


async def test_open_and_closed_groups(world: World) -> None:
    ann, bob, eve = await world.person(), await world.person("bob", "there"), await world.person()
    closed, opened = await create(ann, name="closed", open=False), await create(ann, name="open", open=True)
    await bob.refused("forbidden", "group_join", group=closed)
    await bob.done("group_join", group=opened)
    await bob.refused("forbidden", "group_invite", group=closed, user=eve.user)  # no member
    await ann.done("group_invite", group=closed, user=bob.user)
    invited = await bob.expect("message", kind="group_invited")
    assert (invited["from"], invited["to"]) == (ann.user, bob.user)
    assert invited["extra"] == {"group": closed, "name": "closed"}
    await bob.done("group_join", group=closed)
    await until_members(ann, closed, {ann.user: "owner", bob.user: "member"})
    await bob.done("group_invite", group=closed, user=eve.user)  # any member may
    await eve.expect("message", kind="group_invited")
    await eve.done("group_join", group=closed)
    await bob.refused("forbidden", "group_remove", group=closed, user=eve.user)  # only the owner
    await ann.refused("not_found", "group_invite", group=closed, user=2**52)
    await bob.refused("not_found", "group_join", group=2**52)


async def test_groups_and_their_members_are_listed(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, bob, name="Gruppe 群")
    [mine] = (await bob.done("groups"))["groups"]
    assert (mine["group"], mine["name"], mine["members"]) == (group, "Gruppe 群", 2)
    assert mine["since"] > 0
    await leave(bob)
    again = await world.again(bob)
    assert again.logged_in["groups"] == [group]
    assert set(again.logged_in["cursors"]) == {f"u{bob.user}", f"g{group}"}
    outsider = await world.person()
    await outsider.refused("forbidden", "group_members", group=group)


async def test_the_longest_member_becomes_owner(world: World) -> None:
    ann, bob, eve = await world.person(), await world.person("bob", "there"), await world.person()
    group = await create(ann, bob, open=True)
    await eve.done("group_join", group=group)
    await until_members(bob, group, {ann.user: "owner", bob.user: "member", eve.user: "member"})
    await ann.done("group_leave", group=group)
    await until_members(bob, group, {bob.user: "owner", eve.user: "member"})
    await bob.done("group_remove", group=group, user=eve.user)
    await until_members(bob, group, {bob.user: "owner"})


async def test_one_reads_what_was_sent_during_ones_stays(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, open=True)
    stream = new_stream()
    await ann.say("before", group=group, stream=stream, seq=0)
    await bob.done("group_join", group=group)
    await until_members(ann, group, {ann.user: "owner", bob.user: "member"})
    await ann.say("first stay", group=group, stream=stream, seq=1)
    await bob.message("first stay", group=group)
    await bob.done("group_leave", group=group)
    await until_members(ann, group, {ann.user: "owner"})
    await ann.say("between", group=group, stream=stream, seq=2)
    await stored(ann, group)
    await bob.silence("message", text="between")
    assert await texts(bob, group) == ["first stay"]

    async def locked_out() -> bool:
        answer = await bob.say("as a stranger", group=group, stream=new_stream(), seq=0)
        return answer.get("code") == "forbidden"

    await until(locked_out)
    await bob.done("group_join", group=group)
    await until_members(ann, group, {ann.user: "owner", bob.user: "member"})
    await ann.say("second stay", group=group, stream=stream, seq=3)
    await stored(ann, group)
    assert await texts(bob, group) == ["first stay", "second stay"]
    assert await texts(ann, group) == ["before", "first stay", "between", "second stay"]
    synced, _ = await bob.synced(f"g{group}", 0)
    assert [m["text"] for m in synced if m["kind"] == "text"] in (["first stay", "second stay"], ["second stay"])
    answer = await bob.done("search", group=group, text="e")
    assert [m["text"] for m in answer["messages"]] == ["second stay"]  # "first stay" has no e


async def test_a_new_member_begins_with_the_heads(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, open=True)
    stream = new_stream()
    for seq in range(3):
        await ann.say(f"old {seq}", group=group, stream=stream, seq=seq)
    await bob.done("group_join", group=group)
    hint = await bob.take(lambda f: f["type"] == "resync" and f"g{group}" in f.get("timelines", []))
    assert hint["timelines"] == [f"g{group}"]
    after = 0
    with trio.fail_after(15):
        while True:
            answer = await bob.ask("sync", timeline=f"g{group}", after=after, fresh=True)
            if answer["type"] == "synced" and answer["complete"]:
                break
            after = max(after, answer.get("upto", 1) - 1)
    assert not [m for m in answer["messages"] if m["kind"] == "text"]
    assert [(h["from"], h["group"], h["stream"], h["next"]) for h in answer["heads"]] == [(ann.user, group, stream, 3)]


async def test_a_group_waits_for_members_who_are_away(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, bob)
    await leave(bob)
    again = await world.again(bob)
    await leave(again)
    stream = new_stream()
    for seq in range(20):
        await ann.send("send", group=group, stream=stream, seq=seq, text=str(seq))
    await ann.expect("accepted", group=group, stream=stream, seq=19)
    back = await world.again(bob, "front")
    messages, _ = await back.synced(f"g{group}", back.logged_in["cursors"][f"g{group}"], limit=7)
    assert [m["seq"] for m in messages if m["kind"] == "text"] == list(range(20))


async def test_twice_is_once(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, bob, open=True)
    answer = await bob.ask("group_join", group=group)
    assert answer["type"] == "ok" or answer["code"] == "exists"
    await until_members(ann, group, {ann.user: "owner", bob.user: "member"})
    await bob.done("group_leave", group=group)
    await until_members(ann, group, {ann.user: "owner"})
    answer = await bob.ask("group_leave", group=group)
    assert answer["type"] == "ok" or answer["code"] in {"not_found", "forbidden"}


async def test_a_group_read_mark_is_ones_own(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    group = await create(ann, bob)
    other = await world.device_of(bob)
    await ann.say("x", group=group, stream=new_stream(), seq=0)
    sent_at = (await bob.message("x", group=group))["sent_at"]
    await bob.send("read", group=group, sent_at=sent_at)
    told = await other.expect("message", kind="read")
    assert told["extra"] == {"sent_at": sent_at, "group": group}
    await ann.silence("message", kind="read")
