"""kill -9: of each part in turn, of two at once, of everything at once."""

from __future__ import annotations

import re
import signal
from itertools import combinations

import pytest
import trio

from chat.tools.running import PROC, Identity, kill
from chat.tools.state import leftovers
from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Played, Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

ROLES = {
    "edge": ("edge-1",),
    "router": ("router-1",),
    "persist": ("persist-1",),
    "kafka": ("kafka",),
    "redis": ("redis",),
    "mariadb": ("mariadb",),
    "nginx": ("nginx",),
}
#: Of several, all.
WHOLE = {"edges": ("edge-1", "edge-2"), "routers": ("router-1", "router-2"), "persists": ("persist-1", "persist-2")}


async def killed(cluster: Cluster, name: str, parts: tuple[str, ...], section: str = "kills") -> Played:
    async def cruel(scene: Scene) -> None:
        await scene.back(scene.kill(*parts))
        await scene.recovered()

    return await play(cluster, name, cruel, section=section)


def within(played: Played, seconds: float) -> None:
    """What was late, by more than a second, has come by then. 0: nothing was late, so live chat never paused."""
    last = played.recovery.last_s
    assert last is None or last <= seconds * PATIENCE, played


@pytest.mark.short
async def test_an_edge(harmed: Cluster) -> None:
    played = await killed(harmed, "an edge of two", ROLES["edge"])
    within(played, 3)
    back = played.recovery.back_s
    assert back is not None
    assert back <= 3 * PATIENCE, played


@pytest.mark.short
async def test_a_router(harmed: Cluster) -> None:
    within(await killed(harmed, "a router of two", ROLES["router"]), 5)


async def test_all_routers(harmed: Cluster) -> None:
    within(await killed(harmed, "both routers", WHOLE["routers"]), 5)


@pytest.mark.short
async def test_a_persist(harmed: Cluster) -> None:
    within(await killed(harmed, "a persist of two", ROLES["persist"]), 0)


async def test_all_persists(harmed: Cluster) -> None:
    within(await killed(harmed, "both persists", WHOLE["persists"]), 0)


@pytest.mark.short
async def test_redis(harmed: Cluster) -> None:
    within(await killed(harmed, "Redis", ROLES["redis"]), 2)


async def test_mariadb(harmed: Cluster) -> None:
    within(await killed(harmed, "MariaDB", ROLES["mariadb"]), 0)


async def test_kafka(harmed: Cluster) -> None:
    played = await killed(harmed, "Kafka", ROLES["kafka"])
    assert played.recovery.returned_s is not None
    within(played, played.recovery.returned_s / PATIENCE + 10)


async def test_nginx(harmed: Cluster) -> None:
    played = await killed(harmed, "nginx", ROLES["nginx"])
    within(played, 5)


async def test_all_edges(harmed: Cluster) -> None:
    within(await killed(harmed, "both edges", WHOLE["edges"]), 6)


@pytest.mark.parametrize("pair", list(combinations(ROLES, 2)), ids=" and ".join)
async def test_two_at_once(harmed: Cluster, pair: tuple[str, str]) -> None:
    parts = tuple(part for role in pair for part in (WHOLE.get(f"{role}s") or ROLES[role]))
    await killed(harmed, " and ".join(pair), parts, "two at once")


async def test_everything_at_once(harmed: Cluster) -> None:
    parts = tuple(entry.name for entry in harmed.processes.processes)
    await killed(harmed, "everything at once", parts, "two at once")


async def test_everything_and_the_supervisor(harmed: Cluster) -> None:
    """As if the machine had been switched off; then `chat up`."""

    async def cruel(scene: Scene) -> None:
        scene.begin()
        harmed.kill("supervisor")
        for entry in harmed.processes.processes:
            harmed.kill_all_of(entry.name)
        await harmed.up_again()
        scene.has_returned()
        await scene.recovered()

    await play(harmed, "everything and the supervisor, then chat up", cruel, section="two at once")


@pytest.mark.parametrize("pattern", ["chat", "python", "nginx", "java|mariadbd|redis-server", r"chat (edge|router|persist)"])
async def test_by_a_pattern(harmed: Cluster, pattern: str) -> None:
    """As `pkill -9 -f` finds them by their command lines: the supervisor too, or not; nginx's master without its workers,
    for these call themselves otherwise."""
    front = harmed.front

    async def cruel(scene: Scene) -> None:
        scene.begin()
        hit = [identity for identity in everything_of(harmed) if re.search(pattern, command_of(identity))]
        assert hit
        for identity in hit:
            kill(identity, signal.SIGKILL)
        await trio.sleep(0.2)  # a supervisor that was killed lets go of its folder
        if not harmed.state.is_held():
            await harmed.up_again()
        scene.has_returned()
        await scene.recovered()

    await play(harmed, f"pkill -9 -f '{pattern}'", cruel, section="two at once")
    assert harmed.front == front


def everything_of(cluster: Cluster) -> set[Identity]:
    supervisor = cluster.entry("supervisor").identity
    assert supervisor is not None
    return {supervisor, *leftovers(cluster.state)}


def command_of(identity: Identity) -> str:
    try:
        return (PROC / str(identity.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
