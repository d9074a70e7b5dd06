"""`chat bench` without a cluster: the rows, the search, what is kept and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chat.errors import SetupError
from chat.tools.bench.command import DOCUMENT, bench
from chat.tools.bench.machine import facts
from chat.tools.bench.render import BEGIN, END, into, measured, summary
from chat.tools.bench.results import Done, Outcome, keep, latest
from chat.tools.bench.rows import ROWS, holds, wrong
from chat.tools.bench.search import CLOSE, Search
from chat.tools.load.command import load
from chat.tools.load.report import Report
from chat.tools.store.command import store

LATENCY = {"mean_ms": 7.0, "p50_ms": 6.0, "p99_ms": 30.0, "p999_ms": 40.0, "max_ms": 400.0, "count": 100.0}


LATENCIES = [
    *(f"{kind} page, {name}" for kind in ("hot", "border", "cold") for name in ("first", "again")), "hot sync, again",
    *(f"{where}, {page}" for where in ("everywhere", "in a conversation") for page in ("first page", "further pages")),
    "trace",
]  # fmt: skip


def report(**given: Any) -> Report:
    return Report(**{
        "scenario": "direct", "began": "2030-01-01T00:00:00+00:00", "command": "", "machine": {}, "connections": 100,
        "options": {}, "seconds": 60.0, "delivery": dict(LATENCY), "rates": {
            "accepted": 6_400.0, "shown": 12_800.0, "rows archived": 70_000.0, "records, readable": 60_000.0,
        },
        "counts": {"lost": 0, "doubled": 0, "disordered": 0, "misdelivered": 0},
        "cpu": {
            "edge": {"seconds": 6.0, "cores": 0.1, "us_a_message": 50.0, "us_a_delivery": 25.0},
            "kafka": {"seconds": 30.0, "cores": 0.5, "us_a_message": 150.0, "us_a_delivery": 75.0},
            "all servers": {"seconds": 36.0, "cores": 0.6, "us_a_message": 200.0, "us_a_delivery": 100.0},
        },
        "latencies": {name: dict(LATENCY) for name in LATENCIES},
        "hops_ms": {"edge in to accepted": 2.5}, "edge_bytes_per_connection": 6_000,
        "notes": {
            "seconds until all were back": 9.0, "seconds until all were received": 1.5, "files, % of the table": 11.5,
        },
        **given,
    })  # fmt: skip


def outcome(row: str, *reports: Report, date: str = "2030-01-01T10:00:00+00:00") -> Outcome:
    runs = [Done(command=f"chat load {row}", report=one) for one in reports]
    return Outcome(row=row, machine={"date": date, "commit": "abc", "cores": 2, "kafka": "4.3.1"}, runs=runs)


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.001])
def test_each_run_is_a_command_line_that_chat_load_takes(name: str, scale: float) -> None:
    for one in ROWS[name].loads:
        words = one.scaled(scale).words()
        command = load.commands[words[0]]
        context = command.make_context("load", list(words[1:]))
        assert context.params["connections"] >= 2
        if "group_size" in context.params:
            assert context.params["group_size"] <= context.params["connections"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.probes])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.001])
def test_each_probe_is_a_command_line_that_chat_store_takes(name: str, scale: float) -> None:
    assert not ROWS[name].loads
    for one in ROWS[name].probes:
        words = one.scaled(scale).words()
        store.commands[words[0]].make_context("store", list(words[1:]))
        assert bool(one.store) != bool(one.log)


def test_the_lowest_of_several_rates_counts() -> None:
    slow = report(rates={"records, readable": 40_000.0})
    (goal,) = ROWS["replay"].goals
    assert goal.value([report(), slow]) == 40_000.0
    assert goal.reached([report(), slow]) is False
    assert goal.reached([report()])
    assert goal.value([report(), report(rates={})]) is None
    (goal,) = ROWS["trace"].goals
    assert goal.value([report()]) == pytest.approx(0.4)


def test_a_scaled_run_has_less_of_everything_and_the_full_one_is_as_written() -> None:
    (full,) = ROWS["direct-12k"].loads
    assert full.scaled(1.0) == full
    assert dict(full.scaled(0.1).options) == {
        "connections": 1_200,
        "sources": 4,
        "rate": 120.0,
        "duration": 6.0,
        "warmup": 0.5,
    }
    assert full.users == 12_000
    assert ROWS["offline-10k"].loads[0].users == 1_050


def test_every_goal_finds_its_figure_in_a_report() -> None:
    for row in ROWS.values():
        for goal in row.goals:
            assert goal.value([report()]) is not None, row.name


def test_the_worst_of_several_runs_counts_and_none_may_be_missing() -> None:
    (goal,) = ROWS["mean-200-800"].goals
    good, bad = report(), report(delivery=LATENCY | {"mean_ms": 9.0})
    good.delivery = LATENCY | {"mean_ms": 3.0}
    assert goal.reached([good, good])
    assert goal.value([good, bad]) == 9.0
    assert goal.value([good, report(delivery=None)]) is None
    assert goal.reached([]) is None


def test_ours_are_our_processes_and_nginx() -> None:
    (goal,) = ROWS["idle-12k"].goals
    cores = {role: {"cores": 0.1} for role in ("edge", "router", "persist", "nginx", "kafka", "mariadb", "redis", "load")}
    assert goal.value([report(cpu=cores)]) == pytest.approx(0.4)


def test_a_rate_holds_where_nothing_failed_and_the_99th_is_below_a_second() -> None:
    assert holds(report())
    assert not holds(report(delivery=LATENCY | {"p99_ms": 1_200.0}))
    assert not holds(report(failed=["3 shed"]))
    assert not holds(report(delivery=None))
    (goal,) = ROWS["max-rate"].goals
    assert goal.value([report(failed=["x"]), report()]) == 6_400.0
    assert goal.value([report(), report(failed=["x"])]) is None


def test_wrong_are_messages_not_goals() -> None:
    assert wrong([report(failed=["2 faults"], counts={"late": 4, "shed": 2})]) == 0
    assert wrong([report(), report(counts={"lost": 1, "disordered": 2})]) == 3


# ---------------------------------------------------------------------- search


@pytest.mark.parametrize("limit", [900, 6_000, 7_777, 20_000])
def test_the_search_ends_near_the_limit_in_a_bounded_number_of_runs(limit: int) -> None:
    search, runs = Search(6_000.0, runs=12), 0
    while (rate := search.next) is not None:
        search.tell(rate <= limit)
        runs += 1
    assert runs <= 12
    assert search.best is not None
    assert limit / CLOSE**2 <= search.best <= limit + 1


def test_a_search_in_which_nothing_holds_has_no_best() -> None:
    search, runs = Search(6_000.0, runs=5), 0
    while search.next is not None:
        search.tell(False)
        runs += 1
    assert (search.best, runs) == (None, 5)


# ---------------------------------------------------------------------- kept, told


def test_a_row_is_replaced_in_the_file_of_its_day_and_the_latest_counts(tmp_path: Path) -> None:
    keep(tmp_path, outcome("light", report(), date="2030-01-01T10:00:00+00:00"))
    path = keep(tmp_path, outcome("light", report(connections=7), date="2030-01-01T12:00:00+00:00"))
    keep(tmp_path, outcome("storm", report(), report(), date="2029-12-31T09:00:00+00:00"))
    keep(tmp_path, outcome("light", report(connections=5), date="2029-12-31T09:00:00+00:00"))
    assert path.name == "2030-01-01.json"
    found = latest(tmp_path)
    assert sorted(found) == ["light", "storm"]
    assert found["light"].reports[0].connections == 7
    path.write_text("[]")
    with pytest.raises(SetupError, match=r"2030-01-01\.json"):
        latest(tmp_path)


def test_what_was_not_measured_is_called_so() -> None:
    text = measured({"light": outcome("light", report())})
    assert text.count("not measured") == len(ROWS) - 1
    assert "mean < 10 ms | 7 ms |" in text
    assert "### light" in text
    assert "### storm" not in text
    assert "`chat load light`" in text
    assert "| edge in to accepted | 2.50 |" in text
    assert "| kafka | 0.500 | 150.0 | 75.0 |" in text
    assert "Nothing was measured" in measured({})


def test_missed_goals_and_wrong_messages_are_shown() -> None:
    slow = report(delivery=LATENCY | {"mean_ms": 12.0}, counts={"lost": 2, "doubled": 1})
    assert summary(ROWS["light"], [slow]) == ["mean < 10 ms: 12 ms (missed)", "WRONG: 2 lost, 1 doubled"]
    assert "12 ms (missed)<br>**WRONG: 2 lost, 1 doubled**" in measured({"light": outcome("light", slow)})


def test_of_a_search_the_confirming_run_is_shown() -> None:
    text = measured({"max-rate": outcome("max-rate", report(seconds=1.0), report(seconds=60.0))})
    assert "measured over 60 s" in text
    assert "measured over 1 s" not in text
    assert "6,400 messages/s" in text


def test_a_figure_without_a_bound_is_told_of_each_run() -> None:
    runs = [report(cpu={"all servers": {"cores": 0.1, "us_a_message": cost}}) for cost in (210.0, 220.0, 250.0)]
    found = outcome("growth-edges", *runs)
    assert summary(ROWS["growth-edges"], found.reports)[0] == "CPU a message: 210 / 220 / 250 µs"
    assert "missed" not in measured({"growth-edges": found})


def test_only_what_is_between_the_markers_is_written_anew() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = into(page, {})
    assert once == into(once, {})
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    with pytest.raises(SetupError):
        into("no place", {})
    into(DOCUMENT.read_text(), {})


def test_the_machine_is_told_without_its_name() -> None:
    found = facts()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["packages"]["trio"]
    assert not {"host", "hostname", "user"} & set(found)


def test_the_rows_are_listed() -> None:
    done = CliRunner().invoke(bench, ["--list"], standalone_mode=False)
    assert done.return_value == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(ROWS)
    assert CliRunner().invoke(bench, ["no-such-row"]).exit_code == 2
