"""`chat replay-irc`: an IRC log said again, through a running cluster, by as many connections as there are persons.

The channel is a group. Who speaks in the log is a user with a connection of his own; joins and leaves are made; a line that
begins with `nick:` or `nick,` also goes to that person as a direct message (`replay_run`). Then it is checked that every
member has shown every line of his membership once and in order, and that history, and MySQL, hold each once
(`replay_check`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import trio

from chat.client.terminal import DEFAULT_SERVER, addresses
from chat.config import Config
from chat.logs import set_up_logs
from chat.tools.irc import parse, plan
from chat.tools.replay_check import check, check_rows
from chat.tools.replay_run import say_all


async def replay(
    data: bytes, channel: str, servers: Sequence[str], *, rate: float | None = None, mysql: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:  # fmt: skip
    """One log; returns the report, with `ok`. `mysql`: user:password@host:port/database, to count the rows there too.
    Raises SetupError where the cluster cannot be used."""
    async with trio.open_nursery() as nursery:
        replayed = await say_all(plan(parse(data)), channel, servers, rate, nursery, progress)
        progress(f"said in {replayed.seconds:.1f} s; checking")
        report = await check(replayed)
        nursery.cancel_scope.cancel()
    if mysql:
        report |= await check_rows(replayed, mysql)
        report["ok"] = report["ok"] is True and not report["rows_wrong"]
    return report


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if rate <= 0:
        raise click.BadParameter(f"{text!r}: lines per second, or max")
    return rate


@click.command("replay-irc")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--server", envvar="CHAT_SERVER", default=DEFAULT_SERVER, show_default=True, help="The front: host:port.")
@click.option("--edges", default="", help="Connect to these in turn, host:port by commas, instead of the front.")
@click.option("--speed", default="max", show_default=True, help="Lines per second, or max.")
@click.option("--mysql", default="", help="Also count the rows there: user:password@host:port/database.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, on standard output.")
def replay_irc(  # noqa: PLR0917  # click gives them by name
    files: tuple[Path, ...], server: str, edges: str, speed: str, mysql: str, as_json: bool
) -> int:
    """Say IRC logs again: each nick a connection, the channel a group, `nick:` also a direct message; and check that
    everyone has shown every line once and in order. Exit code 1 if a line was lost, doubled or out of order.

    Bytes that are not UTF-8 are read as Latin-1, line by line.
    """
    set_up_logs(Config(log_level="warning", log_format="text"))
    servers = addresses(edges or server)
    rate = _rate(speed)
    good = True
    for file in files:
        report = trio.run(_one, file, servers, rate, mysql, not as_json)
        good = good and report["ok"] is True
        if as_json:
            click.echo(json.dumps(report))
        else:
            click.echo(f"{file.name}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in report.items() if k != "file"))
    return 0 if good else 1


async def _one(file: Path, servers: Sequence[str], rate: float | None, mysql: str, tell: bool) -> dict[str, object]:
    def progress(text: str) -> None:
        if tell:
            click.echo(f"{file.name}: {text}", err=True)

    data = await trio.Path(file).read_bytes()
    return {"file": file.name, **await replay(data, file.stem, servers, rate=rate, mysql=mysql, progress=progress)}
