"""Storms that nobody has thought out: any blow at any time, several at once, and again while the cluster recovers.

CHAT_SEED=17 pytest tests/chaos/test_adversary.py        the storm of this seed again
CHAT_STORMS=20 pytest tests/chaos/test_adversary.py      more of them
"""

from __future__ import annotations

import os
from random import Random

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.comers import Comers
from tests.harness.hostile import HostileProxy
from tests.harness.scene import PATIENCE, Scene, new_seed, play
from tests.harness.schedule import schedule
from tests.harness.storm import Storm

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

STORMS = int(os.environ.get("CHAT_STORMS", "3"))


@pytest.mark.parametrize("number", range(1, STORMS + 1))
async def test_any_blow_at_any_time(harmed: Cluster, bridge: None, number: int) -> None:
    seed = new_seed()
    draw = Random(seed)
    blows = schedule(draw, draw.choice((5.0, 15.0, 30.0, 30.0)), draw.choice((6, 12, 20, 30)))
    proxies = [HostileProxy(harmed.front, Random(seed + at), calm=True) for at in range(2)]
    storm = Storm(harmed, proxies)
    print("\n".join(map(str, blows)))

    async def cruel(scene: Scene) -> None:
        comers = Comers([proxy.address for proxy in proxies], 3, Random(seed))
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60 * PATIENCE):
                await nursery.start(comers.run)
            await storm.run(scene, blows)
            await comers.settle()
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for proxy in proxies:
            await nursery.start(proxy.run)
        servers = [proxy.address for proxy in proxies]
        name = f"any blow at any time, {number}"
        await play(harmed, name, cruel, section="adversary", servers=servers, seed=seed, settle=120.0)
        nursery.cancel_scope.cancel()
