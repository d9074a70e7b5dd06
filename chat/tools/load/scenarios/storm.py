"""A log-in storm: many connections are cut, or a server is killed, and all come back with their tokens; with a rate, while
messages go on."""

from __future__ import annotations

import os
import signal
from time import monotonic
from typing import Final

from chat.errors import SetupError
from chat.tools.load.histogram import Histogram
from chat.tools.load.run import Measured, Run
from chat.tools.load.scenarios.people import gather, pair

_LIMIT: Final = 120.0  # seconds in which they may come back


def run(run: Run) -> None:
    options, fleet = run.options, run.fleet
    victim = next((server for server in run.servers if server.name == options.kill), None)
    if options.kill and victim is None:
        names = ", ".join(sorted({server.name for server in run.servers}))
        raise SetupError(f"no server is named {options.kill!r}; there are: {names or 'none that are known here'}")
    devices = gather(run, options.connections)
    run.connect(devices)
    if options.rate:
        pair(run, devices, devices, options.partners)
        run.begin_traffic(devices, rate=options.rate, duration=options.duration)
        run.wait(options.warmup)
    run.phase("storm")
    fleet.back = Histogram()
    began, before = monotonic(), sum(fleet.losses.values())
    with Measured(run):
        if victim is not None:
            os.kill(victim.pid, signal.SIGKILL)
            run.until(lambda: sum(fleet.losses.values()) > before, 10.0)
        else:
            fleet.cut(run.random.sample(devices, round(len(devices) * options.share)))
        back = run.until(lambda: fleet.ready >= len(devices), _LIMIT)
    run.report.login = fleet.back.summary()
    run.report.notes = {
        "connections lost": sum(fleet.losses.values()) - before,
        "seconds until all were back": round(monotonic() - began, 3),
    }
    if not back:
        run.report.failed.append(f"{len(devices) - fleet.ready} are not back after {_LIMIT:.0f} s")
    run.phase("traffic")
    run.end_traffic()
    run.settle()
