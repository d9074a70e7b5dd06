"""Many blows in any order, by the seed: what nobody thought of."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from chat.bridge import open_memory
from chat.errors import PartError
from tests.harness.cluster import Cluster
from tests.harness.scene import Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

BLOWS = 10
SERVICES = ("edge-1", "edge-2", "router-1", "router-2", "persist-1", "persist-2")
SERVERS = ("kafka", "redis", "mariadb", "nginx")


@pytest.mark.parametrize("number", range(3))
async def test_a_storm(harmed: Cluster, bridge: None, number: int) -> None:
    told: list[str] = []

    async def blow(scene: Scene) -> None:
        random = scene.random
        what = random.choice(("kill", "kill", "kill", "freeze", "freeze", "stop", "empty Redis"))
        count = random.choice((1, 1, 1, 2, 3))
        running = [n for n in (*SERVICES, *SERVICES, *SERVERS) if harmed.entry(n).identity is not None]
        names = sorted(set(random.sample(running, min(count, len(running)))))
        told.append(f"{what} {' '.join(names)}")
        if what == "empty Redis":
            async with open_memory(harmed.config.redis) as memory:
                with suppress(PartError):  # it may just have been killed
                    await memory.pipeline([("FLUSHALL",)])
        elif what == "freeze":
            for name in names:
                harmed.hit(name, signal.SIGSTOP)
            await scene.passed(random.uniform(0.5, 9.0))
            for name in names:
                harmed.hit(name, signal.SIGCONT)
        else:
            for name in names:
                harmed.hit(name, signal.SIGKILL if what == "kill" else signal.SIGTERM)
        await scene.passed(random.choice((0.0, 0.3, 2.0, 5.0)))

    async def cruel(scene: Scene) -> None:
        scene.begin()
        try:
            for at in range(BLOWS):
                await blow(scene)
                if at % 4 == 3:
                    await scene.recovered(120)
        finally:
            print("\n".join(told))
        scene.has_returned()
        await scene.recovered(120)

    await play(harmed, f"a storm of {BLOWS} blows, {number + 1}", cruel, section="storms")
