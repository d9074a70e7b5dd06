"""`chat edge`, `chat router`, `chat persist`: one process each, for those who run them by other means than `chat up`."""

from __future__ import annotations

import importlib
import os

import click
import trio

from chat.errors import SetupError
from chat.logs import set_up_logs
from chat.settings import Loaded
from chat.tools.options import SERVERS, with_settings

#: role → the function that runs until SIGTERM, given the Config. It tells by chat.notify when it is ready.
RUNS = {
    "edge": "chat.edge.server:run_edge",
    "router": "chat.router.service:run_router",
    "persist": "chat.persist.service:run_persist",
}


def run_role(role: str, loaded: Loaded) -> None:
    set_up_logs(loaded.config, role=role, name=getattr(loaded.config, role).name, pid=os.getpid())
    module, _, name = RUNS[role].partition(":")
    try:
        run = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise SetupError(f"chat {role} cannot run here: {error}") from error
    trio.run(run, loaded.config)


@click.command()
@with_settings("edge", SERVERS)
def edge(loaded: Loaded) -> None:
    """Run one edge: it holds clients' connections. SIGTERM drains it."""
    run_role("edge", loaded)


@click.command()
@with_settings("router", SERVERS)
def router(loaded: Loaded) -> None:
    """Run one router: it hands records to the edges of their recipients."""
    run_role("router", loaded)


@click.command()
@with_settings("persist", SERVERS)
def persist(loaded: Loaded) -> None:
    """Run one persist process: it writes the log to the database, exactly once."""
    run_role("persist", loaded)
