"""One row after the other on a cluster of its own; each run is `chat load`, or `chat store`, in a process of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import trio
from prometheus_client.parser import text_string_to_metric_families

from chat.errors import SetupError
from chat.settings import Loaded, load
from chat.tools.bench.machine import facts, moment
from chat.tools.bench.results import Done, Outcome
from chat.tools.bench.rows import Load, Row, holds
from chat.tools.bench.running import chat, run_report, tell
from chat.tools.bench.search import Search
from chat.tools.bench.stores import StoreCluster
from chat.tools.cluster import bring_up, take_down, wait_ready
from chat.tools.load.accounts import USERS_FILE, load_accounts
from chat.tools.load.cluster import find_cluster
from chat.tools.load.report import Report
from chat.tools.state import State

#: Below the ports that the kernel gives to outgoing connections, and away from those of `chat up`.
FIRST_PORT: Final = 27_000
#: Users whose messages are traced.
TRACED: Final = 100
QUIET_S: Final = 300.0
WARM_S: Final = 45.0
READY_S: Final = 120.0
#: The rate found by a search is confirmed by a run of this many seconds; where it does not hold so long, a little less.
CONFIRM_S: Final = 60.0
LESS: Final = 0.93
CONFIRMATIONS: Final = 6
_LAGS: Final = ("chat_router_lag_records", "chat_persist_lag_records")

Say = Callable[[str], None]


def settings(file: Path | None, edges: int | None, environ: Mapping[str, str]) -> Loaded:
    """Those of the bench's cluster: of the file, on ports of its own. Raises SetupError."""
    return load(file, environ, {("up", "first_port"): FIRST_PORT, ("up", "edges"): edges}, cluster=False)


