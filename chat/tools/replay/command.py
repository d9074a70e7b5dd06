"""`chat replay`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import click
import trio

from chat.bridge import open_bridge, open_database
from chat.config import Config
from chat.logs import set_up_logs
from chat.ports import Database
from chat.settings import Loaded
from chat.tools.logsource import open_log_source
from chat.tools.options import with_settings
from chat.tools.replay.asked import TOPICS, Options, asked_of, trimmed, wanted_of
from chat.tools.replay.lines import Lines
from chat.tools.replay.names import Names
from chat.tools.replay.output import Output
from chat.tools.replay.pace import SPEEDS, parse_speed
from chat.tools.replay.printing import print_all
from chat.tools.replay.selection import delivery_wanted


@click.command()
@click.option("--topic", type=click.Choice(TOPICS), default="messages", show_default=True, help="What is read.")
@click.option("--edge", "edges", multiple=True, metavar="NAME", help="With --topic edges: of these alone.")
@click.option("--generation", type=click.IntRange(0), metavar="N", help="Messages of this generation alone.")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, metavar="N", help="These alone.")
@click.option("--since", metavar="TIME", help="2h, 1d12h, 90s (ago); 2026-03-01T09:30, 09:30 (UTC); milliseconds.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--from", "first", type=click.IntRange(0), metavar="OFFSET", help="From this offset on.")
@click.option("--to", type=click.IntRange(0), metavar="OFFSET", help="Below this offset.")
@click.option("--user", metavar="USER", help="In his timeline or from him: a name, or id:42.")
@click.option("--group", type=click.IntRange(1), metavar="N", help="In this group's timeline.")
@click.option("--conversation", metavar="WITH", help="A name, u34 (with --user), or g7.")
@click.option("--message", metavar="ID", help="One message: SENDER/CONVERSATION/STREAM/SEQ.")
@click.option("--speed", default="max", show_default=True, metavar="SPEED", help=f"By the records' time: {SPEEDS}.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many records.")
@click.option("--names", "with_names", is_flag=True, help="Names instead of numbers, looked up in MySQL.")
@click.option("--text", "width", type=click.IntRange(0), default=80, show_default=True, help="Characters of texts; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object a line, with everything.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
@with_settings(others=("kafka", "mysql", "archive"))
def replay(  # noqa: PLR0917  # click gives them by name
    loaded: Loaded, topic: str, edges: tuple[str, ...], generation: int | None, partitions: tuple[int, ...],
    since: str | None, until: str | None, first: int | None, to: int | None, user: str | None, group: int | None,
    conversation: str | None, message: str | None, speed: str, limit: int | None, with_names: bool, width: int,
    as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Read a range of the log again, to see what happened. Reads only: no consumer group, nothing written."""
    options = Options(
        topic, edges, generation, partitions, since, until, first, to, user, group, conversation, message
    )  # fmt: skip
    try:
        pace = parse_speed(speed)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--speed") from error
    set_up_logs(loaded.config)

    async def work() -> int:
        await _print(loaded.config, options, pace, limit, with_names, width, as_json, quiet)
        return 0

    return run_to_end(work)


async def _print(  # noqa: PLR0917
    config: Config, options: Options, speed: float | None, limit: int | None, with_names: bool, width: int,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    async with AsyncExitStack() as stack:
        database: Database | None = None
        if with_names or options.needs_names:
            await stack.enter_async_context(open_bridge())
            database = await stack.enter_async_context(open_database(config.mysql))
        source = await stack.enter_async_context(open_log_source(config.kafka))
        asked = await asked_of(options, source, database)
        spans = await source.spans(asked.topics, asked.limits)
        if not quiet:
            for said in trimmed(spans, asked.limits):
                click.echo(f"chat replay: {said}", err=True)
        names = Names(database, source.topics) if with_names and database is not None else None
        lines = Lines(
            source.topics,
            as_json=as_json,
            colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
            width=width,
            names=None if names is None else names.known,
            delivery_wanted=delivery_wanted(asked.which),
        )
        reading = source.read(spans, wanted_of(asked, options.topic))
        printed = await print_all(reading, lines, Output(), names=names, speed=speed, limit=limit, quiet=quiet)
        if not quiet:
            click.echo(f"chat replay: {printed.read:,} records read, {printed.records:,} shown", err=True)


def run_to_end(work: Callable[[], Awaitable[int]]) -> int:
    """Its exit code; 128 + signal where ctrl-C or SIGTERM ended it, after everything is put in order."""
    try:
        return trio.run(_until_signal, work)
    except BaseExceptionGroup as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
            found = found.exceptions[0]
        raise found from None  # as it was raised, without the nurseries that it went through


async def _until_signal(work: Callable[[], Awaitable[int]]) -> int:
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                nonlocal code
                async for number in signals:
                    code = 128 + number
                    break
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            code = await work()
            nursery.cancel_scope.cancel()
    return code
