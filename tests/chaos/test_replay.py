"""Real chat goes on while processes are killed: everyone still shows every line once and in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from chat.tools.replay_irc import replay
from tests.harness.cluster import Cluster

SAMPLE = Path(__file__).parents[1] / "data" / "irc" / "ubuntu-2004-11-15.log"

pytestmark = [pytest.mark.servers, pytest.mark.chaos]


async def test_every_process_of_ours_is_killed_once(own_cluster: Callable[..., Cluster]) -> None:
    cluster = own_cluster()
    report: dict[str, object] = {}
    speaking = trio.Event()

    def progress(text: str) -> None:
        if "steps" in text:
            speaking.set()

    async def run() -> None:
        report.update(await replay(SAMPLE.read_bytes(), "ubuntu", [cluster.front], rate=25.0, progress=progress))

    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await speaking.wait()
            for name in ("edge-1", "router-1", "edge-2", "persist-1", "nginx"):
                await cluster.back(name, 0)
                await cluster.back(name, cluster.kill(name))
    assert report["ok"], repr(report)
