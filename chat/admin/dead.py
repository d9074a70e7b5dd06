"""`chat admin dead`: records that persist could not store. N is a record's number, as `list` shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click

from chat.admin import console
from chat.admin.console import as_json, must_agree, now_ms, plain, show, when, yes
from chat.admin.graveyard import Dead, Graveyard
from chat.admin.mending import Hopeless, mend
from chat.bridge import open_database, open_log_admin, open_log_reader
from chat.config import Config
from chat.ports import Database
from chat.records import Topics
from chat.settings import Loaded
from chat.tools.options import with_settings

PARTS = ("kafka", "mysql")


@click.group()
def dead() -> None:
    """Records that persist could not store: they wait here until a person has handled them."""


@asynccontextmanager
async def _open(config: Config) -> AsyncIterator[tuple[Graveyard, Database]]:
    async with (
        open_database(config.mysql) as database,
        open_log_admin(config.kafka) as log,
        open_log_reader(config.kafka) as reader,
    ):
        yield Graveyard(Topics(config.kafka.namespace), database, log, reader), database


@dead.command("list")
@click.option("--all", "handled_too", is_flag=True, help="Also those that are handled.")
@click.option("--show", "texts", is_flag=True, help="Show the values too: what people wrote to each other.")
@as_json
@with_settings(others=PARTS)
def dead_list(loaded: Loaded, handled_too: bool, texts: bool, as_json: bool) -> None:
    """Where each was found, why it is dead, its key, size and time."""

    async def work(config: Config) -> list[Dead]:
        async with _open(config) as (graveyard, _):
            return await graveyard.all()

    found = [d for d in console.run(loaded, work) if handled_too or d.outcome is None]
    show([_row(d, as_json, texts, handled_too) for d in found], as_json, "no dead records that are not handled")


def _row(one: Dead, as_json: bool, texts: bool, handled_too: bool) -> dict[str, Any]:
    record = one.record
    row: dict[str, Any] = {"n": one.number, "found_at": f"{one.topic}/{one.partition}", "offset": record.offset}
    row["key"] = None if record.key is None else plain(record.key.decode(errors="replace"))
    row["size"] = len(record.value)
    row["time"] = record.timestamp if as_json else when(record.timestamp)
    if handled_too:
        row["outcome"] = one.outcome
    row["why"] = one.why
    if texts:
        row["value"] = record.value.decode(errors="backslashreplace")
    return row


@dead.command()
@click.argument("numbers", metavar="N...", type=click.IntRange(min=0), nargs=-1, required=True)
@with_settings(others=PARTS)
def retry(loaded: Loaded, numbers: tuple[int, ...]) -> int:
    """Put records where they belong, now that what was wrong is mended. Done twice, nothing is stored twice. Exit code 1:
    one of them cannot be."""

    from chat.persist.archive.service import open_archiver
    from chat.persist.archive.shelf import Shelf

    async def work(config: Config) -> bool:
        topics, all_well = Topics(config.kafka.namespace), True
        async with (
            _open(config) as (graveyard, database),
            open_archiver(config, needed=False) as archiver,
            archiver.held_soon(),
        ):
            archive = Shelf(database, config.archive.url)
            for one in await graveyard.some(numbers):
                note = await graveyard.note(one.number, "retried", now_ms())
                try:
                    said = await mend(database, topics, one, note, archive)
                except Hopeless as error:
                    all_well = False
                    click.echo(f"{one.number}: not retried: {plain(error)}", err=True)
                else:
                    click.echo(f"{one.number}: {said}")
        return all_well

    return 0 if console.run(loaded, work) else 1


@dead.command()
@click.argument("numbers", metavar="N...", type=click.IntRange(min=0), nargs=-1, required=True)
@yes
@with_settings(others=PARTS)
def skip(loaded: Loaded, numbers: Sequence[int], agreed: bool) -> None:
    """Give records up: they are not listed any more (but by --all), and stay in the topic of the dead."""
    must_agree(agreed, f"Give up {len(numbers)} record(s)? Nobody will read them.")

    async def work(config: Config) -> None:
        async with _open(config) as (graveyard, database):
            await graveyard.some(numbers)
            await database.write([await graveyard.note(n, "skipped", now_ms()) for n in numbers])

    console.run(loaded, work)
    for number in numbers:
        click.echo(f"{number}: skipped")
