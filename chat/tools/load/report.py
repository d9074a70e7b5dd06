"""What came out of a run: as JSON for machines, as lines for people."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

Latency = dict[str, float]


class Report(Struct, kw_only=True):
    scenario: str
    began: str  # UTC, ISO 8601
    command: str
    machine: dict[str, Any]
    connections: int
    options: dict[str, Any]
    seconds: float = 0.0  # of the measured part
    #: latencies in ms, see Histogram.summary
    delivery: Latency | None = None
    accepted: Latency | None = None
    login: Latency | None = None  # from the wish to connect, or the loss, to synced
    lateness: Latency | None = None  # of the load itself: from the intended to the real sending
    latencies: dict[str, Latency] = field(default_factory=dict)  # of what else is waited for, by its name
    counts: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)  # per second
    cpu: dict[str, dict[str, float]] = field(default_factory=dict)  # role → cores, µs a message
    hops_ms: dict[str, float] = field(default_factory=dict)  # hop → mean; see hops.HOPS
    edge_bytes_per_connection: int | None = None
    connections_lost: dict[str, int] = field(default_factory=dict)  # by reason
    faults: dict[str, int] = field(default_factory=dict)
    preflight: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)  # what only one scenario has
    failed: list[str] = field(default_factory=list)  # what makes the exit status 1

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


def as_text(report: Report) -> str:
    lines = [f"{report.scenario}: {report.connections} connections, {report.seconds:.1f} s measured"]
    for name, latency in (
        ("delivery", report.delivery), ("accepted", report.accepted), ("log-in", report.login),
        ("load's own lateness", report.lateness),
    ):  # fmt: skip
        if latency and latency["count"]:
            lines.append(_latency(name, latency))
    lines += [_latency(name, latency) for name, latency in report.latencies.items() if latency["count"]]
    if report.rates:
        lines.append("  per second           " + "  ".join(f"{k} {v:,.0f}" for k, v in report.rates.items()))
    if report.counts:
        shown = {k: v for k, v in report.counts.items() if v or k in {"lost", "doubled", "disordered"}}
        lines.append("  counts               " + "  ".join(f"{k} {v}" for k, v in shown.items()))
    for role, cost in report.cpu.items():
        per = f", {cost['us_a_message']:6.1f} µs a message" if "us_a_message" in cost else ""
        per += f", {cost['us_a_delivery']:6.1f} µs a delivery" if "us_a_delivery" in cost else ""
        lines.append(f"  cpu {role:16} {cost['cores']:6.3f} cores{per}")
    lines += [f"  hop {hop:38} {mean:8.2f} ms" for hop, mean in report.hops_ms.items()]
    if report.edge_bytes_per_connection is not None:
        lines.append(f"  edge memory          {report.edge_bytes_per_connection / 1024:.1f} KiB a connection")
    for title, numbers in (
        ("connections lost", report.connections_lost),
        ("faults", report.faults),
        ("notes", report.notes),
    ):
        if numbers:
            lines.append(f"  {title:20} " + "  ".join(f"{k}: {v}" for k, v in numbers.items()))
    lines += [f"  pre-flight           {finding}" for finding in report.preflight]
    lines.append("  FAILED: " + "; ".join(report.failed) if report.failed else "  ok")
    return "\n".join(lines)


def _latency(name: str, latency: Latency) -> str:
    return (
        f"  {name:20} mean {latency['mean_ms']:9.2f} ms  p50 {latency['p50_ms']:9.2f}  p99 {latency['p99_ms']:9.2f}"
        f"  p99.9 {latency['p999_ms']:9.2f}  max {latency['max_ms']:9.2f}  ({latency['count']:.0f})"
    )
