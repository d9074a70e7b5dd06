"""`chat admin new-generation`."""

from __future__ import annotations

import json

import click

from chat.admin import console
from chat.admin.console import as_json, must_agree, yes
from chat.admin.generation import Made, NewGeneration
from chat.admin.online import Online
from chat.bridge import open_database, open_log_admin, open_log_reader, open_memory, open_producer
from chat.config import Config
from chat.records import Topics
from chat.settings import Loaded
from chat.tools.options import SERVERS, with_settings
from chat.tools.topics import load_topics


@click.command("new-generation")
@click.option("--partitions", type=click.IntRange(1, 10_000), help="How many; default: as kafka/topics.toml says.")
@yes
@as_json
@with_settings(others=SERVERS)
def new_generation(loaded: Loaded, partitions: int | None, agreed: bool, as_json: bool) -> None:
    """Begin a new topic of messages: for another number of partitions, or since Kafka has lost what MySQL has.

    Stop the edges first. Refused unless nothing can be lost: the old topic is read out by persist and the routers; or it is
    gone, made anew, or shorter than what MySQL has stored (then what is in it and not in MySQL is carried over).
    """
    must_agree(agreed, "Begin a new topic of messages? The old one is only read out from then on.")
    spec = load_topics()["messages"]

    from chat.persist.archive.shelf import Shelf

    async def work(config: Config) -> Made:
        async with (
            open_database(config.mysql) as database,
            open_memory(config.redis) as memory,
            open_log_admin(config.kafka) as log,
            open_log_reader(config.kafka) as reader,
            open_producer(config.kafka) as producer,
        ):
            making = NewGeneration(
                Topics(config.kafka.namespace),
                database=database,
                log=log,
                reader=reader,
                producer=producer,
                online=Online(memory, config.redis.prefix),
                max_batch_bytes=config.kafka.max_batch_bytes,
                archive=Shelf(database, config.archive.url),
            )
            quiet_s = 1.5 * config.edge.lease_ms / 1_000
            return await making.make(partitions or spec.partitions, config.kafka.replication, spec.settings, quiet_s)

    made = console.run(loaded, work)
    click.echo(json.dumps(made._asdict()) if as_json else told(made))


def told(made: Made) -> str:
    lines = [f"{made.topic} is made: generation {made.generation}, {made.partitions} partitions."]
    if made.lost:
        lines.append(f"It follows a topic that was lost: {made.lost}.")
        lines.append(f"Records carried over, since they were accepted and not stored: {made.carried}.")
    lines += [
        "Next, in this order:",
        "  1. start (or restart) every `chat persist`, then every `chat router`: they name the topics they read when ready;",
        "  2. start the edges: they write to the newest generation.",
        f"{made.old_topic}, where it is still there, is not needed once they run: history is in MySQL.",
    ]
    return "\n".join(lines)
