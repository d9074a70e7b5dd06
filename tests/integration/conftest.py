"""The cluster as its users see it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.integration.raw import World


@pytest.fixture
async def world(cluster: Cluster, nursery: trio.Nursery) -> AsyncIterator[World]:
    here, there = cluster.names("edge")[:2]
    world = World(nursery, {"here": cluster.address(here), "there": cluster.address(there), "front": cluster.front})
    yield world
    await world.close()
