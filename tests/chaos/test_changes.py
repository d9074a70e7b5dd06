"""What an operator does under load: more and fewer routers and persists, a drained edge, a rolling restart."""

from __future__ import annotations

import json
import sys

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.recovery import Presence, measure
from tests.harness.scene import PATIENCE, Scene, keep, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

RATE = 60.0
#: Seconds of traffic that a step's figures are taken from, at least.
STEP_S = 4.0


@pytest.mark.parametrize("kind", ["routers", "persists"])
async def test_scaled_one_by_one(harmed: Cluster, kind: str) -> None:
    await harmed.scale(**{kind: 1})
    steps: list[tuple[str, float, float]] = []
    scenes: list[Scene] = []

    async def cruel(scene: Scene) -> None:
        scenes.append(scene)
        scene.begin()
        await scene.passed(STEP_S)
        for before, after in ((1, 2), (2, 3), (3, 4), (4, 3), (3, 2), (2, 1)):
            began = trio.current_time()
            await harmed.scale(**{kind: after})
            await scene.recovered()
            await scene.passed(max(0.0, began + STEP_S - trio.current_time()))
            steps.append((f"{kind} {before} → {after}", began, trio.current_time()))

    try:
        played = await play(harmed, f"{kind} 1 → 4 → 1", cruel, section="changes", rate=RATE)
    finally:
        await harmed.scale(**{kind: 2})
    for name, began, ended in steps:
        shown = [seen for seen in scenes[0].seen() if seen.composed < ended]
        found = measure(shown, Presence(), began, ended)
        keep("scaling", name, played.report.seed, played.report, found)
        print(name, found)


async def test_an_edge_is_drained(harmed: Cluster) -> None:
    async def cruel(scene: Scene) -> None:
        scene.begin()
        pid = harmed.terminate("edge-1")
        await scene.back({"edge-1": pid})
        await scene.recovered()

    played = await play(harmed, "an edge drained (SIGTERM)", cruel, section="changes", rate=RATE)
    assert played.recovery.thrown_out > 0
    ends = [json.loads(line) for line in harmed.log("supervisor").splitlines() if '"ended"' in line]
    last = [end for end in ends if end.get("part") == "edge-1"][-1]
    assert last["code"] == 0, last


async def test_a_rolling_restart(harmed: Cluster) -> None:
    before = {name: harmed.pid(name) for role in ("edge", "router", "persist") for name in harmed.names(role)}

    async def cruel(scene: Scene) -> None:
        scene.begin()
        command = [sys.executable, "-m", "chat", "restart", "--rolling", "--state", str(harmed.folder)]
        with trio.fail_after(120 * PATIENCE):
            done = await trio.run_process(command, capture_stderr=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        scene.has_returned()
        await scene.recovered()

    await play(harmed, "all edges, routers and persists restarted, one by one", cruel, section="changes", rate=RATE)
    assert not set(before.values()) & {harmed.pid(name) for name in before}