class Bench:
    """`scale` below 1: everything smaller, to try whether it runs."""

    def __init__(self, folder: Path, scale: float, say: Say, progress: bool) -> None:
        self._folder, self._scale, self._say, self._progress = folder, scale, say, progress
        self._state = State(folder)
        self._facts: dict[str, Any] = {}
        #: rates that a search tries before the best is confirmed
        self.runs = 8
        self._warm = False

    async def up(self, loaded: Loaded, owner: int | None) -> None:
        """The cluster, or the one that runs in the folder. Raises SetupError."""
        self._facts = await trio.to_thread.run_sync(facts)  # of the program that is started now
        await bring_up(self._state, loaded, owner, False, self._say)

    async def down(self) -> None:
        """Its data stays. Raises SetupError."""
        await take_down(self._state, True, self._say)

    async def prepare(self, rows: Sequence[Row]) -> None:
        """The users of these rows, straight into the database."""
        users = max((one.scaled(self._scale).users for row in rows for one in row.loads), default=TRACED)
        words = [*chat("load", "prepare"), "--users", str(users), "--state", str(self._folder)]
        await trio.run_process(words)

    async def measure(self, row: Row) -> Outcome:
        """All runs of a row of loads. Raises SetupError: one could not be done."""
        await self._warm_up()
        await self._ready()
        machine, runs = self._facts | moment(), list[Done]()
        loads = [one.scaled(self._scale) for one in row.loads]
        for one in loads:
            if one.scenario == "group":
                await self._make_groups(one)
        if row.new_edges:
            await self._new_edges()
        before = self._edges()
        try:
            for one in loads:
                await self._scale_to(one.edges)
                if row.search:
                    await self._search(row, one, runs)
                else:
                    runs.append(await self._run(row, one))
        finally:
            await self._scale_to(before)
        return Outcome(row=row.name, machine=machine, runs=runs)

    async def ask(self, row: Row, stores: StoreCluster | None) -> Outcome:
        """All runs of a row of probes; `stores` is there where one of them wants a store. Raises SetupError."""
        machine, runs = (self._facts or await trio.to_thread.run_sync(facts)) | moment(), list[Done]()
        for probe in (one.scaled(self._scale) for one in row.probes):
            words = ["store", *probe.words()]
            if stores is None or not probe.store:
                await self._log(probe.log)
                folder, reporting = self._folder, self._report
            else:
                await stores.have(probe.store, probe.archived)
                if probe.moves:
                    stores.archiving()
                folder, reporting = stores.folder, stores.report
            shown = shlex.join(["chat", *words, "--state", str(folder)])
            self._say(f"{row.name}: {shown}")
            report = await reporting([*words, *([] if self._progress else ["--quiet"])])
            report.command = shown
            if probe.store:
                report.notes = {"rows in the store": probe.store, **report.notes}
            runs.append(Done(command=shown, report=report))
        return Outcome(row=row.name, machine=machine, runs=runs)

    async def _report(self, words: Sequence[str]) -> Report:
        return await run_report([*words, "--state", str(self._folder)])

    async def _log(self, records: int) -> None:
        """So many records in the log, the last of them messages that went all the way."""
        words = chat("store", "log", "--records", str(records), "--state", str(self._folder))
        await trio.run_process(words, capture_stdout=True)
        await self._ready()
        options = {"connections": TRACED, "rate": 100.0, "duration": 10.0, "warmup": 0.0}
        await self._load([*Load("direct", options).scaled(self._scale).words(), "--state", str(self._folder)])
        await self._ready()

    # ------------------------------------------------------------------ runs

    async def _warm_up(self) -> None:
        """Once, before the first row: a broker that has just been started spends its first minute compiling itself."""
        if not self._warm:
            self._warm = True
            await self._ready()
            options = {"connections": 100, "rate": 400.0, "duration": WARM_S, "warmup": 0.0}
            self._say("warming up")
            await self._load([*Load("direct", options).scaled(self._scale).words(), "--state", str(self._folder)])

    async def _search(self, row: Row, load: Load, runs: list[Done]) -> None:
        rate = load.options["rate"]
        assert isinstance(rate, float)
        search = Search(rate, runs=self.runs)
        while (trying := search.next) is not None:
            runs.append(await self._run(row, load.having(rate=trying)))
            search.tell(holds(runs[-1].report))
            self._say(f"{row.name}: {trying}/s {'holds' if holds(runs[-1].report) else 'does not hold'}")
        if (best := search.best) is None:
            return
        for _ in range(CONFIRMATIONS):
            duration = max(2.0, CONFIRM_S * self._scale)
            runs.append(await self._run(row, load.having(rate=round(best), duration=duration)))
            if holds(runs[-1].report):
                return
            best *= LESS

    async def _run(self, row: Row, load: Load) -> Done:
        await self._ready()
        words = [*load.words(), "--state", str(self._folder)]
        shown = shlex.join(["chat", "load", *words])
        if load.edges:
            shown = f"chat scale --state {self._folder} --edges {load.edges} && {shown}"
        self._say(f"{row.name}: {shown}")
        report = await self._load(words)
        report.command = shown
        if report.failed:
            self._say(f"{row.name}: {'; '.join(report.failed)}")
        return Done(command=shown, report=report)

    async def _load(self, words: Sequence[str]) -> Report:
        return await run_report(["load", *words, *([] if self._progress else ["--quiet"])])

    # ------------------------------------------------------------------ the cluster

    def _edges(self) -> int:
        found = self._state.processes()
        return found.wanted["edges"] if found else 0

    async def _scale_to(self, edges: int) -> None:
        if edges in (0, self._edges()):
            return
        await tell(self._state, {"do": "scale", "edges": edges}, f"the cluster was not scaled to {edges} edges")
        await self._ready()

    async def _make_groups(self, load: Load) -> None:
        """In a run of its own, so that the one that is measured finds them."""
        size, connections = load.options["group-size"], load.options["connections"]
        assert isinstance(size, int)
        assert isinstance(connections, int)
        known = load_accounts(self._folder / USERS_FILE).groups.get(str(size), [])
        if len(known) < connections // size:
            self._say("the groups are made first")
            await self._load([*load.having(duration=1.0).words(), "--state", str(self._folder)])

    async def _new_edges(self) -> None:
        found = self._state.processes()
        names = [entry.name for entry in found.processes if entry.role == "edge"] if found else []
        await tell(self._state, {"do": "restart", "names": names}, "the edges were not started anew")
        await self._ready()

    async def _ready(self) -> None:
        """Everything runs, and nothing of the last run is left to be done. Raises SetupError."""
        await wait_ready(self._state, READY_S, self._say)
        idle = 0
        with trio.move_on_after(QUIET_S):
            while idle < 2:  # the figure is a second old at most
                await trio.sleep(1.1)
                lag = await trio.to_thread.run_sync(_lag, find_cluster(self._folder).metrics, abandon_on_cancel=True)
                idle = idle + 1 if lag == 0 else 0
            return
        raise SetupError(f"routers or persists still lag behind after {QUIET_S:g} s")


def _lag(addresses: Sequence[str]) -> float | None:
    """Records that wait to be routed or stored; None where a process does not answer."""
    lag = 0.0
    for address in addresses:
        text = None
        with suppress(URLError, TimeoutError, ConnectionError), urlopen(f"http://{address}/metrics", timeout=2) as answer:
            text = answer.read().decode()
        if text is None:
            return None
        for family in text_string_to_metric_families(text):
            if family.name in _LAGS:
                lag += sum(sample.value for sample in family.samples)
    return lag
