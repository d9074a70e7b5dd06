"""`python -m benchmarks`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from typing import Final

import click
import trio

from benchmarks import edge, ordering, persist, publish, router
from benchmarks.measure import Case, Measured, measure
from chat.config import Config
from chat.logs import set_up_logs

CASES: Final[dict[str, Case]] = {
    case.name: case for module in (edge, publish, router, persist, ordering) for case in module.CASES
}


async def run(names: Sequence[str], repetitions: int) -> list[Measured]:
    """In their order; those that cannot be run here are left out."""
    found = [await measure(CASES[name], repetitions) for name in names or CASES]
    return [one for one in found if one is not None]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)), metavar="[NAME]...")
@click.option("--repetitions", type=click.IntRange(1), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def main(names: Sequence[str], repetitions: int, as_json: bool) -> None:
    """µs of CPU a message at each step of its way."""
    set_up_logs(Config(log_level="error"))
    found = trio.run(run, names, repetitions)
    if as_json:
        machine = {"python": platform.python_version(), "load_average": round(os.getloadavg()[0], 2)}
        click.echo(json.dumps({"machine": machine, "cases": [one._asdict() for one in found]}, indent=1))
        return
    for one in found:
        click.echo(f"{one.name:18}{one.median_us:8.2f} µs  ({one.least_us:.2f} to {one.most_us:.2f})  {one.about}")
    for name in names or CASES:
        if name not in {one.name for one in found}:
            click.echo(f"{name:18}     not run  {CASES[name].about}")


if __name__ == "__main__":
    main()
