"""PROTOCOL, "People and groups": the groups."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from chat import protocol as p
from chat.edge import groups
from chat.edge.group_requests import UNKNOWN_MS, purge
from chat.errors import Unavailable
from chat.records import TimelineRecord
from tests.integration.business.world import Session, World, refused

pytestmark = pytest.mark.servers


async def create(world: World, owner: Session, *members: Session, is_open: bool = False) -> int:
    reply = await world.ask(owner, p.GroupCreate(name="Friday", members=[m.user for m in members], open=is_open))
    assert reply.name == "Friday"
    assert isinstance(reply, p.GroupReply)
    return reply.group


async def members(world: World, session: Session, group: int) -> dict[str, str]:
    reply = await world.ask(session, p.GroupMembers(group=group))
    return {m.name: m.role for m in reply.members}


async def mine(world: World, session: Session) -> list[int]:
    return [g.group for g in (await world.ask(session, p.Groups())).groups]


async def test_members_are_in_at_once_and_hear_of_it(world: World) -> None:
    anna, bert, carl = [await world.online(n) for n in ("anna", "bert", "carl")]
    group = await create(world, anna, bert, bert, anna)
    assert await members(world, bert, group) == {"anna": "owner", "bert": "member"}
    (info,) = (await world.ask(anna, p.Groups())).groups
    assert (info.group, info.name, info.members) == (group, "Friday", 2)
    assert info.since > 1_700_000_000_000
    assert (anna.user, group, True) in world.hub.joins
    (own,) = (await world.sync(bert, f"u{bert.user}")).messages
    assert (own.kind, own.sender, own.to, own.group) == ("group_joined", anna.user, bert.user, None)
    assert own.extra == {"user": bert.user, "name": "bert", "group": group}
    in_group = (await world.sync(anna, f"g{group}")).messages
    assert [(m.kind, m.group, m.extra["user"]) for m in in_group if isinstance(m.extra, dict)] == [
        ("group_joined", group, anna.user),
        ("group_joined", group, bert.user),
    ]
    await refused(world, carl, p.GroupMembers(group=group), "forbidden")


async def test_create_is_refused(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    await refused(world, anna, p.GroupCreate(name="x", members=[bert.user, 999_999]), "not_found")
    await world.ask(bert, p.Block(user=anna.user))
    await refused(world, anna, p.GroupCreate(name="x", members=[bert.user]), "blocked")
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.ask(anna, p.GroupCreate(name="x"))
    world.log.away = False
    assert await mine(world, anna) == []


async def test_create_asked_again_after_unavailable_makes_one_group(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    request = p.GroupCreate(name="Friday", members=[bert.user])
    world.log.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.ask(anna, request)
    world.log.away = False
    group = (await world.ask(anna, request)).group
    assert await world.sql("SELECT id FROM chat_groups") == [(group,)]
    assert await mine(world, bert) == [group]
    assert len((await world.sync(anna, f"g{group}")).messages) == 2
    assert (await world.ask(anna, request)).group != group  # it was answered: another one is wanted


async def test_create_asked_again_brings_nobody_back_who_has_left(world: World) -> None:
    """The first try was in the log, though its outcome was not known."""
    anna, bert = await world.online("anna"), await world.online("bert")
    request = p.GroupCreate(name="Friday", members=[bert.user])
    publish = world.log.publish

    async def unknown(records: Sequence[TimelineRecord]) -> list[int]:
        await publish(records)
        raise Unavailable("kafka")

    world.log.publish = unknown  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.ask(anna, request)
    world.log.publish = publish  # type: ignore[method-assign]
    (group,) = await mine(world, bert)
    await world.ask(bert, p.GroupLeave(group=group))
    assert (await world.ask(anna, request)).group == group
    assert await mine(world, bert) == []
    assert await mine(world, anna) == [group]


async def test_create_asked_again_after_the_creator_has_left_is_another_one(world: World) -> None:
    anna = await world.online("anna")
    world.log.away = True
    request = p.GroupCreate(name="Friday")
    with pytest.raises(Unavailable):
        await world.ask(anna, request)
    world.log.away = False
    ((group,),) = await world.sql("SELECT id FROM chat_groups")
    await world.sql(
        "INSERT INTO members (chat_group, user, from_position, to_position, joined_at) VALUES (%s, %s, 1, 2, 0)",
        group, anna.user,
    )  # fmt: skip
    other = (await world.ask(anna, request)).group
    assert other != group
    assert await mine(world, anna) == [other]


async def test_create_several_times_at_once(world: World) -> None:
    anna = await world.online("anna")
    request, made = p.GroupCreate(name="Friday"), set()

    async def create_it() -> None:
        made.add((await world.ask(anna, request)).group)

    world.log.persisting = False  # this one persists for one at a time
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(create_it)
    await world.log.persist()
    assert made  # one; but who asks when another has been answered gets a group of his own
    assert sorted(await mine(world, anna)) == sorted(made)


async def test_requests_that_are_over_are_purged(world: World) -> None:
    anna = await world.online("anna")
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.ask(anna, p.GroupCreate(name="Friday"))
    await world.database.write([purge(world.clock.now())])
    assert len(await world.sql("SELECT 1 FROM group_requests")) == 1
    await world.database.write([purge(world.clock.now() + UNKNOWN_MS)])
    assert await world.sql("SELECT 1 FROM group_requests") == []


async def test_open_groups_are_joined_by_anyone(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, is_open=True)
    await world.ask(bert, p.GroupJoin(group=group))
    assert await mine(world, bert) == [group]
    assert group in world.hub.groups_of(bert.user)
    await refused(world, bert, p.GroupJoin(group=group), "exists")
    await refused(world, bert, p.GroupJoin(group=group + 1), "not_found")


async def test_others_by_invitation_of_any_member_once(world: World) -> None:
    anna, bert, carl = [await world.online(n) for n in ("anna", "bert", "carl")]
    group = await create(world, anna, bert)
    await refused(world, carl, p.GroupJoin(group=group), "forbidden")
    await refused(world, carl, p.GroupInvite(group=group, user=anna.user), "forbidden")
    await refused(world, bert, p.GroupInvite(group=group, user=999_999), "not_found")
    await refused(world, bert, p.GroupInvite(group=group + 1, user=carl.user), "not_found")
    await refused(world, bert, p.GroupInvite(group=group, user=anna.user), "exists")
    await world.ask(bert, p.GroupInvite(group=group, user=carl.user))
    await world.ask(bert, p.GroupInvite(group=group, user=carl.user))
    (told, _) = (await world.sync(carl, f"u{carl.user}")).messages
    assert (told.kind, told.to, told.extra) == ("group_invited", carl.user, {"group": group, "name": "Friday"})
    await world.ask(carl, p.GroupJoin(group=group))
    assert await mine(world, carl) == [group]
    await world.ask(carl, p.GroupLeave(group=group))
    await refused(world, carl, p.GroupJoin(group=group), "forbidden")


async def test_who_blocks_is_not_invited(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna)
    await world.ask(bert, p.Block(user=anna.user))
    await refused(world, anna, p.GroupInvite(group=group, user=bert.user), "blocked")


async def test_the_longest_member_inherits(world: World) -> None:
    anna, bert, carl = [await world.online(n) for n in ("anna", "bert", "carl")]
    group = await create(world, anna, bert, carl)
    await world.ask(anna, p.GroupLeave(group=group))
    assert await members(world, carl, group) == {"bert": "owner", "carl": "member"}
    assert group not in world.hub.groups_of(anna.user)
    await refused(world, anna, p.GroupLeave(group=group), "forbidden")
    await refused(world, anna, p.GroupLeave(group=group + 1), "not_found")


async def test_only_the_owner_removes(world: World) -> None:
    anna, bert, carl = [await world.online(n) for n in ("anna", "bert", "carl")]
    group = await create(world, anna, bert, carl, is_open=True)
    await refused(world, bert, p.GroupRemove(group=group, user=carl.user), "forbidden")
    await refused(world, anna, p.GroupRemove(group=group, user=anna.user), "bad_request")
    await world.hub.join(carl.user, group)
    await world.ask(anna, p.GroupRemove(group=group, user=carl.user))
    assert await mine(world, carl) == []
    assert group not in world.hub.groups_of(carl.user)
    last = (await world.sync(carl, f"u{carl.user}")).messages[-1]
    assert (last.kind, last.sender, last.extra) == (
        "group_removed",
        anna.user,
        {"user": carl.user, "name": "carl", "group": group},
    )
    await refused(world, anna, p.GroupRemove(group=group, user=carl.user), "not_found")
    await world.ask(carl, p.GroupJoin(group=group))


async def test_an_owner_who_was_last_has_no_rights_when_gone(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, is_open=True)
    await world.ask(anna, p.GroupLeave(group=group))
    await world.ask(bert, p.GroupJoin(group=group))
    await refused(world, anna, p.GroupRemove(group=group, user=bert.user), "forbidden")


async def test_members_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MEMBERS_PAGE", 2)
    sessions = [await world.online(n) for n in ("a", "b", "c", "d", "e")]
    group = await create(world, *sessions)
    await world.ask(sessions[1], p.GroupLeave(group=group))
    names: list[str] = []
    after = None
    for _ in range(2):
        page = await world.ask(sessions[0], p.GroupMembers(group=group, after=after))
        names += [m.name for m in page.members]
        after = page.next
    assert (names, after) == (["a", "c", "d", "e"], None)
    other = await create(world, sessions[0])
    first = await world.ask(sessions[0], p.GroupMembers(group=group))
    for bad in (first.next, "x", "", "WyJtIl0", "§§§"):
        await refused(world, sessions[0], p.GroupMembers(group=other, after=bad), "bad_request")


async def test_one_is_in_a_bounded_number_of_groups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_GROUPS", 2)
    anna, bert = [await world.online(n) for n in ("anna", "bert")]
    for _ in range(2):
        await create(world, anna, bert)
    carl = await world.online("carl")
    await refused(world, carl, p.GroupCreate(name="x", members=[bert.user]), "forbidden")
    is_open = await create(world, carl, is_open=True)
    await refused(world, bert, p.GroupJoin(group=is_open), "forbidden")


async def test_groups_with_long_names_fit_a_frame(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "BUDGET", 2_000)
    anna = await world.online("anna")
    for _ in range(4):
        await world.ask(anna, p.GroupCreate(name="\x01" * 128))  # six bytes each
    assert len(await mine(world, anna)) == 2
