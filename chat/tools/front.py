"""`chat nginx render`: for those who run nginx by other means than `chat up`."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import click
import structlog
import trio

from chat.bridge import open_bridge, open_memory
from chat.config import Config
from chat.logs import set_up_logs
from chat.settings import Loaded
from chat.tools.nginx import main_conf, read_leases, stream_conf, watch, write_stream
from chat.tools.options import with_settings
from chat.tools.parts import write_private

log = structlog.get_logger()


@click.group()
def nginx() -> None:
    """nginx's configuration from the edges' leases."""


@nginx.command()
@click.option("--into", type=click.Path(path_type=Path), metavar="FOLDER", help="Write nginx.conf and stream.conf there.")
@click.option("--watch", "watching", is_flag=True, help="Go on: rewrite stream.conf and reload nginx as edges come and go.")
@click.option("--pid-file", type=click.Path(path_type=Path), help="nginx's pid, for the reload; default: FOLDER/nginx.pid.")
@with_settings("nginx", ("redis",))
def render(loaded: Loaded, into: Path | None, watching: bool, pid_file: Path | None) -> None:
    """Print stream.conf, or write it and nginx.conf into a folder, with the edges that hold a lease now."""
    if watching and into is None:
        raise click.UsageError("--watch needs --into FOLDER")
    set_up_logs(loaded.config)
    trio.run(_render, loaded.config, into.resolve() if into else None, watching, pid_file)


async def _render(config: Config, into: Path | None, watching: bool, pid_file: Path | None) -> None:
    async with open_bridge(), open_memory(config.redis) as memory:
        read = partial(read_leases, memory, config.redis.prefix)
        upstreams = frozenset((await read()).values())
        if into is None:
            click.echo(stream_conf(config.nginx, upstreams), nl=False)
            return
        write_private(into / "nginx.conf", main_conf(into, config.nginx))
        write_stream(into, config.nginx, upstreams)
        if watching:
            await watch(config.nginx, into, read, partial(reload, pid_file or into / "nginx.pid"))


def reload(pid_file: Path) -> None:
    """SIGHUP to the process that the file names, if it is an nginx; else it is only logged: it reads the file at its
    start."""
    try:
        pid = int(pid_file.read_text())
        if "nginx" not in Path(f"/proc/{pid}/comm").read_text():
            raise ValueError(f"pid {pid} is no nginx")
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        log.warning("nginx_not_reloaded", pid_file=str(pid_file), error=str(error))
