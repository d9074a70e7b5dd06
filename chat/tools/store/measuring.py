"""What every measurement on a store has in common: the report, the servers' CPU, the cluster's settings."""

from __future__ import annotations

import os
import resource
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from chat.config import Config
from chat.errors import SetupError
from chat.settings import load
from chat.tools.load.cluster import find_cluster
from chat.tools.load.histogram import Histogram
from chat.tools.load.process import cpu_between, usage
from chat.tools.load.report import Report
from chat.tools.load.run import machine
from chat.tools.state import State


def settings_of(folder: Path) -> Config:
    """Of the cluster in the folder. Raises SetupError."""
    file = State(folder).settings
    if not file.is_file():
        raise SetupError(f"no cluster of `chat up` is in {folder}: name its folder with --state")
    return load(file, os.environ).config


def report_of(scenario: str, options: Mapping[str, Any]) -> Report:
    return Report(
        scenario=scenario, began=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["chat", *sys.argv[1:]]), machine=machine(), connections=1, options=dict(options),
    )  # fmt: skip


@contextmanager
def measured(report: Report, folder: Path) -> Iterator[None]:
    """Seconds, and the CPU of the cluster's processes and of commands that are run meanwhile, into the report."""
    servers = find_cluster(folder).servers
    before, began, commands = usage(servers), perf_counter(), _of_commands()
    yield
    report.seconds = round(perf_counter() - began, 3)
    spent = cpu_between(before, usage(servers))
    if (own := _of_commands() - commands) > 0:
        spent["the command"] = own
    for role, seconds in sorted(spent.items()):
        report.cpu[role] = {"seconds": round(seconds, 2), "cores": round(seconds / max(report.seconds, 1e-9), 4)}


def _of_commands() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def told(latencies: Mapping[str, Histogram]) -> dict[str, dict[str, float]]:
    return {name: found.summary() for name, found in sorted(latencies.items())}
