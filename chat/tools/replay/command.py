"""`chat replay`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import click
import trio

from chat.bridge import open_bridge, open_database
from chat.config import Config
from chat.logs import set_up_logs
from chat.ports import Database
from chat.records import Topics
from chat.settings import Loaded
from chat.tools.logsource import open_log_source
from chat.tools.options import with_settings
from chat.tools.replay.asked import TOPICS, Options, asked_of, trimmed, wanted_of
from chat.tools.replay.explain.gather import Case, Gatherer
from chat.tools.replay.explain.run import as_delivered, in_log_order
from chat.tools.replay.explain.show import for_machines, for_people
from chat.tools.replay.lines import Lines, mentioned
from chat.tools.replay.names import Names, user_number
from chat.tools.replay.output import Output
from chat.tools.replay.pace import SPEEDS, Pace, parse_speed
from chat.tools.replay.printing import print_all
from chat.tools.replay.sandbox.run import for_people as differences_for_people
from chat.tools.replay.sandbox.run import into_sandbox
from chat.tools.replay.selection import Which, delivery_wanted

_TOGETHER: Final = 2_000


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
@click.option("--as", "as_user", metavar="USER", help="As a device of this user saw it: his timelines alone.")
@click.option("--device", metavar="ID", help="With --as: the device.")
@click.option("--explain", is_flag=True, help="With --as: what its ordering did with each record.")
@click.option(
    "--start", type=click.Choice(("cursor", "nothing")), default="cursor", show_default=True,
    help="With --explain: it begins with what it had acknowledged, or as a new device.",
)  # fmt: skip
@click.option("--deliveries", is_flag=True, help="With --explain: what its edges delivered (kept an hour), not the log.")
@click.option("--into", type=click.Choice(("sandbox",)), help="Store the range once more, and compare with what is stored.")
@click.option(
    "--sandbox-url", metavar="URL", help="Where: mysql://user:password@host:port/database; else beside the live one."
)
@click.option("--keep", is_flag=True, help="Do not drop the sandbox.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
@with_settings(others=("kafka", "mysql", "archive"))
def replay(  # noqa: PLR0917  # click gives them by name
    loaded: Loaded, topic: str, edges: tuple[str, ...], generation: int | None, partitions: tuple[int, ...],
    since: str | None, until: str | None, first: int | None, to: int | None, user: str | None, group: int | None,
    conversation: str | None, message: str | None, speed: str, limit: int | None, with_names: bool, width: int,
    as_json: bool, quiet: bool, as_user: str | None, device: str | None, explain: bool, start: str, deliveries: bool,
    into: str | None, sandbox_url: str | None, keep: bool,
) -> int:  # fmt: skip
    """Read a range of the log again, to see what happened. Reads only: no consumer group, nothing written.

    With --into sandbox: exit code 1 where what is stored differs from what the log says.
    """
    if into is None and (sandbox_url or keep):
        raise click.UsageError("--sandbox-url and --keep go with --into sandbox")
    if as_user is not None and into is not None:
        raise click.UsageError("either --as or --into")
    if as_user is None and (explain or deliveries or device):
        raise click.UsageError("--device, --explain and --deliveries go with --as")
    if explain and device is None:
        raise click.UsageError("--explain: of which --device?")
    if (as_user or into) and topic != "messages":
        raise click.UsageError("--as and --into read messages, with what else they need: without --topic")
    options = Options(
        topic, edges, generation, partitions, since, until, first, to, user, group, conversation, message
    )  # fmt: skip
    try:
        pace = parse_speed(speed)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--speed") from error
    set_up_logs(loaded.config)

    how = How(pace, limit, with_names, width, as_json, quiet)

    async def work() -> int:
        if into is not None:
            return await _into(loaded.config, options, how, sandbox_url, keep)
        if as_user is not None:
            await _as(loaded.config, options, how, Viewer(as_user, device or "", explain, start == "nothing", deliveries))
        else:
            await _print(loaded.config, options, how)
        return 0

    return run_to_end(work)


class How(NamedTuple):
    """How it is shown."""

    speed: float | None
    limit: int | None
    with_names: bool
    width: int
    as_json: bool
    quiet: bool

    def tell(self, said: str) -> None:
        if not self.quiet:
            click.echo(f"chat replay: {said}", err=True)


class Viewer(NamedTuple):
    """Whose device."""

    user: str
    device: str
    explain: bool
    from_nothing: bool
    deliveries: bool


async def _print(config: Config, options: Options, how: How) -> None:
    async with AsyncExitStack() as stack:
        database: Database | None = None
        if how.with_names or options.needs_names:
            await stack.enter_async_context(open_bridge())
            database = await stack.enter_async_context(open_database(config.mysql))
        source = await stack.enter_async_context(open_log_source(config.kafka))
        asked = await asked_of(options, source, database)
        spans = await source.spans(asked.topics, asked.limits)
        for said in trimmed(spans, asked.limits):
            how.tell(said)
        names = Names(database, source.topics) if how.with_names and database is not None else None
        lines = _lines(source.topics, how, None if names is None else names.known, asked.which)
        reading = source.read(spans, wanted_of(asked, options.topic))
        printed = await print_all(
            reading, lines, Output(), names=names, speed=how.speed, limit=how.limit, quiet=how.quiet
        )  # fmt: skip
        how.tell(f"{printed.read:,} records read, {printed.records:,} shown")


async def _as(config: Config, options: Options, how: How, viewer: Viewer) -> None:
    async with open_bridge(), open_database(config.mysql) as database, open_log_source(config.kafka) as source:
        asked = await asked_of(options, source, database)
        if not asked.which.everything:
            raise click.UsageError("--as chooses the timelines: without --user, --group, --conversation, --message")
        user = await user_number(database, viewer.user)
        gatherer = Gatherer(source, database, user, viewer.device)
        case = await gatherer.case(asked.topics, asked.limits, from_nothing=viewer.from_nothing or not viewer.explain)
        output = Output()
        names = Names(database, source.topics) if how.with_names else None
        lines = _lines(source.topics, how, None if names is None else names.known, asked.which)
        if not viewer.explain:
            await _show(case, lines, output, how, names)
            return
        for note in case.notes:
            how.tell(note)
        if viewer.deliveries:
            sessions = await gatherer.sessions(asked.limits.until)
            if not sessions:
                how.tell(
                    f"no log-in of {viewer.device} in {source.topics.presence}: it was not on line, or that is long ago"
                )
            came = await gatherer.deliveries(case.tracks, asked.limits)
            steps = as_delivered(case, user, sessions, came, from_nothing=viewer.from_nothing)
        else:
            steps = in_log_order(case, user, from_nothing=viewer.from_nothing)
        pace = None if how.speed is None else Pace(how.speed)
        for said in steps:
            if names is not None:
                await names.ask(of for one in said if one.message is not None for of in mentioned(one.message))
            if pace is not None and said:
                await trio.sleep_until(pace.due(said[0].time, trio.current_time()))
            await output.write(for_machines(said) if how.as_json else for_people(said, lines, colours=_colours()))


async def _show(case: Case, lines: Lines, output: Output, how: How, names: Names | None) -> None:
    """His records, without what was done with them."""
    mine = [(r.partition, r.record) for t, r in case.loud if case.tracks[t].sees(r.pos)]
    for at in range(0, len(mine), _TOGETHER):
        some = mine[at : at + _TOGETHER]
        if names is not None:
            await names.learn(some)
        await output.write(lines.batch(some))
    how.tell(f"{len(mine):,} records")


async def _into(config: Config, options: Options, how: How, url: str | None, keep: bool) -> int:
    async with open_bridge(), open_database(config.mysql) as database, open_log_source(config.kafka) as source:
        asked = await asked_of(options, source, database)
        report = await into_sandbox(config, source, asked, url=url, keep=keep, quiet=how.quiet)
    text = json.dumps(report.as_dict(), ensure_ascii=False) + "\n" if how.as_json else differences_for_people(report)
    await Output().write(text.encode())
    return 0 if report.same else 1


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _lines(topics: Topics, how: How, names: Mapping[str, str] | None, which: Which) -> Lines:
    return Lines(
        topics, as_json=how.as_json, colours=_colours(), width=how.width, names=names, delivery_wanted=delivery_wanted(which)
    )


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
