"""`chat archive`: run the archiver, see what it has done, verify it."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Final

import click
import trio

from chat.admin import console
from chat.admin.console import as_json
from chat.bridge import open_database
from chat.config import Config
from chat.errors import PartAway
from chat.logs import set_up_logs
from chat.persist.archive.archiver import Archiver, now_ms
from chat.persist.archive.plan import DAY_MS, YOUNG_MS
from chat.persist.archive.service import open_archiver, patient, run_archiver
from chat.persist.archive.status import Status, read_status
from chat.persist.archive.verify import Verified, verify_all
from chat.settings import Loaded
from chat.tools.options import with_settings

#: Seconds between two lines of progress: rewritten in place on a terminal, a line each elsewhere.
_TOLD_S: Final = (0.2, 5.0)


@click.group()
def archive() -> None:
    """Old messages, moved out of the database into files."""


@archive.command()
@click.option("--once", is_flag=True, help="Move now what is old enough, and end.")
@click.option("--older-than", type=click.FloatRange(0), metavar="DAYS", help="With --once: instead of age_days.")
@as_json
@with_settings("archive", ("mysql",))
def run(loaded: Loaded, once: bool, older_than: float | None, as_json: bool) -> None:
    """Run the archiver until SIGTERM, or --once. One works at a time: another one waits, with --once it is refused."""
    if not once:
        if older_than is not None or as_json:
            raise click.UsageError("--older-than and --json go with --once")
        set_up_logs(loaded.config, role="archiver", name=loaded.config.archive.name, pid=os.getpid())
        trio.run(run_archiver, loaded.config)
        return

    async def work(config: Config) -> dict[str, Any]:
        async with open_archiver(config) as archiver, archiver.holding() as held:
            if not held:
                raise PartAway("mysql", "another archiver is at work; `chat archive status` shows what it has done")
            now, began = now_ms(), time.monotonic()
            removed = await archiver.sweep()
            days = config.archive.age_days if older_than is None else older_than
            before = min(now - int(days * DAY_MS), now - YOUNG_MS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, archiver, (await archiver.past()).rows)
                progress = await archiver.run(before, "asked")
                nursery.cancel_scope.cancel()
            seconds = time.monotonic() - began
            return {
                "before": before,
                "rows": progress.rows,
                "slices": progress.slices,
                "bytes": progress.bytes,
                "removed_files": removed,
                "seconds": round(seconds, 3),
            }

    done = console.run(loaded, work)
    if as_json:
        click.echo(json.dumps(done))
    else:
        rate = done["rows"] / max(done["seconds"], 0.001)
        click.echo(
            f"{done['rows']:,} rows sent before {console.when(done['before'])} moved into {done['slices']:,} slices of"
            f" {done['bytes']:,} bytes in {done['seconds']:.1f} s, {rate:,.0f} rows/s"
        )


async def _tell(archiver: Archiver, rows: int) -> None:
    """Progress on standard error, until cancelled."""
    terminal = sys.stderr.isatty()
    began = trio.current_time()
    while True:
        await trio.sleep(_TOLD_S[0] if terminal else _TOLD_S[1])
        progress, seconds = archiver.progress, trio.current_time() - began
        looked = f"{min(99, 100 * progress.scanned // rows)} %" if rows else "…"
        line = (
            f"{looked} of about {rows:,} rows looked at, {progress.rows:,} moved into {progress.slices:,} slices,"
            f" {progress.rows / seconds:,.0f} rows/s"
        )
        click.echo(f"\r{line}\033[K" if terminal else line, err=True, nl=not terminal)


@archive.command()
@as_json
@with_settings("archive", ("mysql",))
def status(loaded: Loaded, as_json: bool) -> None:
    """What is hot, what is archived, the last run and the next."""

    async def work(config: Config) -> Status:
        async with open_database(patient(config.mysql)) as database:
            return await read_status(database, config.archive, now_ms())

    found = console.run(loaded, work)
    click.echo(json.dumps(found.as_dict()) if as_json else found.as_text())


@archive.command()
@as_json
@with_settings("archive", ("mysql",))
def verify(loaded: Loaded, as_json: bool) -> int:
    """Every slice's file against its checksum and its index; exit code 1 where one is damaged or missing."""

    def tell(done: int, of: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{done:,} of {of:,} slices verified\033[K", err=True, nl=done == of)

    async def work(config: Config) -> Verified:
        async with open_archiver(config) as archiver:
            return await verify_all(archiver.database, archiver.folder, tell)

    found = console.run(loaded, work)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        for damage in found.damaged:
            click.echo(f"{damage.file}: {damage.what}")
        click.echo(f"{found.slices:,} slices, {found.rows:,} rows, {found.bytes:,} bytes: {len(found.damaged)} damaged")
    return 1 if found.damaged else 0
