"""One run: what all scenarios have in common – connecting, traffic at a rate, waiting for the rest, measuring, reporting."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from secrets import randbits
from time import monotonic, monotonic_ns
from typing import Any, Final

from chat.errors import SetupError
from chat.tools.load import hops, preflight
from chat.tools.load.accounts import Accounts
from chat.tools.load.cluster import Cluster
from chat.tools.load.device import Device
from chat.tools.load.fleet import Fleet, FleetOptions
from chat.tools.load.histogram import Histogram
from chat.tools.load.ledger import Ledger
from chat.tools.load.pace import Pace
from chat.tools.load.process import Server, Usage, cpu_between, resident_between, usage
from chat.tools.load.reactor import Reactor
from chat.tools.load.report import Report

_BURST: Final = 64  # messages issued before the sockets are looked at again


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    scenario: str
    servers: Sequence[tuple[str, int]]
    through_nginx: bool = True
    sources: Sequence[str] = ()
    connections: int = 1_000
    rate: float = 200.0  # messages a second, all senders together
    size: int = 100  # bytes of text
    duration: float = 30.0
    warmup: float = 3.0  # seconds of traffic before it is measured
    grace: float = 15.0  # seconds in which the rest may come
    ramp: float = 400.0
    partners: int = 2  # users that each sends to
    group_size: int = 100
    waiting: int = 10_000  # messages that wait in `offline`
    share: float = 1.0  # of the connections that `storm` cuts
    kill: str = ""  # or a server's name, as status tells it, that it kills instead
    jitter: float = 1.0
    outstanding: int = 200_000  # not accepted; above it messages are shed, and counted
    seed: int = 1
    force: bool = False  # begin though the pre-flight found something


class Run:
    def __init__(
        self, options: LoadOptions, accounts: Accounts, cluster: Cluster, say: Callable[[str], None] | None = None
    ) -> None:
        self.options, self.servers, self.metrics, self.say = options, list(cluster.servers), cluster.metrics, say
        self.reactor = Reactor()
        self.ledger = Ledger(randbits(47) & ~0xFFFFFF)  # room for a track's number below
        self.random = Random(options.seed)
        self.lateness = Histogram()
        self.accounts = accounts
        self.fleet = Fleet(self.reactor, self.ledger, accounts, FleetOptions(
            servers=options.servers, sources=options.sources, ramp=options.ramp, jitter=options.jitter, seed=options.seed,
        ))  # fmt: skip
        self.report = Report(
            scenario=options.scenario, began=datetime.now(UTC).isoformat(timespec="seconds"), command=" ".join(sys.argv),
            machine=machine(), connections=options.connections, options=asdict(options),
        )  # fmt: skip
        self._issued = 0
        self._senders: Sequence[Device] = ()
        self._pace: Pace | None = None
        self._phase = "starting"
        self._hops: hops.Sums = {}
        self._said = (0, 0)

    # -------------------------------------------------------------- phases

    def check(self) -> None:
        """The pre-flight. Raises SetupError where something is short, unless it is forced."""
        found = preflight.check(
            self.options.connections, servers=len(self.options.servers), sources=len(self.options.sources),
            processes=self.servers, through_nginx=self.options.through_nginx,
        )  # fmt: skip
        self.report.preflight = [f.what if f.ok else f"{f.what}: {f.mend}" for f in found]
        short = [f"{f.what}; {f.mend}" for f in found if not f.ok]
        if short and not self.options.force:
            raise SetupError("not enough for this load (--force begins anyway): " + "; ".join(short))

    def phase(self, name: str) -> None:
        self._phase = name
        self._progress()

    def begin_progress(self) -> None:
        def tick() -> None:
            self._progress()
            self.reactor.after(1.0, tick)

        if self.say is not None:
            self.reactor.after(1.0, tick)

    def until(self, what: Callable[[], bool], limit: float) -> bool:
        return self.reactor.run(what, limit)

    def wait(self, seconds: float) -> None:
        self.reactor.run(lambda: False, seconds)

    def visit(self, devices: Sequence[Device], action: Callable[[Device, Callable[[], None]], None] | None = None) -> None:
        """Each connects, `action(device, done)` does something, then it leaves. Raises SetupError where one cannot."""
        fleet, left = self.fleet, set(devices)

        def ready(device: Device) -> None:
            def done() -> None:
                left.discard(device)
                fleet.leave([device])

            if action is None:
                done()
            else:
                action(device, done)

        fleet.on_ready = ready
        fleet.connect(devices)
        if not self.until(lambda: not left, 30 + len(devices) / 4):
            raise SetupError(f"{len(left)} of {len(devices)} users could not be prepared: {dict(fleet.faults)}")
        fleet.on_ready = None

    def connect(self, devices: Sequence[Device]) -> None:
        """All on line and synced; the edges' memory before and after goes into the report."""
        self.phase("connecting")
        before = usage(self.servers)
        wanted = self.fleet.ready + len(devices)
        self.fleet.back = Histogram()
        self.fleet.connect(devices)
        limit = 60 + 3 * len(devices) / self.options.ramp
        if not self.until(lambda: self.fleet.ready >= wanted, limit):
            raise SetupError(
                f"{self.fleet.ready} of {wanted} connections are ready after {limit:.0f} s: {dict(self.fleet.faults)} "
                f"{dict(self.fleet.losses)}"
            )
        self.report.login = self.fleet.back.summary()
        self.wait(1.0)
        grown = resident_between(before, usage(self.servers), "edge")
        if any(server.role == "edge" for server in before) and devices:
            self.report.edge_bytes_per_connection = grown // len(devices)

    def traffic(self, senders: Sequence[Device], *, rate: float, duration: float, warmup: float) -> None:
        """Messages at a rate, from each sender in turn; the part after the warm-up is measured."""
        self.phase("traffic")
        begin = self.begin_traffic(senders, rate=rate, duration=warmup + duration, warmup=warmup)
        self.wait(warmup)
        with Measured(self):
            self.wait(max(0.0, begin + warmup + duration - monotonic()))
        self.end_traffic()

    def begin_traffic(self, senders: Sequence[Device], *, rate: float, duration: float, warmup: float = 0.0) -> float:
        """From now on, while other things are waited for. Returns when it began, monotonic seconds."""
        self._senders, self._issued = list(senders), 0
        self.random.shuffle(self._senders)
        gc.collect()
        gc.freeze()  # thousands of devices are not to be gone through again and again in the middle of it
        self._hops = hops.scrape(self.metrics)  # before and after, for it takes some milliseconds
        begin = monotonic_ns()
        self._pace = Pace(begin, rate, duration)
        self.ledger.measure_from = begin // 1000 + int(warmup * 1e6)
        self.reactor.pace = self._issue
        return begin / 1e9

    def end_traffic(self) -> None:
        """Wait until all of it is issued."""
        while self._pace is not None and (due := self._pace.next_due) is not None:
            self.until(lambda: self.reactor.pace is None, max(0.0, due / 1e9 - monotonic()) + 1.0)
        self._pace = self.reactor.pace = None

    def _issue(self, now: float) -> float | None:
        pace, ledger, fleet = self._pace, self.ledger, self.fleet
        if pace is None:
            return None
        for _ in range(_BURST):
            clock = monotonic_ns()
            due = pace.take(clock)
            if due is None:
                break
            self._issued += 1
            if ledger.outstanding >= self.options.outstanding:
                ledger.counts.shed += 1
                continue
            count = len(self._senders)
            fleet.send(self._senders[self._issued % count], due // 1000, self._issued // count)
            self.lateness.add((clock - due) // 1000)
        following = pace.next_due
        if following is None:
            self.reactor.pace = None
            return None
        return following / 1e9

    def settle(self) -> None:
        """Wait for the rest; what then is missing is asked for once, and counts as late if it comes by that."""
        self.phase("waiting for the rest")
        if self.until(lambda: self.ledger.settled, self.options.grace):
            return
        self.ledger.rescue = True
        missing = self.ledger.missing()
        for user in missing:
            if user in self.fleet.by_user:
                self.fleet.by_user[user].resync()
        self.until(lambda: self.ledger.settled, self.options.grace)

    # -------------------------------------------------------------- the end

    def finish(self) -> Report:
        report, ledger, fleet = self.report, self.ledger, self.fleet
        counts = ledger.close()
        report.counts = asdict(counts) | {"unaccepted": ledger.outstanding, "syncs": fleet.syncs}
        if ledger.delivery.count:
            report.delivery = ledger.delivery.summary()
        if ledger.acceptance.count:
            report.accepted = ledger.acceptance.summary()
        if self.lateness.count:
            report.lateness = self.lateness.summary()
        report.hops_ms = hops.budget(self._hops, hops.scrape(self.metrics)) if counts.sent else {}
        report.connections_lost = dict(fleet.losses)
        report.faults = dict(fleet.faults)
        report.failed += [f"{getattr(counts, k)} {k}" for k in _WRONG if getattr(counts, k)]
        if ledger.outstanding:
            report.failed.append(f"{ledger.outstanding} never accepted")
        if fleet.faults:
            report.failed.append(f"{sum(fleet.faults.values())} faults")
        return report

    def close(self) -> None:
        gc.unfreeze()
        self.fleet.stop()
        self.reactor.close()

    def _progress(self) -> None:
        if self.say is None:
            return
        counts, window = self.ledger.counts, self.ledger.window
        accepted, shown = counts.accepted - self._said[0], counts.shown - self._said[1]
        self._said = (counts.accepted, counts.shown)
        self.ledger.window = Histogram()
        line = f"{self._phase}: {self.fleet.ready} on line"
        if counts.sent:
            line += (
                f", {accepted}/s accepted, {shown}/s shown, {self.ledger.outstanding} outstanding, "
                f"mean {window.mean / 1000:.1f} ms, max {window.longest / 1000:.0f} ms"
            )
        if counts.doubled or counts.disordered or counts.misdelivered:
            line += f", WRONG: {counts.doubled} doubled, {counts.disordered} disordered, {counts.misdelivered} misdelivered"
        self.say(line)


_WRONG: Final = ("lost", "doubled", "disordered", "misdelivered", "late", "shed")


class Measured:
    """While it is entered, CPU and counts are measured; at its end they go into the report."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._load = Server("load", "load", os.getpid())

    def _look(self) -> tuple[float, dict[Server, Usage], int, int]:
        counts = self._run.ledger.counts
        return monotonic(), usage([*self._run.servers, self._load]), counts.accepted, counts.shown

    def __enter__(self) -> None:
        self._before = self._look()

    def __exit__(self, *exc: object) -> None:
        began, before, accepted, shown = self._before
        ended, after, accepted_now, shown_now = self._look()
        run, seconds = self._run, ended - began
        messages, deliveries = accepted_now - accepted, shown_now - shown
        run.report.seconds = round(seconds, 3)
        if messages:
            run.report.rates = {"accepted": messages / seconds, "shown": deliveries / seconds}
        spent = cpu_between(before, after)
        servers = {role: cpu for role, cpu in spent.items() if role != "load"}
        if servers:
            spent["all servers"] = sum(servers.values())
        for role, cpu in sorted(spent.items(), key=lambda item: (item[0] in {"load", "all servers"}, item[0])):
            cost = {"seconds": round(cpu, 3), "cores": round(cpu / seconds, 4)}
            if messages:
                cost["us_a_message"] = round(cpu / messages * 1e6, 1)
                cost["us_a_delivery"] = round(cpu / max(deliveries, 1) * 1e6, 1)
            run.report.cpu[role] = cost


def machine() -> dict[str, Any]:
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(), "processor": model, "kernel": platform.release(), "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip
