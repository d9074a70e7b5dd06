"""A process that runs: started here, or adopted from a supervisor that died. Both are watched by a pidfd, so a number that
was given to another process is never mistaken for it.

Each part leads a process group of its own. When its leader is gone the rest of the group is killed: nginx's workers would
otherwise keep the port, and clients, of a master that is no more.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import trio

from chat.notify import READY, VARIABLE
from chat.tools.parts import Part

PROC = Path("/proc")


class Identity(NamedTuple):
    """A process among all that ever had its pid since the machine was started: `started` in clock ticks since then."""

    pid: int
    started: int


class Found(NamedTuple):
    identity: Identity
    letter: str  # R, S, T (stopped), Z …
    group: int


def look(pid: int) -> Found | None:
    """What /proc says of a pid; None: no such process. See proc(5), stat."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Found(Identity(pid, int(fields[19])), fields[0], int(fields[2]))


def is_alive(identity: Identity) -> bool:
    found = look(identity.pid)
    return found is not None and found.identity == identity and found.letter not in "ZX"


def is_paused(identity: Identity) -> bool:
    found = look(identity.pid)
    return found is not None and found.identity == identity and found.letter in "Tt"


def everyone() -> Iterator[Found]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (found := look(int(entry.name))):
            yield found


def group_of(leader: Identity) -> list[Identity]:
    """Who is in the group of `leader`, which may have ended: its group keeps the number as long as it has members. Empty
    where the number has gone to another process since."""
    now = look(leader.pid)
    if now is not None and now.identity != leader:
        return []
    return [found.identity for found in everyone() if found.group == leader.pid and found.letter not in "ZX"]


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


class Listener:
    """Hears READY=1 from one process. The address is abstract: no file, no limit of length, gone with the socket."""

    def __init__(self) -> None:
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@chat-{os.getpid()}-{os.urandom(8).hex()}"

    async def open(self) -> None:
        await self._socket.bind("\0" + self.address[1:])

    async def ready(self) -> None:
        """Return when it has said so. Cancel-safe."""
        while READY not in (await self._socket.recv(4096)).split(b"\n"):
            pass

    def close(self) -> None:
        self._socket.close()


class Running:
    """A live process and its group."""

    def __init__(self, identity: Identity, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.identity = identity
        self._pidfd = pidfd
        self._child = child
        self.ended = trio.Event()

    @classmethod
    def start(cls, part: Part, log: Path, environ: Mapping[str, str], notify: str) -> Running:
        """Raises OSError. Blocks for some milliseconds."""
        environment = {**environ, **part.environment, VARIABLE: notify}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                part.command,
                cwd=part.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        pidfd = os.pidfd_open(child.pid)  # ours and not yet waited for: it cannot be another's
        found = look(child.pid)
        assert found is not None
        return cls(found.identity, pidfd, child)

    @classmethod
    def adopt(cls, identity: Identity) -> Running | None:
        """A process that was started by somebody else; None when it is gone."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except OSError:
            return None
        if is_alive(identity):
            return cls(identity, pidfd, None)
        os.close(pidfd)
        return None

    @property
    def pid(self) -> int:
        return self.identity.pid

    def signal(self, number: signal.Signals) -> None:
        if self.ended.is_set():
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    async def exited(self) -> int | None:
        """Return when the process has ended, with its exit code (negative: the signal) or, for one that was adopted, None.
        What is left of its group is killed. For one task; cancel-safe, and to be called again after a cancellation."""
        await trio.lowlevel.wait_readable(self._pidfd)
        self._kill_rest()
        os.close(self._pidfd)
        self.ended.set()
        return self._child.wait() if self._child else None

    def _kill_rest(self) -> None:
        if self._child:  # not waited for yet, so the group's number is still its own
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return
            return
        for identity in group_of(self.identity):
            kill(identity, signal.SIGKILL)

    async def stop(self, seconds: float) -> None:
        """SIGTERM (and SIGCONT, for one that is stopped would not hear it), then SIGKILL; return when it has ended, which
        the task in `exited` tells. Cancelled: it has had its SIGTERM."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        with trio.move_on_after(seconds):
            await self.ended.wait()
            return
        self.signal(signal.SIGKILL)
        await self.ended.wait()


def kill(identity: Identity, number: signal.Signals) -> bool:
    """Signal exactly this process. False: it is gone."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
