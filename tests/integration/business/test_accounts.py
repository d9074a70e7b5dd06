"""PROTOCOL, "Opening": register, login, resume, logout, change_password; what is left in MySQL and Redis."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from chat import protocol as p
from chat.edge import accounts
from chat.edge.tokens import DAY_MS, hash_of
from chat.errors import ChatError, Goodbye, PartError, Unavailable
from tests.integration.business.test_groups import create
from tests.integration.business.world import PASSWORD, Session, World, refused, until

pytestmark = pytest.mark.servers

DEVICE, OTHER = "device-1", "device-2"


@pytest.fixture
async def anna(world: World) -> int:
    user = (await world.ask(Session(), p.Register(name="anna", password=PASSWORD))).user
    assert isinstance(user, int)
    return user


def key_of(token: str) -> bytes:
    return b"t:session:" + hash_of(token).hex().encode()


def entry(world: World, token: str) -> dict[str, Any]:
    raw = world.memory.data[key_of(token)]
    assert isinstance(raw, bytes)
    found = json.loads(raw)
    assert isinstance(found, dict)
    return found


async def resume(world: World, token: str, device: str = DEVICE) -> p.LoggedIn:
    reply = await world.ask(Session(), p.Resume(token=token, device=device))
    assert isinstance(reply, p.LoggedIn)
    return reply


async def expired(world: World, token: str, device: str = DEVICE) -> None:
    await refused(world, Session(), p.Resume(token=token, device=device), "token_expired")


# ------------------------------------------------------------------ register, login


async def test_names_are_taken_once(world: World, anna: int) -> None:
    await refused(world, Session(), p.Register(name="anna", password="another one"), "exists")
    found: list[str] = []

    async def register() -> None:
        try:
            await world.ask(Session(), p.Register(name="bert", password=PASSWORD))
            found.append("registered")
        except ChatError as error:
            found.append(error.code)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(register)
    assert sorted(found) == ["exists"] * 3 + ["registered"]


async def test_passwords_are_stored_as_argon2id(world: World, anna: int) -> None:
    ((stored,),) = await world.sql("SELECT password FROM users WHERE id = %s", anna)
    assert stored.startswith("$argon2id$")


async def test_logged_in(world: World, anna: int) -> None:
    session, reply = await world.login("anna")
    assert (reply.user, reply.name, reply.device, reply.new_device) == (anna, "anna", DEVICE, True)
    assert (reply.groups, list(reply.cursors)) == ([], [f"u{anna}"])
    assert reply.token_expires_at == world.clock.now() + 30 * DAY_MS
    assert reply.rid == 7
    assert session.user == anna
    assert session.token_hash == hash_of(reply.token)
    assert len(reply.token) == 43
    ((stored,),) = await world.sql("SELECT hash FROM tokens")
    assert stored == hash_of(reply.token)
    kept = entry(world, reply.token)
    assert (kept["user"], kept["device"], kept["name"]) == (anna, DEVICE, "anna")
    assert reply.token not in str(world.memory.data)
    await refused(world, session, p.Login(name="anna", password=PASSWORD, device=DEVICE), "bad_request")
    await refused(world, session, p.Resume(token=reply.token, device=DEVICE), "bad_request")


@pytest.mark.parametrize("name", ["anna", "nobody", "Anna'; --", ""])
async def test_wrong(world: World, anna: int, name: str) -> None:
    await refused(world, Session(), p.Login(name=name, password="wrong password", device=DEVICE), "bad_credentials")


async def test_labels_stay_where_none_is_given(world: World, anna: int) -> None:
    for label, stored in (("my phone", "my phone"), ("", "my phone"), ("手机", "手机")):
        await world.ask(Session(), p.Login(name="anna", password=PASSWORD, device=DEVICE, label=label))
        assert await world.sql("SELECT label FROM devices") == [(stored,)]


async def test_too_many_passwords_at_once(world: World, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.services.passwords, "_room", 2)
    refusals: list[ChatError] = []

    async def login(n: int) -> None:
        try:
            await world.ask(Session(), p.Login(name="anna", password=PASSWORD, device=f"device-{n}"))
        except ChatError as error:
            refusals.append(error)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(login, n)
    assert {(e.code, e.retriable, "retry_after_ms" in e.fields) for e in refusals} == {("rate_limited", True, True)}
    assert await world.login("anna")


async def test_old_parameters_are_replaced_at_a_login(world: World, anna: int) -> None:
    from chat.edge.passwords import Passwords

    weak = await Passwords(1, time_cost=1, memory_kib=8).hash(PASSWORD)
    await world.sql("UPDATE users SET password = %s WHERE id = %s", weak, anna)
    await world.login("anna")
    ((stored,),) = await world.sql("SELECT password FROM users WHERE id = %s", anna)
    assert "m=19456" in stored
    await world.login("anna")


# ------------------------------------------------------------------ cursors


async def test_a_new_device_begins_at_the_end_of_what_is_stored(world: World, anna: int) -> None:
    bert = await world.user("bert")
    await world.send(bert, to=anna, count=3)
    world.log.persisting = False
    await world.send(bert, to=anna, count=2)
    session, reply = await world.login("anna")
    assert reply.new_device
    await world.log.persist()
    answer = await world.sync(session, f"u{anna}", reply.cursors[f"u{anna}"])
    assert [m.seq for m in answer.messages] == [3, 4]
    _, again = await world.login("anna")
    assert (again.new_device, again.cursors) == (False, reply.cursors)
    _, other = await world.login("anna", OTHER)
    assert other.new_device
    assert other.cursors[f"u{anna}"] > reply.cursors[f"u{anna}"]


async def test_cursors_of_groups_are_never_below_the_join(world: World, anna: int) -> None:
    bert = await world.online("bert")
    _, first = await world.login("anna")
    group = await create(world, bert, is_open=True)
    await world.send(bert.user, group=group, count=3)
    session = Session()
    await world.ask(session, p.Resume(token=first.token, device=DEVICE))
    await world.ask(session, p.GroupJoin(group=group))
    ((joined,),) = await world.sql("SELECT from_position FROM members WHERE user = %s", anna)
    reply = await resume(world, first.token)
    assert (reply.groups, reply.cursors[f"g{group}"]) == ([group], joined)
    (pos,) = await world.send(bert.user, group=group)
    await world.sql("INSERT INTO cursors VALUES (%s, %s, %s, %s)", anna, DEVICE, f"g{group}", pos)
    assert (await resume(world, first.token)).cursors[f"g{group}"] == pos
    await world.ask(session, p.GroupLeave(group=group))
    assert (await resume(world, first.token)).groups == []
    await world.ask(session, p.GroupJoin(group=group))
    assert (await resume(world, first.token)).cursors[f"g{group}"] > pos


async def test_blocks_are_known_at_the_login(world: World, anna: int) -> None:
    bert = await world.online("bert")
    await world.ask(bert, p.Block(user=anna))
    await world.login("anna")
    assert world.hub.blocked_by(anna) == {bert.user}


# ------------------------------------------------------------------ resume


async def test_resume(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    reply = await resume(world, first.token)
    assert (reply.token, reply.token_expires_at, reply.new_device) == (first.token, first.token_expires_at, False)
    assert reply.session != first.session
    await expired(world, first.token, OTHER)
    await expired(world, "unknown")
    assert (await resume(world, first.token)).user == anna


async def test_an_unknown_token_is_no_new_entry(world: World, anna: int) -> None:
    await expired(world, "unknown")
    assert world.memory.data == {}


async def test_redis_lost_is_read_through(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    world.memory.restart(lose=True)
    assert (await resume(world, first.token)).user == anna
    assert entry(world, first.token)["user"] == anna


async def test_redis_away(world: World, anna: int) -> None:
    world.memory.away = True
    session, first = await world.login("anna")
    assert (await resume(world, first.token)).user == anna
    await world.ask(session, p.Logout())
    await expired(world, first.token)


async def test_a_life_is_extended_by_the_day(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    world.clock.time += 3_600_000
    assert (await resume(world, first.token)).token_expires_at == first.token_expires_at
    world.clock.time += 2 * DAY_MS
    now = world.clock.now()
    assert (await resume(world, first.token)).token_expires_at == now + 30 * DAY_MS
    assert await world.sql("SELECT expires_at FROM tokens") == [(now + 30 * DAY_MS,)]
    assert entry(world, first.token)["expires_at"] == now + 30 * DAY_MS
    world.clock.time += 31 * DAY_MS
    await expired(world, first.token)


async def test_expired_tokens_are_purged(world: World, anna: int) -> None:
    await world.login("anna")
    world.clock.time += 31 * DAY_MS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.services._purge)

        async def gone() -> bool:
            return await world.sql("SELECT 1 FROM tokens") == []

        await until(gone)
        nursery.cancel_scope.cancel()


async def test_a_storm_is_a_few_lookups(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    before = world.database.calls
    pipelines = len(world.memory.pipelines)
    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(resume, world, first.token)
    assert world.database.calls - before < 20
    assert len(world.memory.pipelines) - pipelines < 40


# ------------------------------------------------------------------ MySQL away


async def test_mysql_away(world: World, anna: int) -> None:
    bert = await world.online("bert")
    group = await create(world, bert, is_open=True)
    session, first = await world.login("anna")
    await world.ask(session, p.GroupJoin(group=group))
    await world.ask(bert, p.Block(user=anna))
    known = await resume(world, first.token)
    world.database.away = True
    reply = await resume(world, first.token)
    assert (reply.user, reply.name, reply.groups) == (anna, "anna", [group])
    assert reply.cursors == known.cursors
    assert world.hub.blocked_by(anna) == {bert.user}
    await expired(world, first.token, OTHER)
    for request in (p.Resume(token="unknown", device=DEVICE), p.Login(name="anna", password=PASSWORD, device=DEVICE)):
        with pytest.raises((Unavailable, PartError)) as caught:
            await world.ask(Session(), request)
        assert "mysql" in str(caught.value)
    with pytest.raises(PartError):
        await world.ask(Session(), p.Register(name="carl", password=PASSWORD))


async def test_who_was_removed_meanwhile_is_out_when_mysql_is_back(world: World, anna: int) -> None:
    bert = await world.online("bert")
    session, first = await world.login("anna")
    group, new = await create(world, bert, is_open=True), 0
    await world.ask(session, p.GroupJoin(group=group))
    await resume(world, first.token)
    world.database.away = True
    await resume(world, first.token)
    assert group in world.hub.groups_of(anna)
    await world.sql("UPDATE members SET to_position = from_position + 1 WHERE user = %s", anna)
    await world.sql("INSERT INTO chat_groups (name, owner, created_at) VALUES ('new', %s, 0)", bert.user)
    ((new,),) = await world.sql("SELECT MAX(id) FROM chat_groups")
    await world.sql("INSERT INTO members VALUES (%s, %s, 900, NULL, 0, NULL)", new, anna)
    world.database.away = False
    await until(lambda: world.hub.groups_of(anna) == {new})


# ------------------------------------------------------------------ ends


async def test_logout_ends_the_token(world: World, anna: int) -> None:
    session, first = await world.login("anna")
    assert await world.ask(session, p.Logout(rid=3)) is None
    assert session.sent == [p.Ok(rid=3)]
    assert session.closed is Goodbye.LOGGED_OUT
    assert world.memory.data[key_of(first.token)] == b"gone"
    assert await world.sql("SELECT 1 FROM tokens") == []
    await expired(world, first.token)
    world.database.away = True
    await expired(world, first.token)


async def test_logout_while_mysql_is_away_holds(world: World, anna: int) -> None:
    session, first = await world.login("anna")
    world.database.away = True
    await world.ask(session, p.Logout())
    await expired(world, first.token)
    world.database.away = False
    await world.services.guard.wait_mended()
    await expired(world, first.token)
    assert world.memory.expires[key_of(first.token)] - trio.current_time() > 29 * 86_400
    session, _ = await world.login("anna")
    world.database.away = world.memory.away = True
    with pytest.raises(Unavailable):
        await world.ask(session, p.Logout())


async def test_a_token_ended_in_mysql_alone_is_buried(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    await world.sql("DELETE FROM tokens")
    await expired(world, first.token)
    assert world.memory.data[key_of(first.token)] == b"gone"


async def test_a_late_write_back_does_not_raise_the_dead(world: World, anna: int) -> None:
    from chat.edge.tokens import Read, _decode

    _, first = await world.login("anna")
    raw = world.memory.data[key_of(first.token)]
    assert isinstance(raw, bytes)
    kept = _decode(raw)
    await world.services.tokens.bury([hash_of(first.token)])
    await world.services.tokens.keep({hash_of(first.token): (None, kept)})
    await world.services.tokens.keep({hash_of(first.token): (Read(kept, raw), kept)})
    assert world.memory.data[key_of(first.token)] == b"gone"


async def test_a_new_password_ends_all_other_tokens_and_sessions(world: World, anna: int) -> None:
    session, first = await world.login("anna")
    other, second = await world.login("anna", OTHER)
    await refused(world, session, p.ChangePassword(old="wrong password", new="a new password"), "bad_credentials")
    await world.ask(session, p.ChangePassword(old=PASSWORD, new="a new password"))
    assert (session.closed, other.closed) == (None, Goodbye.LOGGED_OUT)
    event = world.log.events[-1]
    assert (event.event, event.user, event.session, event.code) == ("end_sessions", anna, first.session, 1002)
    assert world.memory.data[key_of(second.token)] == b"gone"
    await expired(world, second.token, OTHER)
    assert (await resume(world, first.token)).user == anna
    await refused(world, Session(), p.Login(name="anna", password=PASSWORD, device=DEVICE), "bad_credentials")
    assert await world.ask(Session(), p.Login(name="anna", password="a new password", device=DEVICE))


async def test_no_token_of_the_old_password_outlives_it(world: World, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password changes between the check of the old one and the new token."""
    session, _ = await world.login("anna")
    find = world.services.logins.find
    changed = False

    async def meanwhile(asked: Any) -> Any:
        nonlocal changed
        if not changed:
            changed = True
            await world.ask(session, p.ChangePassword(old=PASSWORD, new="a new password"))
        return await find(asked)

    monkeypatch.setattr(world.services.logins, "find", meanwhile)
    await refused(world, Session(), p.Login(name="anna", password=PASSWORD, device=OTHER), "bad_credentials")
    assert await world.sql("SELECT COUNT(*) FROM tokens") == [(1,)]


