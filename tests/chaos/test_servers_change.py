"""Servers that come back other than they went: Redis emptied, Redis with a part of its keys, Kafka after a long time."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.bridge import open_memory
from tests.harness.cluster import Cluster
from tests.harness.scene import Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

#: Above the time-out of a produced batch (10 s).
BATCH_S = 13.0


async def test_redis_is_emptied(harmed: Cluster, bridge: None) -> None:
    async def cruel(scene: Scene) -> None:
        async with open_memory(harmed.config.redis) as memory:
            for _ in range(3):
                scene.begin()
                assert await memory.pipeline([("FLUSHALL",)]) == [b"OK"]
                await scene.recovered()

    played = await play(harmed, "Redis emptied, three times", cruel, section="servers")
    assert played.report.disconnects == 0 or played.recovery.thrown_out == 0


async def test_redis_loses_some_keys(harmed: Cluster, bridge: None) -> None:
    """Without a word: no restart, the leases are there. The edges' slow sweep finds it."""

    async def cruel(scene: Scene) -> None:
        async with open_memory(harmed.config.redis) as memory:
            (keys,) = await memory.pipeline([("KEYS", "*")])
            gone = [key for key in sorted(keys) if not key.startswith(b"edge") and scene.random.random() < 0.5]
            assert gone
            scene.begin()
            await memory.pipeline([("DEL", *gone)])
        await scene.recovered(150)

    await play(harmed, "Redis loses half of its keys", cruel, section="servers", settle=120.0)


async def test_redis_is_back_with_a_part_of_its_keys(harmed: Cluster) -> None:
    """Its append-only file ends in the middle of a command."""
    data = harmed.folder / "redis"

    async def cruel(scene: Scene) -> None:
        harmed.pause("supervisor")
        try:
            pids = scene.kill("redis")
            (log,) = data.glob("**/*.incr.aof")
            _cut(log)
        finally:
            harmed.go_on("supervisor")
        await scene.back(pids)
        await scene.recovered()

    await play(harmed, "Redis killed, the end of its file lost", cruel, section="servers")


def _cut(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(max(1, size * 2 // 3 + 1))


async def test_kafka_is_away_until_batches_time_out(harmed: Cluster) -> None:
    async def cruel(scene: Scene) -> None:
        harmed.pause("supervisor")
        try:
            pids = scene.kill("kafka")
            await scene.passed(BATCH_S)
        finally:
            harmed.go_on("supervisor")
        await scene.back(pids)
        await scene.recovered()

    played = await play(harmed, f"Kafka away for {BATCH_S:g} s", cruel, section="servers")
    assert played.recovery.last_s is not None
    assert played.recovery.returned_s is not None
