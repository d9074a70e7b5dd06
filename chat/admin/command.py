"""`chat admin`: what an operator does to a running cluster, from any machine that reaches its servers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from chat.admin import console
from chat.admin.console import as_json, show
from chat.admin.dead import dead
from chat.admin.new_generation import new_generation
from chat.admin.online import Online
from chat.admin.users import groups, open_office, users
from chat.bridge import open_memory
from chat.config import Config
from chat.settings import Loaded
from chat.tools.options import SERVERS, with_settings


@click.group()
def admin() -> None:
    """Users, groups, edges, dead records, a new generation of the log."""


@admin.command()
@as_json
@with_settings(others=("redis",))
def edges(loaded: Loaded, as_json: bool) -> None:
    """The edges, their leases, and how many sessions each holds."""

    async def work(config: Config) -> list[dict[str, Any]]:
        async with open_memory(config.redis) as memory:
            online = Online(memory, config.redis.prefix)
            held = Counter((s.edge, s.incarnation) for s in await online.everyone())
            rows = []
            for name, lease in (await online.edges()).items():
                state = "gone" if lease is None else "draining" if lease.draining else "leased"
                sessions = held[name, str(lease.incarnation)] if lease else 0
                rows.append(
                    {
                        "edge": name,
                        "state": state,
                        "address": lease.address if lease else None,
                        "weight": lease.weight if lease else None,
                        "incarnation": lease.incarnation if lease else None,
                        "sessions": sessions,
                        "dead_locations": sum(n for (edge, _), n in held.items() if edge == name) - sessions,
                    }
                )
            return rows

    show(console.run(loaded, work), as_json, "no edge has ever leased")


@admin.command()
@click.argument("edge")
@click.option("--seconds", type=click.FloatRange(1, 3_600), help="Wait so long; default: [edge] drain_s and 10 s.")
@with_settings(others=SERVERS)
def drain(loaded: Loaded, edge: str, seconds: float | None) -> None:
    """Let an edge take no new clients, send its own away, and end. Whatever started it (systemd with Restart=always,
    `chat up`) may start it again: stop it there, if it is to stay away."""

    async def work(config: Config) -> None:
        async with open_office(config) as office:
            await office.control.drain(edge, seconds or config.edge.drain_s + 10)

    console.run(loaded, work)
    click.echo(f"{edge} has drained and given up its lease")


for command in (users, groups, dead, new_generation):
    admin.add_command(command)
