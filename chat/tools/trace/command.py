"""`chat trace`."""

from __future__ import annotations

import os
import sys

import click

from chat.admin import console
from chat.admin.console import as_json
from chat.config import Config
from chat.settings import Loaded
from chat.tools.options import with_settings
from chat.tools.trace.asked import Asked, asked
from chat.tools.trace.facts import Facts
from chat.tools.trace.gather import find_out
from chat.tools.trace.render import as_json as to_json
from chat.tools.trace.render import lines
from chat.tools.trace.verdict import judge


@click.command()
@click.argument("message", metavar="[ID]", required=False)
@click.option("--from", "sender", metavar="NAME", help="The last message of this user (alice, id:12); with --last.")
@click.option("--to", metavar="NAME", help="Only what was sent to this user or group (bob, id:34, group:7).")
@click.option("--last", is_flag=True, help="The newest one.")
@click.option("--position", metavar="TIMELINE@POS", help="What lies at this position, as u34@1234 or g7@1234.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=1.2, show_default=True, help="The topics are read for so long."
)
@as_json
@with_settings(others=("kafka", "mysql", "archive"))
def trace(  # noqa: PLR0917 - one for each option
    loaded: Loaded, message: str | None, sender: str | None, to: str | None, last: bool, position: str | None,
    seconds: float, as_json: bool,
) -> int:  # fmt: skip
    """The way of a message, hop by hop, and whether it arrived.

    ID is SENDER/CONVERSATION/STREAM/SEQ, as in 12/u34/20719/5 (user 12 to user 34) or 12/g7/20719/5 (to group 7). Nothing is
    written, and no consumer group joined.

    Exit code 0: every device that was on line has it, 1: not, and why; 2: usage; 3: neither Kafka nor MySQL answers.
    """
    try:
        wanted: Asked = asked(message, sender, to, position, last)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def work(config: Config) -> Facts:
        return await find_out(config, wanted, seconds)

    facts = console.run(loaded, work)
    verdict = judge(facts)
    if as_json:
        click.echo(to_json(facts, verdict))
    else:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        for line in lines(facts, verdict, colours):
            click.echo(line)
    return 0 if verdict.arrived else 1
