"""`chat bench [ROW]…`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import trio

from chat.config import Config
from chat.errors import SetupError
from chat.logs import set_up_logs
from chat.settings import Loaded
from chat.tools.bench import sizing
from chat.tools.bench.conduct import Bench, settings
from chat.tools.bench.render import into, summary
from chat.tools.bench.results import Outcome, keep, latest
from chat.tools.bench.rows import ROWS, Row, wrong
from chat.tools.bench.stores import StoreCluster, store_settings
from chat.tools.cluster import check_machine
from chat.tools.project import ROOT

DOCUMENT: Final = ROOT / "docs" / "performance.md"
SIZING: Final = ROOT / "docs" / "sizing.md"
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
    help="Of the bench's own cluster; that with a big store is in FOLDER-store.",
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
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="IRC logs of which big stores are made; default: the one that comes with the tests.",
)
@click.option("--render", "rendering", is_flag=True, help="Only write docs/performance.md and docs/sizing.md anew.")
@click.option("--quiet", is_flag=True, help="No progress of the single runs.")
def bench(
    *, rows: Sequence[str], listing: bool, scale: float, folder: Path, config: Path | None, edges: int | None,
    keeping: bool, raw: Path | None, data: Path | None, rendering: bool, quiet: bool,
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
    set_up_logs(Config(log_level="warning", log_format="text"))
    check_machine(loaded.config)
    full = scale == 1
    target = raw or (RAW if full else folder / "results")
    chosen = [ROWS[name] for name in dict.fromkeys(rows or ROWS)]
    stores = StoreCluster(
        folder.with_name(f"{folder.name}-store"), store_settings(config, os.environ),
        owner=None if keeping else os.getpid(), scale=scale, data=data, say=_say,
    )  # fmt: skip
    work = partial(_measure, Bench(folder, scale, _say, not quiet), loaded, stores, chosen, target=target, keeping=keeping)
    failed = trio.run(work)
    if full and raw is None:
        render(target)
    return int(failed)


async def _measure(
    bench: Bench, loaded: Loaded, stores: StoreCluster, rows: Sequence[Row], *, target: Path, keeping: bool
) -> bool:
    """True: something was wrong. First the rows on the cluster that is loaded, then, when it is down, those on a store."""
    loads = [row for row in rows if not any(probe.store for probe in row.probes)]
    others = [row for row in rows if row not in loads]
    failed = False
    if loads:
        try:
            await bench.up(loaded, None if keeping else os.getpid())
            await bench.prepare(loads)
            for row in loads:
                work = partial(bench.ask, row, None) if row.probes else partial(bench.measure, row)
                failed = await _row(row, work, target) or failed
        finally:
            if not keeping:
                with trio.CancelScope(shield=True):
                    await bench.down()
    if others:
        try:
            for row in others:
                failed = await _row(row, partial(bench.ask, row, stores), target) or failed
        finally:
            if not keeping:
                with trio.CancelScope(shield=True):
                    await stores.down()
    return failed


async def _row(row: Row, work: Callable[[], Awaitable[Outcome]], target: Path) -> bool:
    try:
        outcome = await work()
    except SetupError as error:  # the other rows may be possible
        _say(f"{row.name}: could not be run: {error}")
        return True
    path = keep(target, outcome)
    click.echo(f"{row.name}: {'; '.join(summary(row, outcome.reports))}  ({path})")
    return bool(wrong(outcome.reports))


def render(raw: Path) -> None:
    """docs/performance.md and docs/sizing.md from the files in `raw`. Raises SetupError."""
    outcomes: Mapping[str, Outcome] = latest(raw)
    text = into(DOCUMENT.read_text(), {name: outcome for name, outcome in outcomes.items() if name in ROWS})
    DOCUMENT.write_text(text)
    SIZING.write_text(sizing.into(SIZING.read_text(), outcomes))
    _say(f"{DOCUMENT} has {len(outcomes)} of {len(ROWS)} rows")


def _say(line: str) -> None:
    click.echo(line, err=True)
