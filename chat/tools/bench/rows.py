"""What is measured: each row with its runs of `chat load`, and its goals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from chat.tools.load.report import Report
from chat.tools.load.scenarios.offline import SENDERS

Value = float | int | str
Reports = Sequence[Report]

#: Counted in these options is what there is of something; a scaled run has less of it.
_AMOUNTS: Final = frozenset({"connections", "rate", "waiting", "group-size"})
_LEAST: Final[Mapping[str, float]] = {"connections": 4, "rate": 1, "waiting": 20, "group-size": 2, "duration": 2}
#: A message that is wrong in one of these ways is a failure whatever it cost.
WRONG: Final = ("lost", "doubled", "disordered", "misdelivered")
#: The processes of this project, and nginx.
OURS: Final = ("edge", "router", "persist", "supervisor", "nginx")


class Load(NamedTuple):
    """One `chat load`; `options` by their names on its command line."""

    scenario: str
    options: Mapping[str, Value]
    edges: int = 0  # the cluster is scaled to so many; 0: left as it is

    def words(self) -> list[str]:
        """What to type behind `chat load`."""
        return [self.scenario, *(word for name, value in self.options.items() for word in (f"--{name}", f"{value}"))]

    def having(self, **more: Value) -> Load:
        given = {name.replace("_", "-"): value for name, value in more.items()}
        return self._replace(options={**self.options, **given})

    def scaled(self, scale: float) -> Load:
        """The same with less of everything; `scale` from 0 to 1. It says that it runs, nothing about speed."""

        def of(name: str, value: Value) -> Value:
            if isinstance(value, str) or scale == 1 or name not in _AMOUNTS | {"duration", "warmup", "grace"}:
                return value
            if name not in _LEAST:
                return value * scale if name == "warmup" else value
            return type(value)(max(value * scale, min(value, _LEAST[name])))

        scaled = {name: of(name, value) for name, value in self.options.items()}
        if "group-size" in scaled:  # whole groups
            scaled["connections"] = max(scaled["connections"], scaled["group-size"])
        return self._replace(options=scaled)

    @property
    def users(self) -> int:
        """How many log in."""
        connections = self.options["connections"]
        assert isinstance(connections, int)
        return connections + (SENDERS if self.scenario == "offline" else 0)


class Goal(NamedTuple):
    """`sign` is "<", "≤" or "≥"; "": it is a figure of each run, without a bound. `value` is None where it was not
    measured."""

    what: str
    sign: str
    bound: float
    unit: str
    value: Callable[[Reports], float | None]

    def reached(self, reports: Reports) -> bool | None:
        value = self.value(reports)
        if value is None or not self.sign:
            return None
        return {"<": value < self.bound, "≤": value <= self.bound, "≥": value >= self.bound}[self.sign]

    def __str__(self) -> str:
        return self.what if not self.sign else f"{self.what} {self.sign} {self.bound:,g} {self.unit}".rstrip()


class Row(NamedTuple):
    name: str
    title: str
    loads: Sequence[Load]
    goals: Sequence[Goal]
    search: bool = False  # the one load is repeated at other rates, for the highest that holds
    new_edges: bool = False  # edges that nobody was connected to before: for their memory


def worst(of: Callable[[Report], float | None]) -> Callable[[Reports], float | None]:
    """The highest of all runs; None where one of them has none."""

    def value(reports: Reports) -> float | None:
        found = [of(report) for report in reports]
        known = [one for one in found if one is not None]
        return max(known) if known and len(known) == len(found) else None

    return value


def delivery(which: str) -> Callable[[Report], float | None]:
    return lambda report: report.delivery[which] if report.delivery else None


def cpu(unit: str) -> Callable[[Report], float | None]:
    """Of all servers together."""
    return lambda report: report.cpu.get("all servers", {}).get(unit)


def our_cores(report: Report) -> float | None:
    found = [cost["cores"] for role, cost in report.cpu.items() if role in OURS]
    return round(sum(found), 4) if found else None


def noted(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.notes.get(name)


def memory_kib(report: Report) -> float | None:
    grown = report.edge_bytes_per_connection
    return None if grown is None else round(grown / 1024, 2)


def holds(report: Report) -> bool:
    """Did the servers keep up? (With an open loop, what is not kept up with waits longer and longer.)"""
    p99 = delivery("p99_ms")(report)
    return not report.failed and p99 is not None and p99 < SUSTAINED_MS


def sustained(reports: Reports) -> float | None:
    """The last run of the search is the one that is to confirm it."""
    return reports[-1].rates.get("accepted") if reports and holds(reports[-1]) else None


def wrong(reports: Reports) -> int:
    """Messages lost, doubled, out of order, or at the wrong one."""
    return sum(report.counts.get(name, 0) for report in reports for name in WRONG)


SUSTAINED_MS: Final = 1_000.0
#: From several addresses: ports of connections that have just ended are not free at once.
_12K: Final = {"connections": 12_000, "sources": 4}
_1K: Final = {"connections": 1_000}
_MINUTE: Final = {"duration": 60.0, "warmup": 5.0}

ROWS: Final[Mapping[str, Row]] = {row.name: row for row in (
    Row(
        "light", "100 connections, 200 messages/s",
        [Load("direct", {"connections": 100, "rate": 200.0, **_MINUTE})],
        [Goal("mean", "<", 10, "ms", worst(delivery("mean_ms")))],
    ),
    Row(
        "direct-12k", "12,000 connections with heartbeats, 1,200 direct messages/s",
        [Load("direct", {**_12K, "rate": 1_200.0, **_MINUTE})],
        [Goal("mean", "<", 15, "ms", worst(delivery("mean_ms"))), Goal("p99", "<", 50, "ms", worst(delivery("p99_ms")))],
    ),
    Row(
        "idle-12k", "12,000 connections, idle with heartbeats",
        [Load("idle", {**_12K, **_MINUTE})],
        [Goal("our processes and nginx", "<", 0.4, "cores", worst(our_cores))],
    ),
    Row(
        "storm", "12,000 clients come back by token: all are cut; an edge is killed",
        [Load("storm", {**_12K, "share": 1.0}), Load("storm", {**_12K, "kill": "edge-1"})],
        [Goal("all back and synced", "≤", 20, "s", worst(noted("seconds until all were back")))],
    ),
    Row(
        "memory", "An edge's memory a connection: logged in, in one group, idle",
        [Load("group", {**_12K, "group-size": 100, "rate": 1.0, "duration": 5.0, "warmup": 0.0})],
        [Goal("memory", "≤", 8, "KiB", worst(memory_kib))],
        new_edges=True,
    ),
    Row(
        "max-rate", "Most direct messages/s with p99 < 1 s, 1,000 connections",
        [Load("direct", {**_1K, "rate": 6_000.0, "duration": 30.0, "warmup": 5.0, "grace": 60.0})],
        [Goal("accepted", "≥", 6_000, "messages/s", sustained)],
        search=True,
    ),
    Row(
        "cpu-4000", "CPU of all servers a direct message, at 4,000/s",
        [Load("direct", {**_1K, "rate": 4_000.0, **_MINUTE, "grace": 60.0})],
        [Goal("CPU a message", "≤", 250, "µs", worst(cpu("us_a_message")))],
    ),
    Row(
        "mean-200-800", "1,000 connections, 200, 400 and 800 messages/s",
        [Load("direct", {**_1K, "rate": rate, **_MINUTE}) for rate in (200.0, 400.0, 800.0)],
        [Goal("mean", "≤", 4, "ms", worst(delivery("mean_ms")))],
    ),
    Row(
        "group-100", "A group of 100, 50 messages/s",
        [Load("group", {"connections": 100, "group-size": 100, "rate": 50.0, **_MINUTE})],
        [
            Goal("CPU a delivery", "≤", 40, "µs", worst(cpu("us_a_delivery"))),
            Goal("mean", "≤", 8, "ms", worst(delivery("mean_ms"))),
        ],
    ),
    Row(
        "group-10k", "A group of 10,000 on line, 1 message/s",
        [Load("group", {**_12K, "connections": 10_000, "group-size": 10_000, "rate": 1.0, **_MINUTE})],
        [Goal("the last member", "≤", 500, "ms", worst(delivery("max_ms")))],
    ),
    Row(
        "offline-10k", "10,000 messages wait for 1,000 users who log in at once",
        [Load("offline", {**_1K, "waiting": 10_000})],
        [Goal("all received", "≤", 2, "s", worst(noted("seconds until all were received")))],
    ),
    Row(
        "growth-connections", "What a message costs at 100, 1,000 and 10,000 connections, 400 messages/s",
        [Load("direct", {**_12K, "connections": many, "rate": 400.0, **_MINUTE}) for many in (100, 1_000, 10_000)],
        [
            Goal("CPU a message", "", 0, "µs", worst(cpu("us_a_message"))),
            Goal("mean", "", 0, "ms", worst(delivery("mean_ms"))),
        ],
    ),
    Row(
        "growth-edges", "What a message costs with 1, 2 and 4 edges, 1,000 connections, 400 messages/s",
        [Load("direct", {**_1K, "rate": 400.0, **_MINUTE}, edges) for edges in (1, 2, 4)],
        [
            Goal("CPU a message", "", 0, "µs", worst(cpu("us_a_message"))),
            Goal("mean", "", 0, "ms", worst(delivery("mean_ms"))),
        ],
    ),
)}  # fmt: skip
