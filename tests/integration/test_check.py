"""`chat check` against a whole cluster: quiet, with devices that come and go, and with a server killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chat.tools.check import CheckOptions, CheckReport, check
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.servers


def sound(report: CheckReport) -> None:
    assert report.ok, str(report)
    assert report.shown > report.accepted > 0


async def test_quiet(cluster: Cluster) -> None:
    lines: list[str] = []
    report = await check(CheckOptions(servers=[cluster.front], duration=4.0, seed=1), say=lines.append)
    sound(report)
    assert report.sent == report.accepted >= 75
    assert report.disconnects == 0
    assert report.conversations > 6
    assert lines


async def test_devices_come_and_go(cluster: Cluster) -> None:
    edges = [cluster.address(name) for name in cluster.names("edge")]
    options = CheckOptions(servers=[cluster.front, *edges], duration=15.0, rate=30.0, churn=True, seed=2)
    sound(await check(options))


@pytest.mark.chaos  # long: with `make chaos`
async def test_killed_and_stopped(own_cluster: Callable[..., Cluster]) -> None:
    cluster = own_cluster()

    async def kill() -> None:
        for name in ("edge-1", "router-1"):
            pid = cluster.kill(name)
            await cluster.back(name, pid)

    report = await check(CheckOptions(servers=[cluster.front], duration=6.0, rate=30.0, seed=3), disturb=kill)
    sound(report)
    assert report.disconnects > 0

    async def stop() -> None:
        for name in ("router-1", "persist-1"):
            cluster.pause(name)

    options = CheckOptions(servers=[cluster.front], users=2, groups=0, devices=1, duration=3.0, settle=2.0, seed=4)
    report = await check(options, disturb=stop)
    for name in ("router-1", "persist-1"):
        cluster.go_on(name)
    assert report.accepted > 0
    assert {"lost", "history_lost"} <= set(report.wrong)  # nothing came, and the checker says so in a bounded time
    assert not {"doubled", "disordered", "holes", "foreign", "unaccepted"} & set(report.wrong)
    assert "FAILED" in str(report)
