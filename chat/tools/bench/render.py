"""docs/performance.md from what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from chat.errors import SetupError
from chat.tools.bench.results import Done, Outcome
from chat.tools.bench.rows import ROWS, WRONG, Goal, Row, wrong
from chat.tools.load.report import Report

BEGIN: Final = "<!-- measured: written by `chat bench --render` -->"
END: Final = "<!-- /measured -->"


def into(text: str, outcomes: Mapping[str, Outcome]) -> str:
    """The document with what lies between its markers replaced. Raises SetupError: it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SetupError(f"docs/performance.md has no place for the figures: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured(outcomes)}\n{END}{after}"


def measured(outcomes: Mapping[str, Outcome]) -> str:
    known = [outcomes[name] for name in ROWS if name in outcomes]
    if not known:
        return "Nothing was measured yet: `make bench`.\n"
    parts = [_machines(known), _table(outcomes)]
    for outcome in known:
        parts += [
            f"### {outcome.row}\n\n{ROWS[outcome.row].title}. Begun {outcome.date[:16].replace('T', ' ')} UTC; load average "
            f"of the machine before it {outcome.machine.get('load_average')}.",
            *(_run(run) for run in _shown(outcome)),
        ]
    return "\n\n".join(parts) + "\n"


def summary(row: Row, reports: Sequence[Report]) -> list[str]:
    """A row's goals and what came out, a line each; for the terminal too."""
    return [f"{goal}: {shown(goal, reports)}" for goal in row.goals] + wrongs(reports)


def shown(goal: Goal, reports: Sequence[Report]) -> str:
    value = goal.value(reports)
    if value is None:
        return "none"
    if not goal.sign:
        return " / ".join(_number(goal.value([report]) or 0.0) for report in reports) + f" {goal.unit}"
    return f"{_number(value)} {goal.unit}".rstrip() + ("" if goal.reached(reports) else " (missed)")


def wrongs(reports: Sequence[Report]) -> list[str]:
    if not wrong(reports):
        return []
    counts = {name: sum(report.counts.get(name, 0) for report in reports) for name in WRONG}
    return ["WRONG: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)]


# ---------------------------------------------------------------------- parts


def _machines(outcomes: Iterable[Outcome]) -> str:
    """On what; rows of the same machine and commit together."""
    together: dict[str, list[str]] = {}
    for outcome in outcomes:
        together.setdefault(_machine(outcome.machine), []).append(outcome.row)
    return "\n".join(f"- {machine}: {', '.join(f'`{row}`' for row in rows)}" for machine, rows in together.items())


def _machine(machine: Mapping[str, Any]) -> str:
    commit = str(machine.get("commit", ""))[:10] or "unknown"
    changed = f" with {machine['changed']} files changed" if machine.get("changed") else ""
    servers = ", ".join(
        f"{title} {machine[name]}" for title, name in (
            ("Kafka", "kafka"), ("Java", "java"), ("MariaDB", "mariadb"), ("Redis", "redis"), ("nginx", "nginx"),
            ("Python", "python"),
        ) if machine.get(name)
    )  # fmt: skip
    return (
        f"{str(machine.get('date', ''))[:10]}, commit {commit}{changed}; {machine.get('cores')} cores of "
        f"{machine.get('processor') or 'an unknown processor'}, {machine.get('memory_gib')} GiB, Linux "
        f"{machine.get('kernel')}; {servers}"
    )


def _table(outcomes: Mapping[str, Outcome]) -> str:
    lines = ["| | goal | measured | command |", "|---|---|---|---|"]
    for row in ROWS.values():
        goals = "<br>".join(map(str, row.goals))
        outcome = outcomes.get(row.name)
        if outcome is None:
            lines.append(f"| {row.title} | {goals} | not measured | `chat bench {row.name}` |")
            continue
        reports = outcome.reports
        found = "<br>".join([shown(goal, reports) for goal in row.goals] + [f"**{line}**" for line in wrongs(reports)])
        lines.append(f"| {row.title} | {goals} | {found} | `chat bench {row.name}` |")
    return "\n".join(lines)


def _shown(outcome: Outcome) -> Sequence[Done]:
    """Of a search the run that counts; the others are in the raw file."""
    return outcome.runs[-1:] if ROWS[outcome.row].search else outcome.runs


def _run(run: Done) -> str:
    report = run.report
    lines = [f"`{run.command}`", ""]
    lines += _latencies(report)
    if report.rates:
        rates = ", ".join(f"{value:,.0f} {name}" for name, value in report.rates.items())
        lines += [f"Per second: {rates}; measured over {report.seconds:g} s."]
    if report.edge_bytes_per_connection is not None:
        lines += [f"Edge memory: {report.edge_bytes_per_connection / 1024:.1f} KiB a connection."]
    lines += [f"{name[0].upper()}{name[1:]}: {value}." for name, value in report.notes.items()]
    lines += [f"Not as it should be: {what}." for what in report.failed]
    if report.hops_ms:
        lines += ["", "| hop | mean, ms |", "|---|---:|", *(f"| {hop} | {ms:.2f} |" for hop, ms in report.hops_ms.items())]
    return "\n".join([*lines, *_cpu(report)])


def _latencies(report: Report) -> list[str]:
    rows = [
        f"| {name} | {found['mean_ms']:.2f} | {found['p50_ms']:.2f} | {found['p99_ms']:.2f} | {found['p999_ms']:.2f} | "
        f"{found['max_ms']:.2f} | {found['count']:,.0f} |"
        for name, found in (
            ("delivery", report.delivery), ("accepted", report.accepted), ("log-in", report.login),
            ("the load's own lateness", report.lateness), *report.latencies.items(),
        ) if found and found["count"]
    ]  # fmt: skip
    return ["| ms | mean | p50 | p99 | p99.9 | max | number |", "|---|---:|---:|---:|---:|---:|---:|", *rows, ""] * bool(
        rows
    )


def _cpu(report: Report) -> list[str]:
    if not report.cpu:
        return []
    messages = any("us_a_message" in cost for cost in report.cpu.values())
    head = "| process | cores |" + (" µs a message | µs a delivery |" if messages else "")
    lines = ["", head, "|---|---:|" + ("---:|---:|" if messages else "")]
    for role, cost in report.cpu.items():
        line = f"| {role} | {cost['cores']:.3f} |"
        if messages:
            line += f" {cost.get('us_a_message', 0):.1f} | {cost.get('us_a_delivery', 0):.1f} |"
        lines.append(line)
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
