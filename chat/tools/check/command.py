"""`chat check`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click
import trio

from chat.tools.check.check import check
from chat.tools.check.options import CheckOptions
from chat.tools.check.report import CheckReport
from chat.tools.load.cluster import find_cluster


@click.command("check")
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="HOST:PORT",
    help="Where clients connect; may be given several times. Default: nginx of --state.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".chat"),
    show_default=True,
    metavar="FOLDER",
    help="The folder of the cluster of `chat up`.",
)
@click.option("--users", type=click.IntRange(2, 500), default=6, show_default=True)
@click.option("--groups", type=click.IntRange(0, 50), default=2, show_default=True)
@click.option("--group-size", type=click.IntRange(1), default=4, show_default=True)
@click.option("--devices", type=click.IntRange(1, 10), default=2, show_default=True, help="Of each user.")
@click.option("--duration", type=click.FloatRange(1), default=20.0, show_default=True, help="Seconds of traffic.")
@click.option("--rate", type=click.FloatRange(0.1, 1_000), default=20.0, show_default=True, help="Messages a second.")
@click.option("--churn", is_flag=True, help="Devices come and go, lose their state, appear anew.")
@click.option("--settle", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds for the rest to come.")
@click.option("--seed", type=int, help="Makes the choices repeatable; chosen and told where it is not given.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def check_command(
    *, servers: tuple[str, ...], state: Path, as_json: bool, quiet: bool, seed: int | None, **given: Any
) -> int:
    """Is what is accepted shown once, in order, on every device, and is it once in every history?

    Anything between the clients and the servers may be killed meanwhile. Exit code 1 if something is wrong.
    """
    where = servers or [":".join(map(str, find_cluster(state).server()))]
    options = CheckOptions(servers=where, seed=secrets.randbelow(2**31) if seed is None else seed, **given)

    async def run() -> CheckReport:
        return await check(options, say=None if quiet else lambda line: click.echo(line, err=True))

    report = trio.run(run)
    click.echo(report.to_json() if as_json else str(report))
    return 0 if report.ok else 1
