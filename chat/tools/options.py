"""Options of commands that are made from the settings: what can be in the file can be a flag."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import click

from chat.config import Config
from chat.settings import Path_, fields, load, variable

Command = Callable[..., Any]

#: What nearly every process is told.
SERVERS = ("kafka", "redis", "mysql")


def with_settings(own: str = "", others: Sequence[str] = (), *, cluster: bool = True) -> Callable[[Command], Command]:
    """Give the command its settings as the argument `loaded` (settings.Loaded), and the options that set them: those of
    section `own` by their name (--heartbeat-ms), those of `others` after their section's (--kafka-bootstrap). `cluster`:
    without a file, that of the cluster in this folder is taken."""

    def decorate(function: Command) -> Command:
        flags = _flags(own, others)

        @functools.wraps(function)
        def command(*args: Any, config: Path | None, **kwargs: Any) -> Any:
            given = {path: kwargs.pop(name) for name, path in flags.items()}
            return function(*args, loaded=load(config, os.environ, given, cluster=cluster), **kwargs)

        wrapped: Command = command
        comments = {section: _comments(section) for section in (own, *others) if section}
        for name, path in reversed(flags.items()):
            wrapped = click.option(
                "--" + name.replace("_", "-"), name, metavar="VALUE", help=_help(path, comments.get(path[0], {}))
            )(wrapped)
        file = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings, as TOML.")
        return file(wrapped)

    return decorate


def _flags(own: str, others: Sequence[str]) -> dict[str, Path_]:
    flags: dict[str, Path_] = {path[1]: path for path in fields() if len(path) == 2 and path[0] == own}
    flags.update({"_".join(path): path for path in fields() if len(path) == 2 and path[0] in others})
    if own or others:
        flags.update({path[0]: path for path in fields() if len(path) == 1})
    return flags


def _help(path: Path_, comments: dict[str, str]) -> str:
    value: Any = Config()
    for name in path:
        value = getattr(value, name)
    default = f"default {value}" if value != "" else ""
    return "; ".join(filter(None, (comments.get(path[-1], ""), default, f"or {variable(path)}")))


def _comments(section: str) -> dict[str, str]:
    """The comments beside the fields are their help."""
    try:
        source = inspect.getsource(get_type_hints(Config)[section])
    except OSError:
        return {}
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
