"""The throw-away database: created, and dropped at the end whatever happens in between."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote, urlsplit

import click
import structlog
import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.bridge.mysql import MysqlDatabase
from chat.config import MysqlConfig
from chat.errors import BadData, PartAway, PartError, SetupError
from chat.persist.migrate import migrate
from chat.ports import Database
from chat.sql import identifier

log = structlog.get_logger()

#: Transactions here are large, and nobody waits for them.
TIMEOUT_MS: Final = 60_000
_DROP_S: Final = 60.0
_DENIED: Final = ("1044:", "1045:", "1142:", "1227:")


def parse_url(url: str, live: MysqlConfig) -> MysqlConfig:
    """`mysql://user:password@host:port/database`; what is left out is as in [mysql]. Raises UsageError."""
    parts = urlsplit(url if "://" in url else f"mysql://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    name = parts.path.strip("/")
    if parts.scheme not in ("mysql", "mariadb") or not name or "/" in name or port == -1:
        raise click.UsageError("--sandbox-url is mysql://user:password@host:port/database")
    user, password = live.user, live.password
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
    return replace(
        live, host=parts.hostname or live.host, port=port or live.port, user=user, password=password, database=name
    )  # fmt: skip


def new_name(live: MysqlConfig) -> str:
    return f"{live.database[:40]}_replay_{secrets.token_hex(4)}"


@asynccontextmanager
async def open_sandbox(live: MysqlConfig, url: str | None, *, keep: bool) -> AsyncIterator[tuple[str, Database]]:
    """Its name, and it, with its tables made. It must not exist before, so that nothing else is ever dropped. Raises
    SetupError where it cannot be created, PartError."""
    config = replace(live, database=new_name(live)) if url is None else parse_url(url, live)
    config = replace(config, timeout_ms=TIMEOUT_MS)
    name = config.database
    if (config.host, config.port, name) == (live.host, live.port, live.database):
        raise SetupError(f"{name} is the live database: a sandbox has another name")
    outside = MysqlDatabase(replace(config, database="information_schema"))
    await _create(outside, config)
    try:
        async with open_database(config) as database:
            await migrate(database)
            yield name, database
    finally:
        if keep:
            log.info("the sandbox is kept", database=name)
        else:
            await _drop(outside, name)


async def _create(outside: MysqlDatabase, config: MysqlConfig) -> None:
    name = config.database
    try:
        await outside.script([f"CREATE DATABASE {identifier(name)} CHARACTER SET utf8mb4"])
    except BadData as error:
        if error.message.startswith("1007:"):
            raise SetupError(
                f"the database {name} exists: a sandbox is created and dropped, name one that is not there"
            ) from error
        raise
    except PartAway as error:
        if not error.message.startswith(_DENIED):
            raise
        pattern = name.rpartition("_")[0].replace("_", r"\_") + r"\_%"
        raise SetupError(
            f"{config.user} at {config.host}:{config.port} may not create the database {name} ({error.message}). Allow it: "
            f"GRANT ALL ON `{pattern}`.* TO '{config.user}'@'%'; or name another server or user: --sandbox-url "
            "mysql://user:password@host:port/database"
        ) from error


async def _drop(outside: MysqlDatabase, name: str) -> None:
    with trio.move_on_after(_DROP_S, shield=True):
        try:
            await outside.script([f"DROP DATABASE {identifier(name)}"])
        except PartError as error:
            log.error("the sandbox is left behind; drop it by hand", database=name, error=error.message)
        return
    log.error("the sandbox is left behind; drop it by hand", database=name, error="no answer")
