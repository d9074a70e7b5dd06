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
_READINGS: Final = frozenset({"conversations", "people", "records", "messages", "pages"})
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


class Probe(NamedTuple):
    """One `chat store`: the record of a cluster of its own, read or moved. `store`: so many rows have to be there before,
    all hot or, `archived`, a fifth of them; 0: the cluster of `chat load` is asked. `log`: so many records have to be in
    Kafka's log. `moves`: it leaves the store archived."""

    verb: str
    options: Mapping[str, Value] = {}
    flags: Sequence[str] = ()
    store: int = 0
    archived: bool = False
    log: int = 0
    moves: bool = False

    def words(self) -> list[str]:
        """What to type behind `chat store`."""
        return [
            self.verb,
            *(word for name, value in self.options.items() for word in (f"--{name}", f"{value}")),
            *self.flags,
        ]

    def scaled(self, scale: float) -> Probe:
        def of(name: str, value: Value) -> Value:
            return value if isinstance(value, str) or name not in _READINGS else type(value)(max(2, value * scale))

        options = {name: of(name, value) for name, value in self.options.items()} if scale != 1 else self.options
        return self._replace(options=options, store=int(self.store * scale), log=int(self.log * scale))


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
    probes: Sequence[Probe] = ()  # instead of loads


def worst(of: Callable[[Report], float | None]) -> Callable[[Reports], float | None]:
    """The highest of all runs; None where one of them has none."""

    def value(reports: Reports) -> float | None:
        found = [of(report) for report in reports]
        known = [one for one in found if one is not None]
        return max(known) if known and len(known) == len(found) else None

    return value


def least(of: Callable[[Report], float | None]) -> Callable[[Reports], float | None]:
    """The lowest of all runs; None where one of them has none."""
    highest = worst(lambda report: None if (value := of(report)) is None else -value)
    return lambda reports: None if (value := highest(reports)) is None else -value


def delivery(which: str) -> Callable[[Report], float | None]:
    return lambda report: report.delivery[which] if report.delivery else None


def cpu(unit: str) -> Callable[[Report], float | None]:
    """Of all servers together."""
    return lambda report: report.cpu.get("all servers", {}).get(unit)


def latency(name: str, which: str) -> Callable[[Report], float | None]:
    return lambda report: report.latencies.get(name, {}).get(which)


def rate(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.rates.get(name)


def our_cores(report: Report) -> float | None:
    found = [cost["cores"] for role, cost in report.cpu.items() if role in OURS]
    return round(sum(found), 4) if found else None


def noted(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.notes.get(name)


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


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
#: An edge more is a produce and a fetch more in every cycle: on two cores one carries 12,000 connections for the least CPU.
ONE_EDGE: Final = 1
_MINUTE: Final = {"duration": 60.0, "warmup": 5.0}

ROWS: Final[Mapping[str, Row]] = {row.name: row for row in (
    Row(
        "light", "100 connections, 200 messages/s",
        [Load("direct", {"connections": 100, "rate": 200.0, **_MINUTE})],
        [Goal("mean", "<", 10, "ms", worst(delivery("mean_ms")))],
    ),
    Row(
        "direct-12k", "12,000 connections with heartbeats, 1,200 direct messages/s",
        [Load("direct", {**_12K, "rate": 1_200.0, **_MINUTE}, ONE_EDGE)],
        [Goal("mean", "<", 15, "ms", worst(delivery("mean_ms"))), Goal("p99", "<", 50, "ms", worst(delivery("p99_ms")))],
    ),
    Row(
        "idle-12k", "12,000 connections, idle with heartbeats",
        [Load("idle", {**_12K, **_MINUTE}, ONE_EDGE)],
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
        [Load("direct", {**_1K, "rate": 6_000.0, "duration": 30.0, "warmup": 5.0, "grace": 60.0}, ONE_EDGE)],
        [Goal("accepted", "≥", 6_000, "messages/s", sustained)],
        search=True,
    ),
    Row(
        "cpu-4000", "CPU of all servers a direct message, at 4,000/s",
        [Load("direct", {**_1K, "rate": 4_000.0, **_MINUTE, "grace": 60.0}, ONE_EDGE)],
        [Goal("CPU a message", "≤", 250, "µs", worst(cpu("us_a_message")))],
    ),
    Row(
        "mean-200-800", "1,000 connections, 200, 400 and 800 messages/s",
        [Load("direct", {**_1K, "rate": rate, **_MINUTE}, ONE_EDGE) for rate in (200.0, 400.0, 800.0)],
        [Goal("mean", "≤", 4, "ms", worst(delivery("mean_ms")))],
    ),
    Row(
        "group-100", "A group of 100, 50 messages/s",
        [Load("group", {"connections": 100, "group-size": 100, "rate": 50.0, **_MINUTE}, ONE_EDGE)],
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
    Row(
        "growth-history", "Pages of history and syncs at 1, 5 and 10 million hot rows",
        [],
        [
            Goal("page, first read, p50", "", 0, "ms", worst(latency("hot page, first", "p50_ms"))),
            Goal("page, first read, p99", "", 0, "ms", worst(latency("hot page, first", "p99_ms"))),
            Goal("sync of a page, p50", "", 0, "ms", worst(latency("hot sync, again", "p50_ms"))),
            Goal("sync of a page, p99", "", 0, "ms", worst(latency("hot sync, again", "p99_ms"))),
        ],
        probes=[
            Probe("pages", {"conversations": 200, "depth": 10, "pages": 1_000}, ("--new-edges", "--sync"), store=rows)
            for rows in (1_000_000, 5_000_000, 10_000_000)
        ],
    ),
    Row(
        "archive", "4 of 5 million rows archived",
        [],
        [
            Goal("archived", "≥", 50_000, "rows/s", least(rate("rows archived"))),
            Goal("Parquet", "≤", 20, "% of the table", worst(noted("files, % of the table"))),
        ],
        probes=[Probe("archive", {"older-than": 146.0}, store=5_000_000, moves=True)],
    ),
    Row(
        "store-pages", "Pages of history, 5 million messages of which 4 million are archived",
        [],
        [
            Goal(f"{kind} page, {name}, max", "<", bound, "ms", worst(latency(f"{kind} page, {name}", "max_ms")))
            for kind, bound in (("hot", 50), ("border", 200), ("cold", 200)) for name in ("first", "again")
        ],
        probes=[
            Probe(
                "pages", {"conversations": 400, "depth": 60, "pages": 6_000}, ("--new-edges", "--sync"), store=5_000_000,
                archived=True,
            )
        ],
    ),
    Row(
        "store-search", "Pages of a search, 5 million messages of which 4 million are archived",
        [],
        [
            Goal(f"{where}, {name}, max", "<", 500, "ms", worst(latency(f"{where}, {name}", "max_ms")))
            for where in ("everywhere", "in a conversation") for name in ("first page", "further pages")
        ],
        probes=[Probe("search", {"people": 40}, store=5_000_000, archived=True)],
    ),
    Row(
        "replay", "1 million records of the log replayed",
        [],
        [Goal("readable", "≥", 50_000, "records/s", least(rate("records, readable")))],
        probes=[Probe("replay", {"records": 1_000_000}, log=1_000_000)],
    ),
    Row(
        "trace", "A message traced while its hops are in Kafka",
        [],
        [Goal("a trace, max", "<", 2, "s", worst(lambda report: _seconds(latency("trace", "max_ms")(report))))],
        probes=[Probe("trace", {"messages": 20}, log=1_000_000)],
    ),
)}  # fmt: skip
