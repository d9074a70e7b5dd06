"""`chat bench [ROW]…`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import trio

from chat.errors import SetupError
from chat.settings import Loaded
from chat.tools.bench.conduct import Bench, settings
from chat.tools.bench.render import into, summary
from chat.tools.bench.results import Outcome, keep, latest
from chat.tools.bench.rows import ROWS, Row, wrong
from chat.tools.cluster import check_machine
from chat.tools.project import ROOT

DOCUMENT: Final = ROOT / "docs" / "performance.md"
RAW: Final = ROOT / "docs" / "bench"


@click.command("bench")
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)), metavar="[ROW]...")
@click.option("--list", "listing", is_flag=True, help="The rows and their goals.")
@click.option(
    "--scale",
    type=click.FloatRange(0.001, 1),
    default=1.0,
    show_default=True,
    help="Less of everything, to try whether it runs; then nothing is written down.",
)
@click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".chat-bench"),
    show_default=True,
    metavar="FOLDER",
    help="Of the bench's own cluster.",
)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Its settings, as TOML.")
@click.option("--edges", type=click.IntRange(1, 99), help="Default: as the settings say.")
@click.option("--keep", "keeping", is_flag=True, help="The cluster goes on running.")
@click.option(
    "--raw",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the raw JSON is kept; default docs/bench, and results/ of the cluster's folder with --scale.",
)
@click.option("--render", "rendering", is_flag=True, help="Only write docs/performance.md anew.")
@click.option("--quiet", is_flag=True, help="No progress of the single runs.")
def bench(
    *, rows: Sequence[str], listing: bool, scale: float, folder: Path, config: Path | None, edges: int | None,
    keeping: bool, raw: Path | None, rendering: bool, quiet: bool,
) -> int:  # fmt: skip
    """Measure what is promised of speed: all rows, or these. Results go to docs/performance.md, with the raw JSON in
    docs/bench/.

    Exit code 1: a message was lost, doubled or out of order, or a row could not be run. Goals that are missed are shown.
    """
    if listing:
        for row in ROWS.values():
            click.echo(f"{row.name:14} {row.title}: {'; '.join(map(str, row.goals))}")
        return 0
    if rendering:
        render(raw or RAW)
        return 0
    loaded = settings(config, edges, os.environ)
    check_machine(loaded.config)
    full = scale == 1
    target = raw or (RAW if full else folder / "results")
    chosen = [ROWS[name] for name in dict.fromkeys(rows or ROWS)]
    failed = trio.run(
        partial(_measure, Bench(folder, scale, _say, not quiet), loaded, chosen, target=target, keeping=keeping)
    )
    if full and raw is None:
        render(target)
    return int(failed)


async def _measure(
    bench: Bench, loaded: Loaded, rows: Sequence[Row], *, target: Path, keeping: bool
) -> bool:  # fmt: skip
    """True: something was wrong."""
    failed = False
    try:
        await bench.up(loaded, None if keeping else os.getpid())
        await bench.prepare(rows)
        for row in rows:
            try:
                outcome = await bench.measure(row)
            except SetupError as error:  # the other rows may be possible
                _say(f"{row.name}: could not be run: {error}")
                failed = True
                continue
            path = keep(target, outcome)
            failed = failed or bool(wrong(outcome.reports))
            click.echo(f"{row.name}: {'; '.join(summary(row, outcome.reports))}  ({path})")
    finally:
        if not keeping:
            with trio.CancelScope(shield=True):
                await bench.down()
    return failed


def render(raw: Path) -> None:
    """docs/performance.md from the files in `raw`. Raises SetupError."""
    outcomes: Mapping[str, Outcome] = latest(raw)
    text = into(DOCUMENT.read_text(), {name: outcome for name, outcome in outcomes.items() if name in ROWS})
    DOCUMENT.write_text(text)
    _say(f"{DOCUMENT} has {len(outcomes)} of {len(ROWS)} rows")


def _say(line: str) -> None:
    click.echo(line, err=True)
