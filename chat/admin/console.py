"""What the operator's commands have in common: tables or JSON, agreement before destruction, one loop per command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
import trio
from wcwidth import wcswidth

from chat.bridge import open_bridge
from chat.config import Config
from chat.logs import set_up_logs
from chat.settings import Loaded

T = TypeVar("T")

as_json = click.option("--json", "as_json", is_flag=True, help="For machines.")
yes = click.option("--yes", "agreed", is_flag=True, help="Do it without asking.")


def run(loaded: Loaded, function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`await function(config, *args)`, with logs set up and the bridge open."""
    set_up_logs(loaded.config)

    async def inside(config: Config) -> T:
        async with open_bridge():
            return await function(config, *args)

    return trio.run(inside, loaded.config)


def must_agree(agreed: bool, question: str) -> None:
    """Ask a person; a program says --yes. Raises Abort, UsageError."""
    if agreed:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes")
    click.confirm(question, abort=True, err=True)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, nothing: str) -> None:
    """Rows with the same keys: a table for people, a list for machines. `nothing` is told where there are none."""
    if as_json:
        click.echo(json.dumps(list(rows), ensure_ascii=False))
        return
    if not rows:
        click.echo(nothing, err=True)
        return
    cells = [list(rows[0]), *([plain(value) for value in row.values()] for row in rows)]
    widths = [max(_width(line[n]) for line in cells) for n in range(len(cells[0]))]
    for line in cells:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def plain(value: Any) -> str:
    """For one cell of a terminal: nothing in it moves the cursor."""
    text = "-" if value is None else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def when(ms: int | None) -> str | None:
    """UTC, to the second."""
    if ms is None:
        return None
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def now_ms() -> int:
    return int(time.time() * 1000)


def _width(text: str) -> int:
    return max(0, wcswidth(text))
