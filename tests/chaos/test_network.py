"""A broken network between clients and edges: stalls, dribbles, cuts in the middle of a frame, resets."""

from __future__ import annotations

from random import Random

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.hostile import HostileProxy
from tests.harness.scene import Scene, new_seed, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]


@pytest.mark.parametrize("through", ["nginx", "edges"])
async def test_a_network_that_breaks(harmed: Cluster, through: str) -> None:
    targets = [harmed.front] if through == "nginx" else [harmed.address(name) for name in harmed.names("edge")]
    seed = new_seed()
    proxies = [HostileProxy(target, Random(seed + at)) for at, target in enumerate(targets)]

    async def cruel(scene: Scene) -> None:
        scene.begin()
        await scene.passed(15)
        for proxy in proxies:
            proxy.calm = True
            proxy.cut_all()
        await scene.recovered()

    async with trio.open_nursery() as nursery:
        for proxy in proxies:
            await nursery.start(proxy.run)
        name = f"a network that breaks, in front of {through}"
        played = await play(harmed, name, cruel, section="network", servers=[proxy.address for proxy in proxies], seed=seed)
        nursery.cancel_scope.cancel()
    blows = {blow: sum(proxy.blows.get(blow, 0) for proxy in proxies) for blow in ("stall", "cut", "reset")}
    assert all(blows.values()), blows
    assert played.report.disconnects > 0
