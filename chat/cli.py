"""The command line: one table of commands, each imported when it is called, so that `chat --help` is quick.

Exit codes: 0 done, 1 a check failed or a person must mend something, 2 usage (settings too), 3 unreachable. Data goes to
standard output, everything else to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

import click

from chat.errors import PartAway, PartError, SetupError

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


class Entry(NamedTuple):
    """Where a command is (module:attribute) and what it does in a line. Its module need not be installed: a command is
    offered where it is."""

    where: str
    about: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "up": Entry("chat.tools.up:up", "Run a whole cluster here: servers, edges, routers, persists, nginx."),
    "down": Entry("chat.tools.up:down", "Stop the cluster of `chat up`; its data stays."),
    "status": Entry("chat.tools.up:status", "What of the cluster runs, by which pid, where."),
    "scale": Entry("chat.tools.up:scale", "Change the number of edges, routers or persists of a running cluster."),
    "restart": Entry("chat.tools.up:restart", "Restart parts of a running cluster, one after the other."),
    "doctor": Entry("chat.tools.doctor:doctor", "Is this machine fit? Needed against found, with what mends it."),
    "edge": Entry("chat.tools.roles:edge", "Run one edge."),
    "router": Entry("chat.tools.roles:router", "Run one router."),
    "persist": Entry("chat.tools.roles:persist", "Run one persist process."),
    "archive": Entry("chat.persist.archive.command:archive", "Old messages: moved out of the database into files."),
    "topics": Entry("chat.tools.setup:topics", "Kafka's topics, as kafka/topics.toml says."),
    "migrate": Entry("chat.tools.setup:migrate", "Bring the database's tables up to date."),
    "nginx": Entry("chat.tools.front:nginx", "nginx's configuration from the edges' leases."),
    "config": Entry("chat.tools.setup:config", "The effective settings and where each comes from."),
    "admin": Entry("chat.admin.command:admin", "Users, groups, edges, dead records, a new generation of the log."),
    "talk": Entry("chat.client.terminal:talk", "Chat in a terminal."),
    "replay": Entry("chat.tools.replay.command:replay", "Read a range of the log again, to see what happened."),
    "trace": Entry("chat.tools.trace.command:trace", "The way of one message, hop by hop, and whether it arrived."),
    "replay-irc": Entry("chat.tools.replay_irc:replay_irc", "Replay an IRC log: each nick a connection."),
    "selftest": Entry("chat.tools.selftest:selftest_command", "Send a message from one edge to another, through nginx."),
    "check": Entry(
        "chat.tools.check.command:check_command", "Is all shown once and in order, whatever is killed meanwhile?"
    ),
    "load": Entry("chat.tools.load.command:load", "Load a cluster and count every message."),
    "store": Entry("chat.tools.store.command:store", "A record of millions of messages, for measuring."),
    "bench": Entry("chat.tools.bench.command:bench", "Measure what is promised of speed, on a cluster of its own."),
}


class Table(click.Group):
    """A group whose commands are in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in COMMANDS.items() if is_there(entry)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None or not is_there(entry):
            return None
        module, _, attribute = entry.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), entry.where
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].about) for name in self.list_commands(ctx)])


def is_there(entry: Entry) -> bool:
    try:
        return importlib.util.find_spec(entry.where.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


@click.group(cls=Table, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="chat-cluster", prog_name="chat")
def chat() -> None:
    """A chat cluster on Kafka.

    `chat up` runs one here; `chat talk NAME` talks through it. Settings: flag over environment (CHAT_EDGE_NAME) over file
    (--config, CHAT_CONFIG) over default.
    """


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """The exit code. Errors that a person can mend are one line, without a traceback."""
    from chat.settings import SettingsError

    try:
        result: Any = chat.main(args=words, prog_name="chat", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `chat status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BaseException as error:
        told = _to_tell(error)
        if told is None:
            raise
        click.echo(f"chat: {told}", err=True)
        if isinstance(told, SettingsError):
            return USAGE
        return UNREACHABLE if isinstance(told, PartAway) else FAILED
    return result if isinstance(result, int) else DONE


def _to_tell(error: BaseException) -> Exception | None:
    """The error to be told, out of the groups that nurseries put around it; None: it is a bug (or several)."""
    while isinstance(error, BaseExceptionGroup):
        known, other = error.split((SetupError, PartError))
        if known is None or other is not None:
            return None
        error = known.exceptions[0]
    return error if isinstance(error, (SetupError, PartError)) else None
