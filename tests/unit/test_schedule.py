"""The schedules of storms."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.harness.schedule import ALL, schedule
from tests.harness.storm import Storm


def test_a_seed_makes_the_same_storm_again() -> None:
    assert schedule(Random(7), 30, 20) == schedule(Random(7), 30, 20) != schedule(Random(8), 30, 20)


def test_every_blow_can_be_done() -> None:
    cluster: Any = None
    known = Storm(cluster, []).blows
    seen = set()
    for seed in range(300):
        blows = schedule(Random(seed), 30, 12)
        assert blows == sorted(blows)
        assert len(blows) >= 12
        for blow in blows:
            seen.add(blow.what)
            assert set(blow.parts) <= {*ALL, "edges", "routers", "persists"}
            assert str(blow)
    assert seen == set(known)
