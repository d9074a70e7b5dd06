"""Connections that do nothing but live: what heartbeats cost, and what a connection weighs."""

from __future__ import annotations

from chat.tools.load.run import Measured, Run
from chat.tools.load.scenarios.people import gather


def run(run: Run) -> None:
    run.connect(gather(run, run.options.connections))
    run.phase("idle")
    run.wait(run.options.warmup)
    with Measured(run):
        run.wait(run.options.duration)
    if run.fleet.ready < run.options.connections or run.fleet.losses:
        run.report.failed.append(f"{sum(run.fleet.losses.values())} connections were lost")
