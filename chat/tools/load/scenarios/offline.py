"""Messages that wait: many users are away while they are written to, then all log in at once."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Final

from chat.tools.load.histogram import Histogram
from chat.tools.load.run import Measured, Run
from chat.tools.load.scenarios.people import gather, pair

SENDERS: Final = 50
_NO_LIMIT: Final = 1e9


def run(run: Run) -> None:
    options, fleet, ledger = run.options, run.fleet, run.ledger
    devices = gather(run, options.connections + SENDERS)
    senders, recipients = devices[:SENDERS], devices[SENDERS:]
    run.phase("each is on line once")
    run.visit(recipients)
    run.connect(senders)
    run.report.edge_bytes_per_connection = None
    partners = -(-len(recipients) // len(senders))
    pair(run, senders, recipients, partners)
    run.traffic(senders, rate=options.rate, duration=options.waiting / options.rate, warmup=0)
    run.phase("until all are accepted and stored")
    run.until(lambda: ledger.outstanding == 0, options.grace)
    for sender in senders:  # a whole answer says that persist has reached the end of the sender's partition
        sender.resync()
    run.until(lambda: all(chain.settled for sender in senders for chain in sender.chains.values()), options.grace)

    run.phase("all log in")
    waiting = sum(ledger.missing().values())
    ledger.delivery, fleet.back = Histogram(), Histogram()  # from the log-in on, nothing else is of interest
    ledger.measure_from = 1 << 62
    fleet.options = replace(fleet.options, ramp=_NO_LIMIT, opening=len(recipients))
    wanted, began = fleet.ready + len(recipients), monotonic()
    with Measured(run):
        fleet.connect(recipients)
        run.until(lambda: fleet.ready >= wanted and ledger.settled, options.grace + 60)
    run.report.login = fleet.back.summary()
    run.report.notes = {
        "messages that waited": waiting,
        "seconds until all were received": round(ledger.last_shown / 1e6 - began, 3),
    }
    run.settle()
