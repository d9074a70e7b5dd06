"""The state folder of a cluster, `.chat/`: what was chosen once, what runs, who holds it.

cluster.json     ports, the database's password, Kafka's cluster id: chosen once, kept
cluster.toml     the settings that its processes run with; tools beside them find the cluster by it
processes.json   what runs, with pids and start times; rewritten at each change
lock             held by the supervisor as long as it lives
logs/ kafka/ redis/ mariadb/ nginx/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from chat.tools.parts import write_private
from chat.tools.running import PROC, Identity, boot_id, everyone, group_of, is_alive, is_paused, kill

#: In the environment of everything that a supervisor starts: the folder. Finds what a state file does not know.
MARK: Final = "CHAT_SUPERVISED_BY"


class Entry(Struct, kw_only=True):
    """One process of the cluster. `state`: starting, running, waiting (to be started again), stopping, stopped."""

    name: str
    role: str
    address: str
    state: str
    pid: int | None = None
    started: int = 0
    fingerprint: str = ""
    restarts: int = 0

    @property
    def identity(self) -> Identity | None:
        return Identity(self.pid, self.started) if self.pid else None


class Processes(Struct, kw_only=True):
    boot: str
    front: str
    wanted: dict[str, int]  # edges, routers, persists
    supervisor: Entry
    processes: list[Entry]
    notes: list[str] = []  # what its user should know: a port that was taken …
    failed: str = ""  # why nothing can come of it: a person must act
    ready: bool = False  # everything that is wanted is running


class Chosen(Struct, kw_only=True):
    ports: dict[str, int]
    password: str
    kafka_cluster: str


class State:
    """The folder. Its path is absolute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.settings = self.folder / "cluster.toml"
        self.logs = self.folder / "logs"
        self._processes = self.folder / "processes.json"
        self._chosen = self.folder / "cluster.json"
        self._lock = self.folder / "lock"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """The folder, closed to others: it holds what people write to each other."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.logs.mkdir(exist_ok=True)

    # ---- chosen once

    def chosen(self) -> Chosen:
        """What was chosen before, or new choices without ports."""
        if self._chosen.is_file():
            return msgspec.json.decode(self._chosen.read_bytes(), type=Chosen)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        return Chosen(ports={}, password=secrets.token_hex(16), kafka_cluster=cluster)

    def keep_chosen(self, chosen: Chosen) -> None:
        write_private(self._chosen, json.dumps(msgspec.to_builtins(chosen), indent=1) + "\n")

    # ---- what runs

    def processes(self) -> Processes | None:
        """What the last supervisor wrote, if the machine was not started anew since."""
        if not self._processes.is_file():
            return None
        found = msgspec.json.decode(self._processes.read_bytes(), type=Processes)
        return found if found.boot == boot_id() else None

    def keep_processes(self, processes: Processes) -> None:
        write_private(self._processes, json.dumps(msgspec.to_builtins(processes), indent=1) + "\n")

    def forget_processes(self) -> None:
        self._processes.unlink(missing_ok=True)

    # ---- who holds it

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """For the supervisor's life. False: another one has it."""
        self.make()
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def is_held(self) -> bool:
        """Does a supervisor live?"""
        if not self._lock.is_file():
            return False
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def control_address(self) -> str:
        """Of the supervisor's socket: abstract, since a path may have no more than 107 characters."""
        return f"\0chat-{self.chosen().kafka_cluster}"


def state_of(entry: Entry) -> str:
    """As it is now, whatever was written: a process that ended since, or that somebody stopped (SIGSTOP), says so."""
    if entry.identity is None:
        return entry.state
    if not is_alive(entry.identity):
        return "stopped"
    return "paused" if is_paused(entry.identity) else entry.state


def marked(folder: Path) -> Iterator[Identity]:
    """Everything alive that a supervisor of this folder has started, and what that has started."""
    mark = f"{MARK}={folder}".encode()
    for found in everyone():
        if found.identity.pid == os.getpid() or found.letter in "ZX":
            continue
        try:
            environment = (PROC / str(found.identity.pid) / "environ").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0"):
            yield found.identity


def leftovers(state: State, keep: frozenset[int] = frozenset()) -> list[Identity]:
    """What a supervisor that died has left: by its file, by their groups, by their mark. `keep`: pids (also as groups)
    that are somebody's."""
    before = state.processes()
    known = [entry.identity for entry in before.processes if entry.identity] if before else []
    alive = {identity for identity in known if is_alive(identity)}
    for identity in known:
        alive.update(group_of(identity))
    alive.update(marked(state.folder))
    groups = {found.identity: found.group for found in everyone()}
    return [i for i in alive if i.pid not in keep and groups.get(i) not in keep and i.pid != os.getpid()]


def kill_all(identities: list[Identity], number: signal.Signals) -> None:
    for identity in identities:
        kill(identity, number)