async def test_banned(world: World, anna: int) -> None:
    _, first = await world.login("anna")
    await world.sql("UPDATE users SET banned_at = 1 WHERE id = %s", anna)
    for request in (p.Login(name="anna", password=PASSWORD, device=DEVICE), p.Resume(token=first.token, device=DEVICE)):
        session = Session()
        assert await world.ask(session, request) is None
        assert (session.closed, session.user) == (Goodbye.BANNED, 0)
    await refused(world, Session(), p.Login(name="anna", password="wrong password", device=DEVICE), "bad_credentials")


def test_names() -> None:
    assert accounts.may_be_name("a.b-c_9")
    for name in ("", "A", "a b", "ä", "a" * 33, "a\n"):
        assert not accounts.may_be_name(name)


async def test_groups_as_mysql_had_them_before_persist_caught_up_are_looked_up_again(world: World) -> None:
    anna = await world.online("anna")
    await world.ask(Session(), p.Register(name="bert", password=PASSWORD))
    bert, first = await world.login("bert")
    group = (await world.ask(anna, p.GroupCreate(name="x", members=[first.user]))).group
    other = (await world.ask(anna, p.GroupCreate(name="y", open=True))).group
    world.log.persisting = False
    await world.ask(anna, p.GroupRemove(group=group, user=first.user))
    await world.ask(bert, p.GroupJoin(group=other))
    world.hub.groups.clear()  # another edge
    _, again = await world.login("bert")
    assert world.hub.groups_of(again.user) == {group}
    await world.log.persist()
    await until(lambda: world.hub.groups_of(again.user) == {other})


async def test_a_user_has_a_bounded_number_of_sessions_at_an_edge(world: World, anna: int) -> None:
    most = world.config.sessions_per_user
    first, token = await world.login("anna")
    for n in range(most - 1):
        await world.login("anna", device=f"device-{n:03}")
    rows = await world.sql("SELECT COUNT(*) FROM tokens")
    session = Session()
    request = p.Login(name="anna", password=PASSWORD, device="one-too-many")
    assert await world.ask(session, request) is None
    assert session.closed == Goodbye.TOO_MANY_CONNECTIONS
    assert await world.sql("SELECT COUNT(*) FROM tokens") == rows
    again = Session()
    assert (await world.ask(again, p.Resume(token=token.token, device=first.device))).user == anna  # it replaces its own
