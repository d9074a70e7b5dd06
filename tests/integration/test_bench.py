"""`chat bench` on a running cluster, small: what it runs, collects and tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from chat.tools.bench.conduct import Bench
from chat.tools.bench.render import measured
from chat.tools.bench.rows import ROWS, Load, wrong
from chat.tools.bench.stores import StoreCluster, store_settings
from chat.tools.load.hops import HOPS
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.servers


async def test_a_row_is_measured_with_hops_and_cost(cluster: Cluster) -> None:
    said: list[str] = []
    bench = Bench(cluster.folder, 0.03, said.append, False)
    row = ROWS["light"]
    with trio.fail_after(180):
        await bench.prepare([row])
        outcome = await bench.measure(row)
    (done,) = outcome.runs
    report = done.report
    assert report.failed == []
    assert wrong(outcome.reports) == 0
    assert report.counts["accepted"] == report.counts["sent"] > 0
    assert list(report.hops_ms) == list(HOPS.values())
    assert {"edge", "router", "persist", "kafka", "mariadb", "redis", "nginx"} <= set(report.cpu)
    assert done.command.startswith("chat load direct --connections 4 ")
    assert "### light" in measured({"light": outcome})


@pytest.mark.chaos  # long: with `make chaos`
async def test_the_search_tries_rates_and_confirms_the_best(cluster: Cluster) -> None:
    bench = Bench(cluster.folder, 0.03, lambda line: None, False)
    row = ROWS["max-rate"]._replace(loads=[Load("direct", {"connections": 4, "rate": 5.0, "duration": 2.0, "warmup": 0.1})])
    bench.runs = 2
    with trio.fail_after(180):
        await bench.prepare([row])
        outcome = await bench.measure(row)
    rates = [done.report.options["rate"] for done in outcome.runs]
    assert rates[0] == 1
    assert len(rates) == 3
    assert rates[2] in rates[:2]


@pytest.mark.chaos  # long: with `make chaos`
async def test_rows_about_the_record_are_measured_on_a_store_of_their_own(tmp_path: Path, bridge: None) -> None:
    said: list[str] = []
    folder = tmp_path / ".chat-bench-store"
    stores = StoreCluster(folder, store_settings(None, {}), owner=os.getpid(), scale=0.01, data=None, say=said.append)
    bench = Bench(tmp_path / ".chat-bench", 0.01, said.append, False)
    outcomes = {}
    try:
        with trio.fail_after(500):
            for name in ("archive", "store-pages", "store-search"):
                outcomes[name] = await bench.ask(ROWS[name], stores)
    finally:
        await stores.down()
    for name, outcome in outcomes.items():
        assert outcome.reports[0].failed == []
        assert f"### {name}" in measured(outcomes)
    assert all(goal.value(outcomes["archive"].reports) is not None for goal in ROWS["archive"].goals)
    (archived,) = outcomes["archive"].reports
    assert archived.notes["rows archived"] == pytest.approx(0.8 * archived.notes["rows before"], rel=0.1)
    assert outcomes["store-pages"].reports[0].latencies["cold page, first"]["count"] > 1
    assert outcomes["store-search"].reports[0].latencies["everywhere, first page"]["count"] > 1
