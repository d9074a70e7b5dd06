"""`chat up`, `chat down`, `chat status`, `chat scale`, `chat restart`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trio

from chat.errors import SetupError
from chat.logs import set_up_logs
from chat.settings import Loaded
from chat.tools.assembly import parts_wanted
from chat.tools.cluster import WANTED, bring_up, check_machine, next_lines, take_down, wait_ready
from chat.tools.control import ask
from chat.tools.options import with_settings
from chat.tools.state import State, state_of
from chat.tools.supervisor import Supervisor

DONE, FAILED, UNREACHABLE = 0, 1, 3


def with_state(function: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--state",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".chat"),
        show_default=True,
        metavar="FOLDER",
        help="Where the cluster's state lies.",
    )
    return option(function)


@click.command()
@with_state
@click.option("--foreground", is_flag=True, help="Be the supervisor, until SIGTERM (for systemd, or to look on).")
@click.option("--owner", type=int, metavar="PID", help="Stop the cluster when this process has ended.")
@click.option("--selftest/--no-selftest", "testing", default=True, help="Send a message through the new cluster at the end.")
@with_settings("up", ("nginx",), cluster=False)
def up(loaded: Loaded, folder: Path, foreground: bool, owner: int | None, testing: bool) -> int:
    """Run a whole cluster here, and return when it is ready.

    Where it runs already, the numbers of edges, routers and persists that are given are made so; nothing else is changed.
    """
    state = State(folder)
    if foreground:
        set_up_logs(loaded.config, role="supervisor", pid=os.getpid())
        trio.run(Supervisor(state, loaded.config, owner).run)
        return DONE
    check_machine(loaded.config)
    found = trio.run(bring_up, state, loaded, owner, testing)
    if found.wanted["edges"] and "nginx" in parts_wanted(loaded.config):
        click.echo("Now chat, in two terminals:", err=True)
        for line in next_lines(found.front):
            click.echo(line)
    return DONE


@click.command()
@with_state
@click.option("--now", is_flag=True, help="Do not give edges, routers and persists the time to drain.")
def down(folder: Path, now: bool) -> int:
    """Stop the cluster, and whatever a supervisor that died has left of it. Its data stays."""
    trio.run(take_down, State(folder), now)
    return DONE


@click.command()
@with_state
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(folder: Path, as_json: bool) -> int:
    """What runs, by which pid, where. Exit code 3: nothing does; 1: not everything that should."""
    state = State(folder)
    found = state.processes()
    entries = [found.supervisor, *found.processes] if found else []
    rows = [{"name": e.name, "role": e.role, "pid": e.pid, "address": e.address, "state": state_of(e)} for e in entries]
    if as_json:
        click.echo(json.dumps({"processes": rows, "front": found.front if found else ""}))
    else:
        for row in rows:
            click.echo("{name:12} {state:10} {pid!s:>8}  {address}".format(**row))
    if found is None or all(row["state"] == "stopped" for row in rows):
        click.echo(f"no cluster runs in {state.folder}; chat up starts one", err=True)
        return UNREACHABLE
    if found.failed:
        click.echo(found.failed, err=True)
    return DONE if all(row["state"] == "running" for row in rows) else FAILED


@click.command()
@with_state
@click.option("--edges", type=click.IntRange(0, 99))
@click.option("--routers", type=click.IntRange(0, 99))
@click.option("--persists", type=click.IntRange(0, 99))
@click.option("--wait", "seconds", type=float, default=60.0, show_default=True, help="Seconds to wait for it.")
def scale(folder: Path, seconds: float, **numbers: int | None) -> int:
    """Change how many run. Edges that go drain first: their clients move to the others."""
    given = {name: number for name, number in numbers.items() if number is not None}
    if not given:
        raise click.UsageError(f"give any of {', '.join('--' + name for name in WANTED)}")
    trio.run(_asked, State(folder), {"do": "scale", **given}, seconds)
    return DONE


@click.command()
@with_state
@click.argument("names", nargs=-1)
@click.option("--rolling", is_flag=True, help="All edges, routers and persists, one after the other.")
def restart(folder: Path, names: tuple[str, ...], rolling: bool) -> int:
    """Restart the parts with these names; each is ready again before the next is stopped."""
    state = State(folder)
    found = state.processes()
    chosen = list(names)
    if rolling and found:
        chosen += [
            e.name for e in found.processes if e.role in ("persist", "archiver", "router", "edge") and e.name not in chosen
        ]
    if not chosen:
        raise click.UsageError("name parts, or give --rolling")
    trio.run(_asked, state, {"do": "restart", "names": chosen}, 60.0 * len(chosen))
    return DONE


async def _asked(state: State, request: dict[str, Any], seconds: float) -> None:
    """Ask the supervisor, and wait until it has done so and everything runs."""
    answer = await ask(state, request)
    if answer is None:
        raise SetupError(f"no supervisor answers in {state.folder}; chat up starts one")
    if "error" in answer:
        raise SetupError(answer["error"])
    await wait_ready(state, seconds)
