"""`chat topics`, `chat migrate`, `chat config`: what is done once before services run, and what they would run with."""

from __future__ import annotations

import click
import msgspec
import trio

from chat.bridge import open_bridge, open_database, open_log_admin
from chat.config import Config
from chat.logs import set_up_logs
from chat.persist.migrate import migrate as apply_migrations
from chat.settings import Loaded, to_toml
from chat.tools.options import with_settings
from chat.tools.topics import EDGE, create_topics, load_topics


@click.group()
def topics() -> None:
    """Kafka's topics, as kafka/topics.toml says."""


@topics.command("create")
@with_settings(others=("kafka",))
def topics_create(loaded: Loaded) -> None:
    """Make the topics that are missing."""
    set_up_logs(loaded.config)

    async def run(config: Config) -> list[str]:
        async with open_bridge(), open_log_admin(config.kafka) as admin:
            return await create_topics(admin, config.kafka.namespace, config.kafka.replication)

    for name in trio.run(run, loaded.config):
        click.echo(name)


@topics.command("list")
@with_settings(others=("kafka",))
def topics_list(loaded: Loaded) -> None:
    """The topics of the cluster, and the partitions of each; those that are missing have none."""
    set_up_logs(loaded.config)

    async def run(config: Config) -> dict[str, int]:
        async with open_bridge(), open_log_admin(config.kafka) as admin:
            wanted = {f"{config.kafka.namespace}.{name}" for name in load_topics() if name != EDGE}
            there = {name for name in await admin.topics() if name.startswith(f"{config.kafka.namespace}.")}
            return {name: await admin.partitions(name) for name in sorted(wanted | there)}

    for name, partitions in trio.run(run, loaded.config).items():
        click.echo(f"{name}\t{partitions}")


@click.command()
@with_settings(others=("mysql",))
def migrate(loaded: Loaded) -> None:
    """Apply the migrations that are missing; each that is applied is named."""
    set_up_logs(loaded.config)

    async def run(config: Config) -> list[str]:
        # Definitions on a big table take longer than any statement of a service may.
        mysql = msgspec.structs.replace(config.mysql, timeout_ms=max(config.mysql.timeout_ms, 120_000))
        async with open_bridge(), open_database(mysql) as database:
            return await apply_migrations(database)

    for name in trio.run(run, loaded.config):
        click.echo(name)


@click.command()
@with_settings(others=("kafka", "redis", "mysql", "edge", "router", "persist", "nginx", "up"))
def config(loaded: Loaded) -> None:
    """The effective settings as TOML; passwords are masked, and what is not a default says where it comes from."""
    click.echo(to_toml(loaded.settings, masked=True, sources=True), nl=False)
