"""The supervisor of `chat up`: keeps the wanted parts running. It is written to be killed: what runs stays, its file says
what that is, and the next supervisor takes it over or ends it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog
import trio

from chat.bridge import open_bridge, open_memory
from chat.config import Config
from chat.errors import PartError, SetupError
from chat.tools.assembly import ORDER, Assembly
from chat.tools.control import Request, serve_control
from chat.tools.logfiles import keep_small
from chat.tools.nginx import read_leases, rewrite_stream, watch
from chat.tools.parts import Part
from chat.tools.running import Running, boot_id, look
from chat.tools.slot import Slot
from chat.tools.state import MARK, Entry, Processes, State, kill_all, leftovers

log = structlog.get_logger()

SERVICES: Final = ("edges", "routers", "persists")
ROLES: Final = {"edges": "edge", "routers": "router", "persists": "persist"}
#: What is started once topics and tables are there, and stopped first.
SERVING: Final = frozenset({*ROLES.values(), "archiver"})
#: nginx waits this long for the first edges.
EDGES_S: Final = 15.0
#: Exit code of a command whose server did not answer.
UNREACHABLE: Final = 3
#: A frozen service is given this long to stop when `now` was asked.
NOW_S: Final = 0.5


class Supervisor:
    """Holds the state folder for as long as it runs."""

    def __init__(self, state: State, config: Config, owner: int | None = None) -> None:
        """`owner`: a pid; when it ends, so does the cluster."""
        self._state = state
        self._owner = owner
        self._given = config
        self._wanted = {name: getattr(config.up, name) for name in SERVICES}
        self._slots: dict[str, Slot] = {}
        self._notes: list[str] = []
        self._failed = ""
        self._prepared = False
        self._restarting = 0
        self._stop = trio.Event()
        self._now = False
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "NOTIFY_"))},
            MARK: str(state.folder),
        }

    async def run(self) -> None:
        """Return when everything has been stopped. Raises SetupError."""
        with self._state.hold() as mine:
            if not mine:
                raise SetupError(f"a supervisor runs already in {self._state.folder}")
            _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            before = self._state.processes()
            alive = self._adoptable(before)
            # First what is nobody's: the port of an nginx whose workers have outlived it is not another's.
            await self._clean(frozenset(running.pid for running, _, _ in alive.values()))
            self._assembly = Assembly(self._state, self._given, frozenset(alive), self._tell)
            servers, services = self._assembly.servers(), self._assembly.services(self._wanted)
            front = self._assembly.front()
            self._assembly.keep()
            parts = [*servers, *services, *([front] if front else [])]
            adopted = {p.name: alive[p.name] for p in parts if p.name in alive and p.fingerprint == alive[p.name][1]}
            await self._clean(frozenset(running.pid for running, _, _ in adopted.values()))
            for part in parts:
                self._slots[part.name] = slot = Slot(part, self._state, self._environ, self._changed)
                if part.name in adopted:
                    slot.adopt(adopted[part.name][0], adopted[part.name][2])
            self._changed()
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._signals)
                self._nursery.start_soon(self._watch_owner)
                self._nursery.start_soon(serve_control, self._state, self._control)
                self._nursery.start_soon(keep_small, self._state.logs, self._given.up.log_mb << 20)
                async with trio.open_nursery() as self._up:
                    self._up.start_soon(self._bring_up, servers, front)
                    await self._stop.wait()
                    self._up.cancel_scope.cancel()
                await self._take_down()
                self._nursery.cancel_scope.cancel()
            self._state.forget_processes()

    # ------------------------------------------------------------------ what was there before

    def _adoptable(self, before: Processes | None) -> dict[str, tuple[Running, str, bool]]:
        """Name → process, fingerprint, was it ready. One that was not, and has its word to say to a supervisor that is
        gone, is of no use."""
        found = {}
        for entry in before.processes if before else ():
            if entry.identity and entry.state in ("running", "starting") and (running := Running.adopt(entry.identity)):
                found[entry.name] = (running, entry.fingerprint, entry.state == "running")
        return {name: it for name, it in found.items() if it[2] or name in ("kafka", "redis", "mariadb", "nginx")}

    async def _clean(self, keep: frozenset[int]) -> None:
        left = leftovers(self._state, keep)
        if not left:
            return
        log.warning("leftovers_stopped", pids=[identity.pid for identity in left])
        kill_all(left, signal.SIGTERM)
        kill_all(left, signal.SIGCONT)
        with trio.move_on_after(10):
            while leftovers(self._state, keep):  # noqa: ASYNC110 - they are nobody's children
                await trio.sleep(0.1)
            return
        kill_all(leftovers(self._state, keep), signal.SIGKILL)

    # ------------------------------------------------------------------ up

    async def _bring_up(self, servers: Iterable[Part], front: Part | None) -> None:
        for slot in self._slots.values():  # what was taken over is watched from now on
            if slot.running:
                self._start(slot.part.name)
        for part in servers:
            self._start(part.name)
        async with trio.open_nursery() as nursery:  # each as soon as its server is there
            if sum(self._wanted.values()):
                nursery.start_soon(self._prepare, "kafka", "topics", "create")
                nursery.start_soon(self._prepare, "mariadb", "migrate")
            for part in servers:
                await self._slots[part.name].ready.wait()
        for slot in list(self._slots.values()):
            if slot.part.role in SERVING:
                self._start(slot.part.name)
        self._prepared = True
        self._reconcile()
        if front:
            with trio.move_on_after(EDGES_S):  # it need not be told of each of them, if they come soon
                for slot in [s for s in self._slots.values() if s.part.role == "edge"]:
                    await slot.ready.wait()
            rewrite_stream(self._state.folder / "nginx", self._assembly.config.nginx)
            self._up.start_soon(self._watch_leases)
            self._start(front.name)

    def _start(self, name: str) -> None:
        slot = self._slots[name]
        if not slot.started:
            slot.started = True
            self._nursery.start_soon(slot.keep)

    async def _prepare(self, server: str, *words: str) -> None:
        """Topics and tables, by the commands that a person has for it. Tried again until a server that was just started
        takes it; what a person must mend is told in the status."""
        if server in self._slots:
            await self._slots[server].ready.wait()
        pause = 0.5
        while (code := await self._command(*words)) != 0:
            self._failed = f"chat {' '.join(words)} failed; see {self._state.log('set-up')}" if code != UNREACHABLE else ""
            self._changed()
            await trio.sleep(pause)
            pause = min(pause * 2, 10)
        self._failed = ""

    async def _command(self, *words: str) -> int:
        command = (sys.executable, "-m", "chat", *words, "--config", str(self._state.settings))
        with self._state.log("set-up").open("ab") as output:
            done = await trio.run_process(command, stdout=output, stderr=output, check=False, env=self._environ)
        return done.returncode

    async def _watch_leases(self) -> None:
        """nginx follows the edges. Begun anew with a pause where Redis or its driver makes trouble."""
        folder, pause = self._state.folder / "nginx", 0.5
        while True:
            try:
                async with open_bridge(), open_memory(self._assembly.config.redis) as memory:
                    read = partial(read_leases, memory, self._assembly.config.redis.prefix)
                    await watch(self._assembly.config.nginx, folder, read, self._reload)
            except* (PartError, OSError) as error:
                log.error("lease_watch_failed", error=repr(error))
            await trio.sleep(pause)
            pause = min(pause * 2, 10)

    def _reload(self) -> None:
        self._up.start_soon(self._reload_when_ready, self._slots["nginx"])

    async def _reload_when_ready(self, slot: Slot) -> None:
        """Not before: SIGHUP ends a process that has not set up its signals; and it may have read the file before."""
        await slot.ready.wait()
        if slot.running:
            slot.running.signal(signal.SIGHUP)

    def _reconcile(self) -> None:
        """Start and stop services until they are those wanted."""
        desired = {part.name: part for part in self._assembly.services(self._wanted)}
        self._assembly.keep()
        for name, part in desired.items():
            if name not in self._slots:
                self._slots[name] = Slot(part, self._state, self._environ, self._changed)
                self._start(name)
        for name, slot in list(self._slots.items()):
            if slot.part.role in SERVING and name not in desired and slot.state != "stopping":
                self._nursery.start_soon(self._remove, name)
        self._changed()

    async def _remove(self, name: str) -> None:
        slot = self._slots[name]
        await slot.stop()
        del self._slots[name]
        self._assembly.release(name)
        self._changed()
        self._reconcile()  # it may be wanted again by now

    # ------------------------------------------------------------------ down

    async def _take_down(self) -> None:
        """Services first, then the front, then the servers: each kind together, in the reverse of the order of starting."""
        stages = [("edge",), ("router", "persist", "archiver"), ("nginx",), ("kafka", "redis", "mariadb")]
        for stage in stages:
            async with trio.open_nursery() as nursery:
                for slot in self._slots.values():
                    if slot.part.role in stage:
                        nursery.start_soon(self._end, slot)

    async def _end(self, slot: Slot) -> None:
        if slot.started:
            quick = self._now and slot.part.role in SERVING
            await slot.stop(NOW_S if quick else None)

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self._stop.set()

    async def _watch_owner(self) -> None:
        if self._owner is None:
            return
        try:
            pidfd = os.pidfd_open(self._owner)
        except ProcessLookupError:
            pidfd = -1
        if pidfd >= 0:
            await trio.lowlevel.wait_readable(pidfd)
        log.warning("owner_gone", pid=self._owner)
        self._now = True
        self._stop.set()

    # ------------------------------------------------------------------ asked and told

    def _control(self, request: Request) -> Request:
        match request:
            case {"do": "stop"}:
                self._now = bool(request.get("now"))
                self._stop.set()
            case {"do": "scale", **numbers}:
                if any(name not in SERVICES or not isinstance(n, int) or not 0 <= n < 100 for name, n in numbers.items()):
                    return {"error": f"not understood: {numbers}"}
                self._wanted |= numbers
                self._changed()
                if self._prepared:
                    self._reconcile()
            case {"do": "restart", "names": [*names]}:
                if unknown := [name for name in names if name not in self._slots]:
                    return {"error": f"not here: {', '.join(map(str, unknown))}"}
                self._restarting += 1
                self._changed()
                self._up.start_soon(self._restart, names)
            case _:
                return {"error": f"not understood: {request}"}
        return {"ok": True}

    async def _restart(self, names: list[str]) -> None:
        try:
            for name in names:
                if slot := self._slots.get(name):
                    await slot.restart()
        finally:
            self._restarting -= 1
            self._changed()

    def _tell(self, note: str) -> None:
        log.warning(note)
        self._notes.append(note)

    def _changed(self) -> None:
        """Write down what runs."""
        me = look(os.getpid())
        assert me is not None
        order = {role: at for at, role in enumerate(ORDER)}
        slots = sorted(self._slots.values(), key=lambda s: (order[s.part.role], len(s.part.name), s.part.name))
        services = {slot.part.name for slot in slots if slot.part.role in ROLES.values()}
        settled = services == {f"{ROLES[kind]}-{n}" for kind, count in self._wanted.items() for n in range(1, count + 1)}
        processes = Processes(
            boot=boot_id(),
            front=self._assembly.config.nginx.listen,
            wanted=self._wanted,
            supervisor=Entry(
                name="supervisor",
                role="supervisor",
                address="",
                state="running",
                pid=me.identity.pid,
                started=me.identity.started,
            ),
            processes=[slot.entry() for slot in slots],
            notes=self._notes,
            failed=self._failed,
            ready=settled and not self._restarting and all(slot.state == "running" for slot in slots),
        )
        try:
            self._state.keep_processes(processes)
        except OSError as error:  # a full disk: what runs must not suffer from it; it is written at the next change
            log.error("state_not_written", error=str(error))
