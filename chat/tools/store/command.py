"""`chat store`: a big store, made and measured. For clusters that are made for measuring."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from chat.errors import SetupError
from chat.logs import set_up_logs
from chat.tools.load.report import Report, as_text
from chat.tools.store import commands, fill, log, pages, people
from chat.tools.store.measuring import measured, report_of, settings_of, told
from chat.tools.store.town import Size

Command = Callable[..., Any]


def _say(line: str) -> None:
    click.echo(line, err=True)


def _common(function: Command) -> Command:
    for option in (
        click.option("--quiet", is_flag=True, help="No progress."),
        click.option("--json", "as_json", is_flag=True, help="For machines."),
        click.option(
            "--state",
            "folder",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(".chat"),
            show_default=True,
            metavar="FOLDER",
            help="The folder of the cluster of `chat up`.",
        ),
    ):
        function = option(function)
    return function


_data = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="With IRC logs, *.log; default: the one that comes with the tests.",
)
_seed = click.option("--seed", type=click.IntRange(0, 999_999), default=1, show_default=True, help="Another store.")
_town = click.option("--town-rows", type=click.IntRange(1_000), help="Smaller towns, for trying it.")


def _size(town_rows: int | None) -> Size:
    if town_rows is None:
        return Size()
    whole = Size()
    share = town_rows / whole.rows
    return Size(max(20, int(whole.users * share)), max(2, int(whole.groups * share)), town_rows)


@click.group()
def store() -> None:
    """A record of millions of messages for measuring: made, read, archived, replayed.

    The cluster must be made for it: `chat up --state FOLDER`.
    """


@store.command()
@click.option("--rows", type=click.IntRange(1), default=1_000_000, show_default=True, help="At least so many, in all.")
@_data
@_seed
@_town
@_common
def make(
    *, rows: int, data: Path | None, seed: int, town_rows: int | None, folder: Path, as_json: bool, quiet: bool
) -> None:
    """Make a store, or make it larger: straight into MySQL. Edges must be stopped the first time.

    People of many towns, two years of direct messages and groups after IRC logs. The same seed and logs make the same.
    """
    config, size = settings_of(folder), _size(town_rows)
    set_up_logs(config)
    corpus = fill.corpus_of(data)
    say = _silent if quiet else _say
    made = trio.run(partial(fill.make, config, corpus, rows=rows, seed=seed, size=size, say=say))
    path = folder / people.PEOPLE_FILE
    towns = made.rows // size.rows
    readers = trio.run(partial(people.give_tokens, config, corpus, path, towns=towns, seed=seed, size=size))
    if as_json:
        click.echo(json.dumps({**made._asdict(), "towns": towns, "readers": readers}))
    else:
        click.echo(
            f"{made.rows:,} rows of {towns} towns, {made.new_rows:,} of them new in {made.seconds:.1f} s; "
            f"{readers} users may log in by {path}"
        )


@store.command("log")
@click.option("--records", type=click.IntRange(1), default=1_000_000, show_default=True, help="At least so many, in all.")
@_data
@_town
@_common
def log_command(*, records: int, data: Path | None, town_rows: int | None, folder: Path, as_json: bool, quiet: bool) -> None:
    """Append records to the log until it has so many. They are stored like any."""
    config = settings_of(folder)
    set_up_logs(config)
    say = _silent if quiet else _say
    work = partial(log.fill_log, config, fill.corpus_of(data), records=records, size=_size(town_rows), say=say)
    added = trio.run(work)
    click.echo(json.dumps({"added": added}) if as_json else f"{added:,} records appended")


# ---------------------------------------------------------------------- measured


@store.command("pages")
@click.option("--conversations", type=click.IntRange(1), default=200, show_default=True)
@click.option("--depth", type=click.IntRange(1), default=40, show_default=True, help="Pages of each, from the newest back.")
@click.option("--pages", "most", type=click.IntRange(1), default=4_000, show_default=True, help="That are read again.")
@click.option("--new-edges", is_flag=True, help="Start the edges anew before, so that they remember nothing.")
@click.option("--sync", "syncs", is_flag=True, help="Syncs too.")
@_seed
@_common
def pages_command(
    *, conversations: int, depth: int, most: int, new_edges: bool, syncs: bool, seed: int, folder: Path, as_json: bool,
    quiet: bool,
) -> int:  # fmt: skip
    """Pages of history: read in order, then in any order for the first time, and again."""

    async def work(report: Report, reading: pages.Reading, say: Callable[[str], None]) -> None:
        places = await reading.walk(conversations, depth)
        places = reading.some(places, most)
        if new_edges:
            await pages.new_edges(folder, say)
        with measured(report, folder):
            await reading.read(places, "first")
            await reading.read(places, "again")
            if syncs:
                await reading.sync(places, "again")
        report.notes["pages"] = len(places)

    options = {"conversations": conversations, "depth": depth, "new_edges": new_edges, "seed": seed}
    return _read("history pages", options, work, seed=seed, folder=folder, as_json=as_json, quiet=quiet)


@store.command("search")
@click.option("--people", "number", type=click.IntRange(1), default=30, show_default=True, help="Who search.")
@_seed
@_common
def search_command(number: int, seed: int, folder: Path, as_json: bool, quiet: bool) -> int:
    """Pages of searches: common words, rare ones, ones that nobody wrote; everywhere and in one conversation."""

    async def work(report: Report, reading: pages.Reading, say: Callable[[str], None]) -> None:
        with measured(report, folder):
            await reading.search(number)

    return _read(
        "search pages", {"people": number, "seed": seed}, work, seed=seed, folder=folder, as_json=as_json, quiet=quiet
    )


Work = Callable[[Report, pages.Reading, Callable[[str], None]], Awaitable[None]]


def _read(
    scenario: str, options: dict[str, Any], work: Work, *, seed: int, folder: Path, as_json: bool, quiet: bool
) -> int:  # fmt: skip
    report = report_of(scenario, options)
    config = settings_of(folder)
    set_up_logs(config)
    readers = [one for one in people.people_of(folder / people.PEOPLE_FILE).people if one.token]
    if not readers:
        raise SetupError(f"no store was made in {folder}: `chat store make --state {folder}`")
    say = _silent if quiet else _say

    async def run() -> None:
        border = await pages.border_of(config)
        reading = pages.Reading(pages.server_of(folder), readers, border, seed, say)
        await work(report, reading, say)
        report.latencies = told(reading.latencies)

    trio.run(run)
    return _show(report, as_json)


@store.command("archive")
@click.option("--older-than", type=click.FloatRange(0), default=146.0, show_default=True, metavar="DAYS")
@_common
def archive_command(older_than: float, folder: Path, as_json: bool, quiet: bool) -> int:
    """`chat archive run --once`: rows a second, and the files' size beside the table's."""
    report = report_of("archive", {"older_than": older_than})
    config = settings_of(folder)
    set_up_logs(config)
    trio.run(commands.archive, report, config, folder, older_than)
    return _show(report, as_json)


@store.command("replay")
@click.option("--records", type=click.IntRange(1), default=1_000_000, show_default=True)
@_common
def replay_command(records: int, folder: Path, as_json: bool, quiet: bool) -> int:
    """`chat replay` of so many records: lines a second."""
    report = report_of("replay", {"records": records})
    set_up_logs(settings_of(folder))
    trio.run(commands.replay, report, folder, records)
    return _show(report, as_json)


@store.command("trace")
@click.option("--messages", type=click.IntRange(1), default=20, show_default=True)
@_common
def trace_command(messages: int, folder: Path, as_json: bool, quiet: bool) -> int:
    """`chat trace` of some of the last messages: seconds each."""
    report = report_of("trace", {"messages": messages})
    config = settings_of(folder)
    set_up_logs(config)
    trio.run(commands.trace, report, config, folder, messages)
    return _show(report, as_json)


def _show(report: Report, as_json: bool) -> int:
    click.echo(report.to_json() if as_json else as_text(report))
    return 1 if report.failed else 0


def _silent(line: str) -> None:
    """Nobody looks on."""
