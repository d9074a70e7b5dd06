"""The dashboard, the alerts and the documents name metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat.metrics import ArchiveMetrics, EdgeMetrics, PersistMetrics, RouterMetrics

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
NAME = re.compile(r"\bchat_(?:edge|router|persist|archive)_[a-z_]+\b")


@pytest.fixture(scope="module")
def samples() -> set[str]:
    """The names of all samples that the roles expose, families of their labels included."""
    found = set()
    for metrics in (EdgeMetrics(), RouterMetrics(), PersistMetrics(), ArchiveMetrics()):
        for family in metrics.registry.collect():
            if family.type == "histogram":
                found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            else:
                found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def board() -> Any:
    return json.loads((MONITORING / "grafana.json").read_text())


def expressions() -> list[str]:
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    return [t["expr"] for p in board()["panels"] for t in p.get("targets", ())] + [
        rule["expr"] for group in alerts["groups"] for rule in group["rules"]
    ]


def test_what_is_asked_for_exists(samples: set[str]) -> None:
    named = [name for expression in expressions() for name in NAME.findall(expression)]
    assert len(named) > 40
    assert [name for name in named if name not in samples] == []


def test_what_is_written_about_exists(samples: set[str]) -> None:
    families = samples | {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}
    named = NAME.findall((ROOT / "docs" / "operations.md").read_text())
    assert len(named) > 8
    assert [name for name in named if name not in families] == []


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = board()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)


def test_prometheus_asks_where_the_cluster_of_this_machine_answers() -> None:
    from chat.config import UpConfig
    from chat.tools.assembly import ARCHIVER_METRICS, EDGE_METRICS, PERSIST_METRICS, ROUTER_METRICS

    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    asked = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    up = UpConfig()
    for job, first, count in (
        ("chat-edge", EDGE_METRICS, up.edges),
        ("chat-router", ROUTER_METRICS, up.routers),
        ("chat-persist", PERSIST_METRICS, up.persists),
    ):
        assert asked[job] == [f"127.0.0.1:{first + n}" for n in range(1, count + 1)]
    assert asked["chat-archiver"] == [f"127.0.0.1:{ARCHIVER_METRICS}"]


@pytest.mark.parametrize("unit", sorted((ROOT / "examples" / "systemd").glob("*.service")), ids=lambda unit: unit.name)
def test_units_bound_descriptors_and_start_what_exists(unit: Path) -> None:
    from chat.cli import COMMANDS

    lines = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0].isalpha())
    assert int(lines["LimitNOFILE"]) >= 4_096
    assert lines["Type"] == "notify"
    assert lines["ExecStart"].split()[1] in COMMANDS
