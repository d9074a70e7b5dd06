"""Starting and ending a supervisor, and waiting for what it does: what `chat up` and the test harness share."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import trio

from chat.config import Config, NginxConfig
from chat.errors import SetupError
from chat.settings import Loaded, to_toml
from chat.tools import programs
from chat.tools.assembly import parts_wanted
from chat.tools.control import ask
from chat.tools.logfiles import last_lines
from chat.tools.parts import write_private
from chat.tools.running import is_alive, kill
from chat.tools.selftest import selftest
from chat.tools.sockets import remove, socket_folder
from chat.tools.state import Processes, State, kill_all, leftovers, state_of

WANTED: Final = ("edges", "routers", "persists")
#: Longer than the longest drain and the slowest server.
DOWN_S: Final = 75.0

#: From its start until a supervisor answers, on a busy machine.
ANSWER_S: Final = 15.0

Tell = Callable[[str], None]


def say(line: str) -> None:
    click.echo(line, err=True)


def check_machine(config: Config) -> None:
    """Raises SetupError where a program is missing: here, before anything is started, its user sees it."""
    wanted = parts_wanted(config)
    if "kafka" in wanted:
        programs.find_java()
        programs.find_jars()
    if "redis" in wanted:
        programs.find(programs.REDIS)
    if "mariadb" in wanted:
        programs.find(programs.MARIADB)
    if "nginx" in wanted:
        programs.find_stream_module(config.nginx.module)


async def bring_up(state: State, loaded: Loaded, owner: int | None, testing: bool, tell: Tell = say) -> Processes:
    """Start a supervisor in the state folder, or scale the one that is there; return when everything runs. Raises
    SetupError: it died, a person must act, or the time is over (then it goes on trying)."""
    config = loaded.config
    given = {
        s.path[1]: s.value for s in loaded.settings if s.source != "default" and s.path[0] == "up" and s.path[1] in WANTED
    }
    supervisor = None
    answer = await ask_the_one_that_runs(state, {"do": "scale", **given})
    if not state.is_held():
        supervisor = start_supervisor(state, loaded, given, owner)
    elif answer == {"ok": True}:
        tell(f"a cluster runs already in {state.folder}")
    else:
        raise SetupError(f"the supervisor in {state.folder} does not scale it: {answer or 'no answer'}; chat down ends it")
    found = await wait_ready(state, config.up.start_s, tell, supervisor)
    if testing and found.wanted.get("edges") and "nginx" in parts_wanted(config):
        await self_test(found, tell)
    return found


async def ask_the_one_that_runs(state: State, request: dict[str, Any]) -> dict[str, Any] | None:
    """None: there is no supervisor, or it says nothing. One that has just been started answers soon; one that has just been
    killed still holds the folder for a moment."""
    with trio.move_on_after(ANSWER_S):
        while state.is_held():
            if (answer := await ask(state, request)) is not None:
                return answer
            await trio.sleep(0.1)
    return None


def start_supervisor(state: State, loaded: Loaded, given: dict[str, Any], owner: int | None) -> int:
    """A daemon: in a session of its own, with the settings in a file, so that neither flags nor environment matter. Its
    pid."""
    state.make()
    before = state.processes()
    numbers = {**(before.wanted if before else {}), **given}  # one that died is followed in what it was asked for
    settings = tuple(
        s._replace(value=numbers[s.path[1]]) if s.path[0] == "up" and s.path[-1] in numbers else s for s in loaded.settings
    )
    asked = state.folder / "asked.toml"
    write_private(asked, to_toml(settings, masked=False, sources=False))
    command = [sys.executable, "-m", "chat", "up", "--foreground", "--state", str(state.folder), "--config", str(asked)]
    if owner is not None:
        command += ["--owner", str(owner)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    log = str(state.log("supervisor"))
    return os.posix_spawn(
        sys.executable,
        command,
        environ,
        file_actions=[
            *((os.POSIX_SPAWN_CLOSE, number) for number in inherited()),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def inherited() -> list[int]:
    """What whoever started us has open and left to us: a daemon must not keep a caller's pipe or lock for days."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def has_ended(child: int) -> bool:
    """Of a supervisor that this process started; it is reaped."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # not ours, or reaped before
        return True


async def wait_ready(state: State, seconds: float, tell: Tell = say, supervisor: int | None = None) -> Processes:
    """Return when everything that is wanted runs; tells of each part as it comes. Raises SetupError."""
    began, told, notes, seen = trio.current_time(), set[str](), 0, False
    found = None
    while trio.current_time() - began < seconds:
        await trio.sleep(0.05)
        if supervisor is not None and has_ended(supervisor):
            raise SetupError(f"the supervisor ended:\n{_tail(state, 'supervisor')}")
        found = state.processes()
        if found is None or (supervisor is not None and found.supervisor.pid != supervisor):
            continue
        if supervisor is None and not state.is_held():
            raise SetupError(f"the supervisor in {state.folder} has ended")
        for note in found.notes[notes:] if supervisor is not None else []:
            tell(note)
            notes += 1
        if not seen and supervisor is None:  # what ran before is no news
            told = {entry.name for entry in found.processes if entry.state == "running"}
        seen = True
        for entry in found.processes:
            if entry.state == "running" and entry.name not in told:
                told.add(entry.name)
                tell(f"{trio.current_time() - began:5.1f} s  {entry.name} runs at {entry.address} (pid {entry.pid})")
        if found.failed:
            raise SetupError(f"{found.failed}\n{_tail(state, 'set-up')}")
        if found.ready:
            return found
    missing = [entry for entry in found.processes if entry.state != "running"] if found else []
    names = ", ".join(f"{entry.name} ({state_of(entry)})" for entry in missing) or "the supervisor"
    tails = "\n".join(_tail(state, entry.name) for entry in missing[:2])
    raise SetupError(f"not ready after {seconds:g} s: {names}; logs are in {state.logs}\n{tails}")


def _tail(state: State, name: str) -> str:
    path = state.log(name)
    lines = last_lines(path, 12)
    return "\n".join([f"--- the end of {path}", *lines]) if lines else ""


async def self_test(found: Processes, tell: Tell) -> None:
    """Raises SetupError when a message did not arrive."""
    edges = [entry.address for entry in found.processes if entry.role == "edge"]
    report = await selftest(found.front, edges)
    tell(f"self-test {'passed' if report.ok else 'FAILED'}\n{report}")
    if not report.ok:
        raise SetupError("the self-test failed: the cluster runs, but does not pass messages on; see chat status")


async def take_down(state: State, now: bool, tell: Tell = say) -> None:
    """Stop the supervisor and all it runs; what is left after that by force. Raises SetupError where even that fails."""
    found = state.processes()
    if not state.is_held() and not leftovers(state):
        state.forget_processes()
        tell(f"no cluster runs in {state.folder}")
        return
    if state.is_held():
        request = {"do": "stop", "now": now}
        if await ask(state, request) is None and found and found.supervisor.identity:
            kill(found.supervisor.identity, signal.SIGCONT)  # somebody may have stopped it
            if await ask(state, request) is None:
                kill(found.supervisor.identity, signal.SIGTERM)
        with trio.move_on_after(DOWN_S):
            while state.is_held():  # noqa: ASYNC110 - another process holds it
                await trio.sleep(0.05)
        if state.is_held() and found and found.supervisor.identity and is_alive(found.supervisor.identity):
            tell("the supervisor does not end: it is killed")
            kill(found.supervisor.identity, signal.SIGKILL)
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        left = leftovers(state)
        kill_all(left, number)
        kill_all(left, signal.SIGCONT)
        with trio.move_on_after(seconds):
            while leftovers(state):  # noqa: ASYNC110 - they are nobody's children
                await trio.sleep(0.05)
    if left := leftovers(state):
        raise SetupError(f"these do not end: {', '.join(str(identity.pid) for identity in left)}")
    state.forget_processes()
    if folder := socket_folder(state.folder):
        remove(folder)
    if found and found.supervisor.pid:
        has_ended(found.supervisor.pid)
    tell("stopped")


def next_lines(front: str) -> list[str]:
    """What to type next, in two terminals, with the same `chat` that was typed."""
    program = Path(sys.argv[0])
    try:
        shown = str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        shown = "chat"
    server = "" if front == NginxConfig().listen else f" --server {front}"
    return [f"{shown} talk alice{server}", f"{shown} talk bob --to alice{server}"]
