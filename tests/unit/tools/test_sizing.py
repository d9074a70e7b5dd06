"""docs/sizing.md: from figures by formulas; what is missing is called so."""

from __future__ import annotations

from typing import Any

import pytest

from chat.errors import SetupError
from chat.tools.bench.command import SIZING
from chat.tools.bench.results import Done, Outcome
from chat.tools.bench.sizing import BEGIN, END, computed, figures, into
from chat.tools.load.report import Report


def outcome(row: str, **given: Any) -> Outcome:
    report = Report(
        **{
            "scenario": row, "began": "2030-01-01T00:00:00+00:00", "command": "", "machine": {}, "connections": 12_000,
            "options": {}, **given,
        }
    )  # fmt: skip
    return Outcome(row=row, machine={"date": "2030-01-01T10:00:00+00:00"}, runs=[Done(command="", report=report)])


IDLE = outcome("idle-12k", cpu={"edge": {"cores": 0.24}, "nginx": {"cores": 0.12}})
EACH = {"cores": 0.5, "us_a_message": 50.0}
BUSY = outcome("cpu-4000", cpu={role: dict(EACH) for role in ("edge", "nginx", "router", "mariadb")})
MEMORY = outcome("memory", edge_bytes_per_connection=4_096)
ARCHIVE = outcome("archive", notes={"bytes of the table, a row": 400.0, "bytes of the files, a row": 50.0})


def test_what_was_not_measured_is_said() -> None:
    text = computed({})
    assert "**Missing: `archive`, `cpu-4000`, `idle-12k`, `memory`, `storm`.**" in text
    assert "| edges: CPU | not measured |" in text


def test_figures_are_multiplied_up() -> None:
    rows = {one.row: one for one in (IDLE, BUSY, MEMORY, ARCHIVE)}
    found = figures(rows)
    assert found.edge_idle.value == pytest.approx(0.24 / 12_000)
    assert found.persist_message.value is None
    text = computed(rows)
    assert "| edges: memory of connections | 3.81 GiB |" in text
    # A million times 20 µs a second, and 100,000 messages of 50 µs: 20 + 5 cores, half of each used.
    assert "| edges: CPU | 25 cores |" in text
    assert "| edges: processes | 53 |" in text
    assert "| MariaDB: CPU | 5.00 cores |" in text
    assert "| persists: CPU | not measured |" in text
    assert "2030-01-01" in text


def test_only_what_is_between_the_markers_is_computed_anew() -> None:
    once = into(f"before\n{BEGIN}\nold\n{END}\nafter\n", {})
    assert once == into(once, {})
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    with pytest.raises(SetupError):
        into("no place", {})
    into(SIZING.read_text(), {})
