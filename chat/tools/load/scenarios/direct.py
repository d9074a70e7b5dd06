"""Direct messages between users that are all on line."""

from __future__ import annotations

from chat.tools.load.run import Run
from chat.tools.load.scenarios.people import gather, pair


def run(run: Run) -> None:
    options = run.options
    devices = gather(run, options.connections)
    run.connect(devices)
    pair(run, devices, devices, options.partners)
    run.traffic(devices, rate=options.rate, duration=options.duration, warmup=options.warmup)
    run.settle()
