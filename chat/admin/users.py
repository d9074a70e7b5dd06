"""`chat admin users`, `chat admin groups`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import click

from chat.admin import accounts, console
from chat.admin.console import as_json, must_agree, now_ms, show, when, yes
from chat.admin.online import Control, Online
from chat.bridge import open_database, open_log_admin, open_memory, open_producer
from chat.config import Config
from chat.edge.tokens import Tokens
from chat.errors import Goodbye
from chat.ports import Database, LogAdmin, Producer
from chat.records import Topics
from chat.settings import Loaded
from chat.tools.options import SERVERS, with_settings


class Office(NamedTuple):
    """What the verbs about users need."""

    database: Database
    log: LogAdmin
    producer: Producer
    tokens: Tokens
    online: Online
    control: Control


@asynccontextmanager
async def open_office(config: Config) -> AsyncIterator[Office]:
    async with (
        open_database(config.mysql) as database,
        open_memory(config.redis) as memory,
        open_log_admin(config.kafka) as log,
        open_producer(config.kafka) as producer,
    ):
        online = Online(memory, config.redis.prefix)
        tokens = Tokens(memory, config.redis.prefix, config.edge.token_days)
        yield Office(
            database, log, producer, tokens, online, Control(Topics(config.kafka.namespace), producer, log, online, now_ms)
        )


@click.group()
def users() -> None:
    """Find users, ban them, end their sessions, export and delete them. WHO is a name, or a number as id:42."""


@users.command()
@click.argument("begin", metavar="[NAME]", default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
@with_settings(others=SERVERS)
def find(loaded: Loaded, begin: str, limit: int, as_json: bool) -> None:
    """Users whose name begins with NAME (or the one that is id:42)."""

    async def work(config: Config) -> list[accounts.Person]:
        async with open_database(config.mysql) as database:
            return await accounts.find_users(database, begin, limit)

    found = console.run(loaded, work)
    show([_shown(person, as_json) for person in found], as_json, "no such user")


def _shown(row: Any, as_json: bool) -> dict[str, Any]:
    """Times in milliseconds for machines, as dates for people."""
    fields: dict[str, Any] = row._asdict()
    return fields if as_json else {k: when(v) if k.endswith("_at") else v for k, v in fields.items()}


Act = Callable[[Office, accounts.Person], Awaitable[str]]


def _verb(act: Act) -> click.Command:
    """A verb about one user: `act` does it and says what it did; its name and docstring are the verb's."""

    @users.command(act.__name__, help=act.__doc__)
    @click.argument("who")
    @with_settings(others=SERVERS)
    def verb(loaded: Loaded, who: str) -> None:
        async def work(config: Config) -> str:
            async with open_office(config) as office:
                return await act(office, await accounts.find_user(office.database, who))

        click.echo(console.run(loaded, work))

    return verb


@_verb
async def ban(office: Office, person: accounts.Person) -> str:
    """Refuse log-ins, end tokens and sessions. Done again, it does what is left."""
    await accounts.ban(office.database, person.user, now_ms())
    ended = await accounts.end_tokens(office.database, office.tokens, person.user)
    closed = await office.control.end_sessions(person.user, Goodbye.BANNED, closed=True)
    return f"{person.name} is banned; {ended} tokens and {closed} sessions were ended"


@_verb
async def unban(office: Office, person: accounts.Person) -> str:
    """Let a banned user log in again, with the password."""
    await accounts.unban(office.database, person.user)
    return f"{person.name} may log in" if person.banned_at is not None else f"{person.name} was not banned"


@_verb
async def kick(office: Office, person: accounts.Person) -> str:
    """Close a user's sessions. His clients do not come back by themselves, but he may, with the tokens he has."""
    closed = await office.control.end_sessions(person.user, Goodbye.ASKED, closed=False)
    return f"{closed} sessions of {person.name} were closed"


@_verb
async def logout(office: Office, person: accounts.Person) -> str:
    """End a user's tokens and sessions: each device has to log in with the password."""
    ended = await accounts.end_tokens(office.database, office.tokens, person.user)
    closed = await office.control.end_sessions(person.user, Goodbye.LOGGED_OUT, closed=False)
    return f"{ended} tokens and {closed} sessions of {person.name} were ended"


@users.command()
@click.argument("who")
@yes
@with_settings("archive", SERVERS)
def delete(loaded: Loaded, who: str, agreed: bool) -> None:
    """Delete a user: his log-in, his own timeline hot and archived, and all that is kept about him. What he wrote to others
    stays theirs. Done again, it does what is left."""
    from chat.admin import erase
    from chat.persist.archive.service import open_archiver

    must_agree(agreed, f"Delete {who} and all of his own messages? There is no way back.")

    async def work(config: Config) -> str:
        async with open_office(config) as office, open_archiver(config, needed=False) as archiver:
            person = await accounts.find_user(office.database, who)
            log = erase.Log(
                Topics(config.kafka.namespace), office.log, office.producer, office.database, config.kafka.max_batch_bytes
            )
            await erase.close_account(office.database, person.user)
            await accounts.end_tokens(office.database, office.tokens, person.user)
            await office.control.end_sessions(person.user, Goodbye.BANNED, closed=True)
            groups, friends = await erase.tell_others(office.database, log, person.user, person.name)
            await log.stored()
            async with archiver.held_soon():
                cold, files = await erase.erase_cold(archiver, person.user)
                hot = await erase.erase_hot(office.database, person.user)
            await erase.erase_rest(office.database, person.user)
            return (
                f"{person.name} is deleted: {hot:,} messages in MySQL, {cold:,} in {files:,} archived slices (the archiver"
                f" removes their old files within {config.archive.grace_s + config.archive.every_s:,.0f} s);"
                f" {groups} groups and {friends} friends were told"
            )

    click.echo(console.run(loaded, work))


@users.command("export")
@click.argument("who")
@with_settings("archive", ("mysql",))
def export_(loaded: Loaded, who: str) -> None:
    """A user's whole own timeline, hot and archived, as JSON lines in order."""
    from chat.admin.export import export
    from chat.persist.archive.service import open_archiver
    from chat.persist.archive.shelf import Shelf

    async def work(config: Config) -> int:
        async with open_archiver(config, needed=False) as archiver, archiver.held_soon():
            person = await accounts.find_user(archiver.database, who)
            count = 0
            async with aclosing(
                export(archiver.database, Shelf(archiver.database, config.archive.url), person.user)
            ) as lines:
                async for line in lines:
                    click.echo(line)
                    count += 1
            return count

    click.echo(f"{console.run(loaded, work):,} records", err=True)


@click.group()
def groups() -> None:
    """Groups, and who is in them."""


@groups.command("list")
@click.argument("begin", metavar="[NAME]", default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
@with_settings(others=("mysql",))
def groups_list(loaded: Loaded, begin: str, limit: int, as_json: bool) -> None:
    """Groups whose name begins with NAME."""

    async def work(config: Config) -> list[accounts.Group]:
        async with open_database(config.mysql) as database:
            return await accounts.groups(database, begin, limit)

    found = console.run(loaded, work)
    show([_shown(group, as_json) for group in found], as_json, "no such group")


@groups.command()
@click.argument("group", type=int)
@as_json
@with_settings(others=("mysql",))
def members(loaded: Loaded, group: int, as_json: bool) -> None:
    """Who is in a group now, the longest member first."""

    async def work(config: Config) -> list[accounts.Member]:
        async with open_database(config.mysql) as database:
            return (await accounts.members(database, group))[1]

    found = console.run(loaded, work)
    show([_shown(member, as_json) for member in found], as_json, "nobody is in it")
