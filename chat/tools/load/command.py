"""`chat load <scenario>`: the options and the run. Progress on stderr, the report on stdout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import click

from chat.tools.load.accounts import USERS_FILE, load_accounts
from chat.tools.load.bulk import prepare
from chat.tools.load.cluster import Cluster, find_cluster
from chat.tools.load.report import Report, as_text
from chat.tools.load.run import LoadOptions, Run
from chat.tools.load.scenarios import SCENARIOS

_SUMMARY: Final = {
    "direct": "Direct messages between users that are all on line.",
    "group": "Messages in groups whose members are all on line.",
    "idle": "Connections with heartbeats and nothing else: CPU and memory.",
    "offline": "Messages that wait for users who then log in all at once.",
    "storm": "Connections are cut (or a server is killed): all come back by token.",
}


class Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdigit():
            self.fail(f"{value!r} is not host:port", param, ctx)
        return host, int(port)


class Sources(click.ParamType[tuple[str, ...]]):
    """`4` is 127.0.0.1 to 127.0.0.4; or addresses, separated by commas."""

    name = "number or addresses"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value.isdigit():
            if not 1 <= int(value) <= 250:
                self.fail("a number from 1 to 250", param, ctx)
            return tuple(f"127.0.0.{last}" for last in range(1, int(value) + 1))
        try:
            return tuple(str(ip_address(part.strip())) for part in value.split(","))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_COMMON: Final = (
    click.option("--server", type=Address(), help="Where clients connect; by default nginx of `chat up` in this folder."),
    click.option("--edge", "edges", type=Address(), multiple=True, help="An edge, directly; may be given several times."),
    click.option("--sources", type=Sources(), default=(), help="Local addresses to connect from: a number, or a list."),
    click.option("--connections", type=click.IntRange(2), default=1_000, show_default=True),
    click.option("--rate", type=click.FloatRange(0), help="Messages a second, all senders together."),
    click.option("--size", type=click.IntRange(16, 60_000), default=100, show_default=True, help="Bytes of text."),
    click.option("--duration", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds measured."),
    click.option("--warmup", type=click.FloatRange(0), default=3.0, show_default=True, help="Seconds before, not measured."),
    click.option("--grace", type=click.FloatRange(0), default=15.0, show_default=True, help="Seconds for the rest to come."),
    click.option("--ramp", type=click.FloatRange(0.1), default=400.0, show_default=True, help="Log-ins a second at first."),
    click.option("--seed", type=int, default=1, show_default=True),
    click.option("--outstanding", type=click.IntRange(1), default=200_000, show_default=True,
                 help="Messages not accepted; when there are more, those due are shed, and counted."),
    click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=Path(".chat"), show_default=True,
                 help="The folder of the cluster of `chat up`: what it costs is measured."),
    click.option("--users-file", type=click.Path(dir_okay=False, path_type=Path),
                 help=f"Who logs in; kept, so that the next run needs no passwords. Default: {USERS_FILE} in --state."),
    click.option("--force", is_flag=True, help="Begin though the pre-flight found something."),
    click.option("--json", "as_json", is_flag=True, help="The report as JSON."),
    click.option("--quiet", is_flag=True, help="No progress."),
)  # fmt: skip
_OWN: Final[dict[str, tuple[Callable[[Any], Any], ...]]] = {
    "direct": (click.option("--partners", type=click.IntRange(1, 64), default=2, show_default=True),),
    "group": (click.option("--group-size", type=click.IntRange(2), default=100, show_default=True),),
    "idle": (),
    "offline": (
        click.option("--waiting", type=click.IntRange(1), default=10_000, show_default=True, help="Messages that wait."),
    ),
    "storm": (
        click.option("--share", type=click.FloatRange(0.001, 1), default=1.0, show_default=True, help="Of the connections."),
        click.option("--kill", default="", help="SIGKILL this server (edge-1, nginx …) instead of cutting connections."),
        click.option("--jitter", type=click.FloatRange(0), default=1.0, show_default=True,
                     help="Seconds over which the clients come back."),
    ),
}  # fmt: skip
_RATES: Final = {"direct": 200.0, "group": 20.0, "idle": 0.0, "offline": 1_000.0, "storm": 0.0}


@click.group("load", help=__doc__.splitlines()[0] if __doc__ else None)
def load() -> None:
    pass


def run_load(options: LoadOptions, users_file: Path, cluster: Cluster, say: Callable[[str], None] | None = None) -> Report:
    """One run from pre-flight to report. Raises SetupError. Blocks; several at a time need processes of their own."""
    accounts = load_accounts(users_file)
    run = Run(options, accounts, cluster, say)
    try:
        run.check()
        run.begin_progress()
        SCENARIOS[options.scenario](run)
    finally:
        accounts.save(users_file)  # also after a failure: what was registered stays known
        run.close()
    return run.finish()


def _scenario(name: str) -> click.Command:
    def command(*, server: tuple[str, int] | None, edges: Sequence[tuple[str, int]], **given: Any) -> int:
        if server and edges:
            raise click.UsageError("--server is the way through nginx, --edge the one past it: give one of them")
        rate, folder = given.pop("rate"), given["state"]
        cluster = find_cluster(folder)
        options = LoadOptions(
            scenario=name, servers=list(edges) or [server or cluster.server()], through_nginx=not edges,
            rate=_RATES[name] if rate is None else rate,
            **{field.name: given[field.name] for field in fields(LoadOptions) if field.name in given},
        )  # fmt: skip
        say = None if given["quiet"] else _say
        report = run_load(options, given["users_file"] or folder / USERS_FILE, cluster, say)
        click.echo(report.to_json() if given["as_json"] else as_text(report))
        return 1 if report.failed else 0

    for option in reversed((*_COMMON, *_OWN[name])):
        command = option(command)
    return click.command(name, help=_SUMMARY[name])(command)


def _say(line: str) -> None:
    click.echo(line, err=True)


for _name in SCENARIOS:
    load.add_command(_scenario(_name))
load.add_command(prepare)
