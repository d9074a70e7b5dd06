"""A cluster of real processes, to be looked at, killed and stopped. It ends with the process of the tests, even if that is
killed."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import trio

from chat.config import Config
from chat.settings import load
from chat.tools.cluster import bring_up, take_down, wait_ready
from chat.tools.control import ask
from chat.tools.running import group_of, kill
from chat.tools.state import Entry, Processes, State, state_of

T = TypeVar("T")

#: Below the ports that the kernel gives to outgoing connections.
PORTS = range(12_000, 31_000, 100)


def in_thread(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run a trio function from synchronous code that may itself be inside a trio test (a session's fixture, first asked
    for by an asynchronous one)."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(trio.run(function, *args))
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found


class Cluster:
    """What `chat up` runs in `folder`. Names are those of `chat status`: kafka, edge-1 …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State(folder)
        self._settings: Mapping[str, Any] = {}  # that it was brought up with

    # ---- what there is

    @property
    def processes(self) -> Processes:
        found = self.state.processes()
        assert found is not None, f"no cluster in {self.folder}"
        return found

    def entry(self, name: str) -> Entry:
        """As it is now. KeyError: no such part."""
        found = self.processes
        for entry in (found.supervisor, *found.processes):
            if entry.name == name:
                return entry
        raise KeyError(name)

    def pid(self, name: str) -> int:
        pid = self.entry(name).pid
        assert pid is not None, f"{name} does not run"
        return pid

    def address(self, name: str) -> str:
        return self.entry(name).address

    def names(self, role: str) -> list[str]:
        return [entry.name for entry in self.processes.processes if entry.role == role]

    @property
    def front(self) -> str:
        return self.processes.front

    @property
    def config(self) -> Config:
        """The settings that its processes run with."""
        return load(self.state.settings, {}).config

    def log(self, name: str) -> str:
        return self.state.log(name).read_text(errors="replace")

    # ---- what is done to it

    def kill(self, name: str) -> int:
        """kill -9; the pid that it had."""
        return self.signal(name, signal.SIGKILL)

    def terminate(self, name: str) -> int:
        """SIGTERM, for which it has an orderly answer; the pid that it had."""
        return self.signal(name, signal.SIGTERM)

    def hit(self, name: str, number: signal.Signals) -> None:
        """If it runs just now."""
        identity = self.entry(name).identity
        if identity is not None:
            kill(identity, number)

    def kill_all_of(self, name: str) -> None:
        """kill -9 of its whole process group: nginx's workers outlive their master until the supervisor ends them."""
        identity = self.entry(name).identity
        assert identity is not None, f"{name} does not run"
        for each in (identity, *group_of(identity)):
            kill(each, signal.SIGKILL)

    def pause(self, name: str) -> int:
        return self.signal(name, signal.SIGSTOP)

    def go_on(self, name: str) -> int:
        return self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: signal.Signals) -> int:
        entry = self.entry(name)
        assert entry.identity is not None, f"{name} does not run"
        assert kill(entry.identity, number), f"{name} has just ended"
        return entry.identity.pid

    async def back(self, name: str, before: int, seconds: float = 30) -> int:
        """Wait until it runs again and is ready, by another pid than `before`; that pid."""
        await self.until(lambda: state_of(self.entry(name)) == "running" and self.entry(name).pid != before, seconds)
        return self.pid(name)

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        with trio.move_on_after(seconds):
            while not condition():  # noqa: ASYNC110 - it is about other processes
                await trio.sleep(0.02)
            return
        states = {entry.name: state_of(entry) for entry in self.processes.processes}
        raise AssertionError(f"not so after {seconds:g} s; the parts: {states}")

    async def scale(self, **numbers: int) -> None:
        """edges, routers, persists; returns when they are ready."""
        assert await ask(self.state, {"do": "scale", **numbers}) == {"ok": True}
        await wait_ready(self.state, 60, quiet)

    async def restart(self, *names: str) -> None:
        assert await ask(self.state, {"do": "restart", "names": list(names)}) == {"ok": True}

    async def up(self, settings: Mapping[str, Any]) -> None:
        """`settings`: "up.edges" → 2. As `chat up`, without its self-test."""
        self._settings = settings
        flags = {tuple(name.split(".")): value for name, value in settings.items()}
        loaded = load(None, {}, flags, cluster=False)
        await bring_up(self.state, loaded, os.getpid(), False, quiet)

    async def up_again(self, **more: Any) -> None:
        """As before, when its supervisor has died or it was taken down; `more` settings for this time and later."""
        await self.up({**self._settings, **more})

    async def down(self) -> None:
        await take_down(self.state, True, quiet)


@contextmanager
def own_ports() -> Iterator[int]:
    """The first of a hundred that no other run of these tests gets meanwhile: what is free now may be that of a server that
    was just killed. (Not by `random`: Hypothesis gives all runs the same choices.)"""
    for first in SystemRandom().sample(PORTS, len(PORTS)):
        with Path(tempfile.gettempdir(), f"chat-test-ports-{first}").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield first
            return
    raise RuntimeError("other runs of these tests have all the ports")


def quiet(line: str) -> None:
    """What is told to a person is not told to tests."""


@contextmanager
def run_cluster(folder: Path, settings: Mapping[str, Any]) -> Iterator[Cluster]:
    """Up, and at the end down whatever happened."""
    cluster = Cluster(folder)
    with own_ports() as first:
        try:
            in_thread(cluster.up, {"up.first_port": first, "up.mysql_pool_mb": 64, **settings})
            yield cluster
        finally:
            in_thread(cluster.down)
