"""Each part away for a while: what works goes on, what cannot is refused in a bounded time with an error that says "try
again". Two people who were on line before, one on each edge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE
from tests.integration.raw import PASSWORD, Ended, Frame, Raw, World, new_device, new_name, new_stream, until

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

#: The longest that anyone waits for a refusal, or for what works.
BOUND_S = 6.0


@pytest.fixture
async def world(harmed: Cluster, nursery: trio.Nursery) -> AsyncIterator[World]:
    here, there = (harmed.address(name) for name in harmed.names("edge")[:2])
    found = World(nursery, {"here": here, "there": there, "front": harmed.front})

    async def serves(door: str) -> bool:
        """The edge has found out that everything is back."""
        raw = await found.connect(door, beats=False)
        try:
            await raw.greet()
            answer = await raw.ask("register", name=new_name(), password=PASSWORD)
        except (Ended, trio.BrokenResourceError):
            return False
        finally:
            await trio.aclose_forcefully(raw.stream)
        return bool(answer["type"] != "error")

    try:
        for door in found.doors:
            await until(partial(serves, door), 30)
        yield found
    finally:
        await found.close()


@contextmanager
def away(cluster: Cluster, *names: str) -> Iterator[None]:
    """Killed, and not started again before the end."""
    cluster.pause("supervisor")
    try:
        for name in names:
            cluster.kill_all_of(name)
        yield
    finally:
        cluster.go_on("supervisor")


@asynccontextmanager
async def bounded(what: str) -> AsyncIterator[None]:
    with trio.move_on_after(BOUND_S * PATIENCE) as scope:
        yield
    assert not scope.cancelled_caught, f"{what}: nothing within {BOUND_S * PATIENCE:g} s"


class Pair:
    """Two who know each other; every text is numbered on one stream."""

    def __init__(self, alice: Raw, bob: Raw) -> None:
        self.alice, self.bob = alice, bob
        self.stream, self.seq = new_stream(), 0

    async def chat(self) -> None:
        """Accepted, and shown at the other's."""
        async with bounded("live chat"):
            answer = await self.alice.say(f"text {self.seq}", stream=self.stream, seq=self.seq, to=self.bob.user)
            assert answer["type"] == "accepted", answer
            await self.bob.message(f"text {self.seq}")
        self.seq += 1


async def paired(world: World) -> Pair:
    pair = Pair(await world.person("alice", "here"), await world.person("bob", "there"))
    await pair.chat()
    return pair


async def asked(raw: Raw, kind: str, /, **fields: Any) -> Frame:
    async with bounded(kind):
        return await raw.ask(kind, **fields)
    raise AssertionError


async def refused(raw: Raw, kind: str, /, **fields: Any) -> None:
    answer = await asked(raw, kind, **fields)
    assert (answer["type"], answer["retriable"]) == ("error", True), answer
    assert answer["code"] == "unavailable", answer


async def log_in(world: World, name: str) -> Frame:
    raw = await world.greeted("here")
    return await asked(raw, "login", name=name, password=PASSWORD, device=new_device())


