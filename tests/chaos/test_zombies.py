"""What a process does that wakes up when others have taken over what it believes to own, by its own log."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, Scene, play

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

#: Above the groups' session time-out (3 s) and an edge's lease (4 s).
ASLEEP_S = 6.0
#: A heartbeat may tell a zombie first, before it has tried anything: then it is put to sleep once more.
TRIES = 5


class Log:
    """What a part logs from now on."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._before = len(cluster.log(name))

    def has(self, event: str, **fields: object) -> bool:
        lines: list[dict[str, Any]] = []
        for line in self._cluster.log(self._name)[self._before :].splitlines():
            if line.startswith("{"):
                lines.append(json.loads(line))
        wanted = {"event": event, **fields}
        return any(all(line.get(k) == v for k, v in wanted.items()) for line in lines)


def asleep(cluster: Cluster, part: str, told: Callable[[Log], bool]) -> Callable[[Scene], Any]:
    async def cruel(scene: Scene) -> None:
        log = Log(cluster, part)
        scene.begin()
        for _ in range(TRIES):
            cluster.pause(part)
            await scene.passed(ASLEEP_S)
            cluster.go_on(part)
            scene.has_returned()
            await scene.recovered()
            if told(log):
                return
        raise AssertionError(f"{part} has not said so:\n{cluster.log(part)[-3000:]}")

    return cruel


async def test_a_router_is_told_that_its_commit_does_not_count(harmed: Cluster) -> None:
    def told(log: Log) -> bool:
        return log.has("not committed, the group has moved on")

    await play(harmed, "a router that wakes up", asleep(harmed, "router-1", told), section="zombies")


async def test_a_persist_changes_no_offset_that_is_anothers(harmed: Cluster) -> None:
    def told(log: Log) -> bool:
        return log.has("partition given up: another process has it", error="statement 0 changed 0 rows")

    await play(harmed, "a persist that wakes up", asleep(harmed, "persist-1", told), section="zombies")


async def test_an_edge_registers_everything_anew(harmed: Cluster) -> None:
    def told(log: Log) -> bool:
        return log.has("registering everything anew", why="lapsed")

    await play(harmed, "an edge that wakes up", asleep(harmed, "edge-1", told), section="zombies")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_edge_whose_name_is_anothers_ends(harmed: Cluster) -> None:
    """Its successor was started elsewhere under its name. It says so and ends. The supervisor starts it again, and then
    it is the successor that has lost the name."""

    async def cruel(scene: Scene) -> None:
        log, pid = Log(harmed, "edge-1"), harmed.pid("edge-1")
        flags = [f"--{flag}=127.0.0.1:{free_port()}" for flag in ("listen", "listen-proxy", "metrics")]
        command = [sys.executable, "-m", "chat", "edge", "--config", str(harmed.state.settings), "--name", "edge-1", *flags]
        scene.begin()
        harmed.pause("edge-1")
        await scene.passed(ASLEEP_S)
        with (harmed.folder / "successor.log").open("ab") as output:
            successor = await trio.to_thread.run_sync(lambda: subprocess.Popen(command, stdout=output, stderr=output))
        try:
            text = harmed.folder / "nginx" / "stream.conf"
            announced = flags[1].partition("=")[2]
            await scene.until(lambda: announced in text.read_text(), "the successor has the lease", 30)
            harmed.go_on("edge-1")
            await scene.back({"edge-1": pid})
            await scene.until(lambda: successor.poll() is not None, "the successor has ended too", 30)
        finally:
            harmed.hit("edge-1", signal.SIGCONT)
            successor.kill()
            successor.wait()
        assert "another process runs as edge 'edge-1' now" in harmed.log("edge-1")
        assert "another process runs as edge 'edge-1' now" in (harmed.folder / "successor.log").read_text()
        assert not log.has("registering everything anew", why="lapsed")
        await scene.recovered()

    with trio.fail_after(240 * PATIENCE):
        await play(harmed, "an edge whose successor has its name", cruel, section="zombies")
