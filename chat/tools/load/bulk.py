"""`chat load prepare`: thousands of users at once, straight into MySQL, each with a token: no password is hashed but one.

For measuring only. The rows are those that registration and a log-in by password would have written; the first log-in by
token finds a device that is new.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import trio

from chat.bridge import open_bridge, open_database
from chat.config import Config
from chat.edge.passwords import Passwords
from chat.edge.tokens import DAY_MS, hash_of, new_token
from chat.logs import set_up_logs
from chat.persist.queries import places
from chat.ports import Database, Statement
from chat.settings import load
from chat.tools.load.accounts import USERS_FILE, Account, load_accounts
from chat.tools.state import State

_AT_ONCE: Final = 500


@click.command("prepare")
@click.option("--users", type=click.IntRange(1, 1_000_000), default=12_100, show_default=True)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".chat"),
    show_default=True,
    metavar="FOLDER",
    help="The folder of the cluster of `chat up`.",
)
@click.option("--users-file", type=click.Path(dir_okay=False, path_type=Path), help=f"Default: {USERS_FILE} in --state.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings, as TOML. Default: those of the cluster in --state.",
)
def prepare(users: int, state: Path, users_file: Path | None, config: Path | None) -> int:
    """Users and tokens for `chat load`, written straight into MySQL.

    Users that the file has with a token already are left alone.
    """
    cluster = State(state).settings
    settings = load(config or (cluster if cluster.is_file() else None), os.environ).config
    set_up_logs(settings)
    path = users_file or state / USERS_FILE
    accounts = load_accounts(path)
    new = [account for account in accounts.first(users) if not account.token]
    trio.run(write, settings, new, accounts.secret)
    accounts.save(path)
    click.echo(f"{len(new)} users made, {users - len(new)} were there; {path}")
    return 0


async def write(config: Config, accounts: Sequence[Account], secret: str) -> None:
    """Gives each account its user and token. Raises PartError; what was written before stays, and is found again."""
    async with open_bridge(), open_database(config.mysql) as database:
        password = await Passwords(1).hash(secret)
        for at in range(0, len(accounts), _AT_ONCE):
            await _write_some(database, accounts[at : at + _AT_ONCE], password, config.edge.token_days * DAY_MS)


async def _write_some(database: Database, accounts: Sequence[Account], password: str, life_ms: int) -> None:
    now = int(time.time() * 1000)
    names = [account.name for account in accounts]
    find = Statement(f"SELECT name, id FROM users WHERE name IN ({places(names)})", names)
    there = dict((await database.read([find]))[0].rows)
    new = [name for name in names if name not in there]
    if new:
        rows = [value for name in new for value in (name, password, now)]
        insert = "INSERT INTO users (name, password, created_at) VALUES " + ", ".join(["(%s, %s, %s)"] * len(new))
        await database.write([Statement(insert, rows, len(new))])
        there = dict((await database.read([find]))[0].rows)
    tokens = [new_token() for _ in accounts]
    values = [
        value
        for account, token in zip(accounts, tokens, strict=True)
        for value in (hash_of(token), there[account.name], account.device, now, now + life_ms)
    ]
    insert = "INSERT INTO tokens (hash, user, device, created_at, expires_at) VALUES "
    await database.write([Statement(insert + ", ".join(["(%s, %s, %s, %s, %s)"] * len(accounts)), values, len(accounts))])
    for account, token in zip(accounts, tokens, strict=True):
        account.user, account.token = int(there[account.name]), token
