"""SIGSTOP for longer than every lease and session time-out, then SIGCONT: processes that believe they still own what others
have taken over. Servers too."""

from __future__ import annotations

import pytest

from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Played, Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

#: Above the consumer groups' session time-out (3 s), the edges' lease (4 s) and nginx's patience with one that is lost.
ZOMBIE_S = 9.0
#: Above the time-out of a produced batch (10 s): its outcome is unknown.
BATCH_S = 13.0
#: Above all that anybody waits for it.
LONG_S = 20.0


async def frozen(cluster: Cluster, name: str, parts: tuple[str, ...], seconds: float) -> Played:
    async def cruel(scene: Scene) -> None:
        scene.begin()
        for part in parts:
            cluster.pause(part)
        await scene.passed(seconds)
        for part in parts:
            cluster.go_on(part)
        scene.has_returned()
        await scene.recovered()

    return await play(cluster, name, cruel, section="frozen")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("an edge of two", ("edge-1",)),
        ("a router of two", ("router-1",)),
        ("both routers", ("router-1", "router-2")),
        ("a persist of two", ("persist-1",)),
        ("both persists", ("persist-1", "persist-2")),
        ("an edge, a router and a persist", ("edge-2", "router-2", "persist-2")),
        ("Redis", ("redis",)),
        ("MariaDB", ("mariadb",)),
        ("nginx", ("nginx",)),
    ],
    ids=lambda given: given.replace(" ", "_") if isinstance(given, str) else "",
)
async def test_zombies(harmed: Cluster, name: str, parts: tuple[str, ...]) -> None:
    await frozen(harmed, f"{name}, {ZOMBIE_S:g} s", parts, ZOMBIE_S)


async def test_kafka_until_batches_time_out(harmed: Cluster) -> None:
    await frozen(harmed, f"Kafka, {BATCH_S:g} s", ("kafka",), BATCH_S)


async def test_an_edge_for_long(harmed: Cluster) -> None:
    """Its clients do not wait for it: 5 s until they miss its heartbeats, and nginx sends them elsewhere at about the same
    time; who was sent to it once more waits 2.5 s for its welcome."""
    played = await frozen(harmed, f"an edge of two, {LONG_S:g} s", ("edge-1",), LONG_S)
    back = played.recovery.back_s
    assert played.recovery.thrown_out
    assert back is not None
    assert back <= 10 * PATIENCE, played
