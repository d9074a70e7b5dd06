"""What many connections need, computed from what was measured: docs/sizing.md. Pure.

Everything is multiplied up from figures of one machine with 2 cores; nothing here was tried at that size. What a figure
comes from, and by which formula, stands beside each line, so that it can be done again when figures change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from chat.errors import SetupError
from chat.tools.bench.results import Outcome
from chat.tools.bench.rows import ROWS, memory_kib, noted, worst
from chat.tools.load.report import Report

BEGIN: Final = "<!-- computed: written by `chat bench --render` -->"
END: Final = "<!-- /computed -->"

CONNECTIONS: Final = 1_000_000


class Case(NamedTuple):
    """Messages a second of each connection."""

    name: str
    peak: float
    mean: float


CASES: Final = (
    Case("40 messages a day each, five times as many at the peak", 40 / 86_400 * 5, 40 / 86_400),
    Case("one message in 10 s each all the time, as in `direct-12k`", 0.1, 0.1),
)
#: Of a core, that are planned for: the rest is for peaks, and for those whose neighbour has died.
FILL: Final = 0.5
#: Descriptors of a process on the machine that was measured; nginx needs two a client, and each worker its own.
DESCRIPTORS: Final = 20_000
EDGE_CONNECTIONS: Final = 19_000  # [edge] max_connections
REPLICATION: Final = 3
#: Frames: `{"type":"heartbeat"}` with its length, and what TCP and IP put around (timestamps on); there and back, each with
#: an acknowledgement of its own at worst.
HEARTBEAT_BYTES: Final = 2 * (24 + 52) + 2 * 52
MESSAGE_BYTES: Final = 280  # a frame with a text of 100 bytes, and what TCP and IP put around
RECORD_BYTES: Final = 230  # of a message in the log
RECORDS: Final = 2  # of a direct message


class Figure(NamedTuple):
    """`value` None: not measured. `source`: of which row."""

    value: float | None
    source: str


class Figures(NamedTuple):
    """Of one connection, one message, one row."""

    edge_memory_kib: Figure
    edge_idle: Figure  # cores a connection, heartbeats included
    nginx_idle: Figure
    edge_message: Figure  # µs
    nginx_message: Figure
    router_message: Figure
    persist_message: Figure
    kafka_message: Figure
    redis_message: Figure
    mariadb_message: Figure
    logins: Figure  # a second, of one machine
    hot_row: Figure  # bytes
    cold_row: Figure


def figures(outcomes: Mapping[str, Outcome]) -> Figures:
    def of(row: str, value: float | None) -> Figure:
        return Figure(value, row)

    def reports(row: str) -> Sequence[Report]:
        return outcomes[row].reports if row in outcomes else ()

    idle, busy = reports("idle-12k"), reports("cpu-4000")

    def idle_cores(role: str) -> Figure:
        found = [report.cpu[role]["cores"] / report.connections for report in idle if role in report.cpu]
        return of("idle-12k", max(found, default=None))

    def message(role: str) -> Figure:
        found = [report.cpu[role].get("us_a_message") for report in busy if role in report.cpu]
        return of("cpu-4000", max((one for one in found if one is not None), default=None))

    back = [
        report.connections / seconds
        for report in reports("storm") if (seconds := report.notes.get("seconds until all were back"))
    ]  # fmt: skip
    memory = worst(memory_kib)(reports("memory"))
    archived = reports("archive")
    return Figures(
        of("memory", memory), idle_cores("edge"), idle_cores("nginx"),
        message("edge"), message("nginx"), message("router"), message("persist"), message("kafka"), message("redis"),
        message("mariadb"),
        of("storm", min(back, default=None)),
        of("archive", worst(noted("bytes of the table, a row"))(archived)),
        of("archive", worst(noted("bytes of the files, a row"))(archived)),
    )  # fmt: skip


def into(text: str, outcomes: Mapping[str, Outcome]) -> str:
    """The document with what lies between its markers computed anew. Raises SetupError: it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SetupError(f"docs/sizing.md has no place for what is computed: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{computed(outcomes)}\n{END}{after}"


def computed(outcomes: Mapping[str, Outcome]) -> str:
    found = figures(outcomes)
    parts = [_given(found, outcomes)]
    for case in CASES:
        title = f"### {CONNECTIONS:,} connections, {case.name}: {CONNECTIONS * case.peak:,.0f} messages/s"
        parts.append(f"{title}\n\n{_case(found, case)}")
    return "\n\n".join(parts) + "\n"


def _given(found: Figures, outcomes: Mapping[str, Outcome]) -> str:
    lines = ["| measured | | row | when |", "|---|---:|---|---|"]
    for what, unit, scale, figure in (
        ("an edge's memory a connection", "KiB", 1, found.edge_memory_kib),
        ("edge, a connection with heartbeats", "µs of CPU a second", 1e6, found.edge_idle),
        ("nginx, a connection with heartbeats", "µs of CPU a second", 1e6, found.nginx_idle),
        ("edge, a direct message", "µs", 1, found.edge_message),
        ("nginx, a direct message", "µs", 1, found.nginx_message),
        ("router, a direct message", "µs", 1, found.router_message),
        ("persist, a direct message", "µs", 1, found.persist_message),
        ("Kafka, a direct message", "µs", 1, found.kafka_message),
        ("Redis, a direct message", "µs", 1, found.redis_message),
        ("MariaDB, a direct message", "µs", 1, found.mariadb_message),
        ("log-ins by token, of the whole machine", "/s", 1, found.logins),
        ("a row in MariaDB, indexes included", "bytes", 1, found.hot_row),
        ("a row in the files of the archive", "bytes", 1, found.cold_row),
    ):
        value = "not measured" if figure.value is None else f"{figure.value * scale:,.1f} {unit}"
        date = outcomes[figure.source].date[:10] if figure.source in outcomes else f"`chat bench {figure.source}`"
        lines.append(f"| {what} | {value} | `{figure.source}` | {date} |")
    missing = sorted({figure.source for figure in found if figure.value is None})
    if missing:
        lines += ["", f"**Missing: {', '.join(f'`{row}`' for row in missing)}.** Lines that need them say so."]
    assert {figure.source for figure in found} <= set(ROWS)
    return "\n".join(lines)


def _case(found: Figures, case: Case) -> str:
    n, r, m = CONNECTIONS, CONNECTIONS * case.peak, CONNECTIONS * case.mean
    lines = ["| what | how many | formula |", "|---|---:|---|"]

    def line(what: str, formula: str, value: float | None, unit: str = "", *, whole: bool = False) -> None:
        if value is None:
            shown = "not measured"
        else:
            shown = f"{math.ceil(value):,}" if whole else f"{value:,.0f}" if value >= 10 else f"{value:,.2f}"
        lines.append(f"| {what} | {shown}{f' {unit}' if unit and value is not None else ''} | {formula} |")

    def cores(idle: Figure | None, message: Figure) -> float | None:
        if message.value is None or (idle is not None and idle.value is None):
            return None
        return (n * (idle.value or 0) if idle is not None else 0) + r * message.value / 1e6

    def processes(busy: float | None, least: int = 1) -> float | None:
        return None if busy is None else max(least, busy / FILL)

    edge, nginx = cores(found.edge_idle, found.edge_message), cores(found.nginx_idle, found.nginx_message)
    line("edges: CPU", "N × idle + R × a message", edge, "cores")
    line(
        "edges: processes", f"the larger of N / {EDGE_CONNECTIONS:,} and cores / {FILL}",
        processes(edge, math.ceil(n / EDGE_CONNECTIONS)), whole=True,
    )  # fmt: skip
    memory = found.edge_memory_kib.value
    line("edges: memory of connections", "N × KiB a connection", None if memory is None else n * memory / 2**20, "GiB")
    line("nginx: CPU", "N × idle + R × a message", nginx, "cores")
    line(
        "nginx: workers", f"the larger of 2 N / {DESCRIPTORS:,} descriptors and cores / {FILL}",
        processes(nginx, math.ceil(2 * n / DESCRIPTORS)), whole=True,
    )  # fmt: skip
    for title, figure in (
        ("routers", found.router_message), ("persists", found.persist_message), ("Kafka, its leaders", found.kafka_message),
        ("Redis", found.redis_message), ("MariaDB", found.mariadb_message),
    ):  # fmt: skip
        busy = cores(None, figure)
        line(f"{title}: CPU", "R × a message", busy, "cores")
        if title in ("routers", "persists"):
            line(f"{title}: processes, and partitions at the least", f"cores / {FILL}", processes(busy), whole=True)
    line("Kafka: records", f"{RECORDS} R", RECORDS * r, "/s")
    line(
        "Kafka: written by all brokers", f"{RECORDS} R × {RECORD_BYTES} bytes × {REPLICATION} copies",
        RECORDS * r * RECORD_BYTES * REPLICATION / 1e6, "MB/s",
    )  # fmt: skip
    line(
        "Kafka: 7 days of the log", f"{RECORDS} M × {RECORD_BYTES} bytes × {REPLICATION} copies × 604,800 s",
        RECORDS * m * RECORD_BYTES * REPLICATION * 604_800 / 1e12, "TB",
    )  # fmt: skip
    hot, cold = found.hot_row.value, found.cold_row.value
    line("MariaDB: rows", f"{RECORDS} R", RECORDS * r, "/s")
    line("MariaDB: 90 days hot", f"{RECORDS} M × 7,776,000 s × bytes a row", _tb(hot, RECORDS * m * 7_776_000), "TB")
    line("the archive: a year", f"{RECORDS} M × 31,536,000 s × bytes a row", _tb(cold, RECORDS * m * 31_536_000), "TB")
    beats = n * HEARTBEAT_BYTES * 8 / 1e9
    line("heartbeats on the wire", f"N × {HEARTBEAT_BYTES} bytes a second, both ways", beats, "Gbit/s")
    line(
        "messages on the wire", f"R × {1 + RECORDS} × {MESSAGE_BYTES} bytes: sent, and shown by both",
        r * (1 + RECORDS) * MESSAGE_BYTES * 8 / 1e9, "Gbit/s",
    )  # fmt: skip
    back = found.logins.value
    line(
        "all back after everything was cut", "N / log-ins a second, on one machine of 2 cores with all servers on it",
        None if back is None else n / back, "s",
    )  # fmt: skip
    return "\n".join(lines)


def _tb(size: float | None, rows: float) -> float | None:
    return None if size is None else size * rows / 1e12