async def test_mysql(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    name = str(pair.alice.logged_in["name"])
    with away(harmed, "mariadb"):
        for _ in range(3):
            await pair.chat()
        assert (await log_in(world, name))["code"] == "unavailable"
        stranger = await world.greeted("here")
        await refused(stranger, "register", name=new_name(), password=PASSWORD)
        await refused(pair.alice, "history", to=pair.bob.user)
        await refused(pair.alice, "friend_request", user=pair.bob.user)
        await refused(pair.alice, "group_create", name="a group", members=[pair.bob.user])
        again = await world.again(pair.alice, "there")  # by token
        async with bounded("sync"):
            synced = await again.ask("sync", timeline=f"u{again.user}", after=0)
        assert synced.get("complete") is False or synced.get("retriable") is True, synced
        pair.alice = again
        await pair.chat()
    await harmed.back("mariadb", 0, 60)

    async def logs_in() -> bool:
        return bool((await log_in(world, name))["type"] == "logged_in")

    await until(logs_in, 30)
    messages, _ = await pair.bob.synced(f"u{pair.bob.user}", 0)
    assert [m["text"] for m in messages if m["kind"] == "text"] == [f"text {n}" for n in range(pair.seq)]


async def test_redis(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    with away(harmed, "redis"):
        for _ in range(3):
            await pair.chat()
        opened = await log_in(world, str(pair.bob.logged_in["name"]))
        assert opened["type"] == "logged_in", opened
        again = await world.again(pair.alice, "there")
        assert again.logged_in["user"] == pair.alice.user
        pair.alice = again
        assert (await asked(pair.bob, "history", to=pair.alice.user))["type"] == "history"
        await pair.chat()
    await harmed.back("redis", 0, 60)
    await pair.bob.expect("resync", 15)
    await pair.chat()


async def test_kafka(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    await pair.bob.persisted(to=pair.alice.user)
    with away(harmed, "kafka"):
        assert (await asked(pair.bob, "history", to=pair.alice.user))["type"] == "history"
        opened = await log_in(world, str(pair.bob.logged_in["name"]))
        assert opened["type"] == "logged_in", opened
        # Refused, or its outcome is unknown and the connection is closed: either within the batch's time-out.
        await pair.alice.send("send", to=pair.bob.user, text="while Kafka is away", stream=pair.stream, seq=pair.seq)
        with trio.fail_after(20 * PATIENCE):
            found = await pair.alice.take(lambda f: f["type"] in ("error", "goodbye"), 20 * PATIENCE)
        assert (found.get("retriable") is True) if found["type"] == "error" else (2000 <= found["code"] < 3000), found
    await harmed.back("kafka", 0, 90)
    alice = await world.again(pair.alice)

    async def accepted() -> bool:
        answer = await alice.say("while Kafka is away", stream=pair.stream, seq=pair.seq, to=pair.bob.user)
        return bool(answer["type"] == "accepted")

    await until(accepted, 60)
    await pair.bob.message("while Kafka is away", seconds=30)


async def test_all_routers(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    with away(harmed, *harmed.names("router")):
        async with bounded("accepted"):
            answer = await pair.alice.say("later", stream=pair.stream, seq=pair.seq, to=pair.bob.user)
        assert answer["type"] == "accepted"
        assert len(await pair.bob.persisted(to=pair.alice.user)) == 2
        assert (await log_in(world, str(pair.bob.logged_in["name"])))["type"] == "logged_in"
    await pair.bob.message("later", seconds=30)


async def test_all_persists(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    with away(harmed, *harmed.names("persist")):
        for _ in range(3):
            await pair.chat()
        async with bounded("sync"):
            synced = await pair.bob.ask("sync", timeline=f"u{pair.bob.user}", after=0)
        assert (synced["type"], synced["complete"]) == ("synced", False)
        assert (await log_in(world, str(pair.bob.logged_in["name"])))["type"] == "logged_in"
    messages, _ = await pair.bob.synced(f"u{pair.bob.user}", 0)
    assert len([m for m in messages if m["kind"] == "text"]) == pair.seq


async def test_an_edge(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    with away(harmed, harmed.names("edge")[0]):
        await pair.alice.closed()
        other = await world.again(pair.alice, "there")
        pair.alice = other
        await pair.chat()
        front = await world.again(pair.bob, "front")  # nginx passes the dead one over
        assert front.logged_in["user"] == pair.bob.user


async def test_nginx(harmed: Cluster, world: World) -> None:
    pair = await paired(world)
    behind = await world.again(pair.bob, "front")
    with away(harmed, "nginx"):
        await behind.closed()
        pair.bob = behind
        carol = await world.person("carol", "here")  # the edges themselves serve on
        assert carol.user
    await harmed.back("nginx", 0, 30)
    await world.again(pair.bob, "front")
