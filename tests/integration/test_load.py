"""`chat load` against a whole cluster, small: every scenario runs, counts exactly and finds nothing wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from chat.tools.load.accounts import load_accounts
from chat.tools.load.cluster import find_cluster
from chat.tools.load.command import load, run_load
from chat.tools.load.hops import HOPS
from chat.tools.load.report import Report
from chat.tools.load.run import LoadOptions
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.servers
PEOPLE = 12


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of this file: each password is hashed once."""
    return tmp_path_factory.mktemp("load") / "users.json"


async def run(cluster: Cluster, users_file: Path, scenario: str, **given: Any) -> Report:
    host, _, port = cluster.front.rpartition(":")
    options = LoadOptions(**{
        "scenario": scenario, "servers": [(host, int(port))], "connections": PEOPLE, "rate": 40.0, "duration": 2.0,
        "warmup": 0.5, "jitter": 0.3, **given,
    })  # fmt: skip
    with trio.fail_after(120):
        report = await trio.to_thread.run_sync(run_load, options, users_file, find_cluster(cluster.folder))
    assert report.failed == []
    assert report.faults == {}
    return report


async def test_direct(cluster: Cluster, users_file: Path) -> None:
    report = await run(cluster, users_file, "direct")
    assert report.counts["sent"] == report.counts["accepted"] == 100
    assert report.counts["shown"] == report.counts["expected"] == 200
    assert report.counts["unaccepted"] == 0
    assert report.delivery is not None
    assert report.accepted is not None
    assert report.delivery["count"] == report.accepted["count"] == 80  # without the warm-up
    assert 0 < report.delivery["p50_ms"] <= report.delivery["p99_ms"] <= report.delivery["max_ms"]
    assert {"edge", "router", "persist", "kafka", "mariadb", "redis", "nginx", "load"} <= set(report.cpu)
    assert report.cpu["all servers"]["us_a_message"] > 0
    assert list(report.hops_ms) == list(HOPS.values())
    assert report.connections_lost == {}


async def test_directly_at_two_edges_from_several_addresses(cluster: Cluster, users_file: Path) -> None:
    edges = [cluster.address(name).rpartition(":") for name in cluster.names("edge")]
    servers = [(host, int(port)) for host, _, port in edges]
    report = await run(
        cluster, users_file, "direct", servers=servers, through_nginx=False, sources=("127.0.0.1", "127.0.0.2", "127.0.0.3")
    )
    assert report.counts["shown"] == 200


async def test_group(cluster: Cluster, users_file: Path) -> None:
    for _ in range(2):  # the second time the groups are there
        report = await run(cluster, users_file, "group", group_size=4, rate=10.0)
        assert report.counts["sent"] == 25
        assert report.counts["shown"] == 100
    assert len(load_accounts(users_file).groups["4"]) == 3


async def test_idle(cluster: Cluster, users_file: Path) -> None:
    report = await run(cluster, users_file, "idle", duration=7.0)  # longer than an edge waits for a heartbeat
    assert report.connections_lost == {}
    assert report.edge_bytes_per_connection is not None


async def test_offline(cluster: Cluster, users_file: Path) -> None:
    report = await run(cluster, users_file, "offline", waiting=60, rate=200.0)
    assert report.notes["messages that waited"] == 60
    assert report.counts["shown"] == 120


async def test_storm(cluster: Cluster, users_file: Path) -> None:
    report = await run(cluster, users_file, "storm", rate=20.0)
    assert report.notes["connections lost"] == PEOPLE
    assert report.login is not None
    assert report.login["count"] == PEOPLE


def test_the_command_line(cluster: Cluster, tmp_path: Path) -> None:
    users = str(tmp_path / "users.json")
    state = ["--state", str(cluster.folder), "--users-file", users]
    made = CliRunner().invoke(load, ["prepare", "--users", "10", *state], standalone_mode=False)
    assert made.exception is None
    again = CliRunner().invoke(load, ["prepare", "--users", "10", *state], standalone_mode=False)
    assert "0 users made, 10 were there" in again.stdout
    ran = CliRunner().invoke(
        load, ["direct", "--connections", "10", "--rate", "20", "--duration", "1", "--json", *state], standalone_mode=False
    )
    assert ran.return_value == 0
    assert '"scenario": "direct"' in ran.stdout
    assert "on line" in ran.stderr
    assert all(account.token for account in load_accounts(Path(users)).people)
