"""The topics of a cluster, as `kafka/topics.toml` says."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Final, NamedTuple

from chat.errors import SetupError
from chat.ports import LogAdmin
from chat.records import Topics
from chat.tools.project import project_file

FILE: Final = "kafka/topics.toml"
#: The table that describes what each edge makes for itself.
EDGE: Final = "edge"


class TopicSpec(NamedTuple):
    partitions: int
    settings: Mapping[str, str]


def load_topics() -> dict[str, TopicSpec]:
    """Name (without the namespace) → what it is to be; `edge` is the form of every `edge.<name>`."""
    tables = tomllib.loads(project_file(FILE).read_text())
    return {name: TopicSpec(table["partitions"], table["settings"]) for name, table in tables.items()}


async def create_topics(admin: LogAdmin, namespace: str, replication: int) -> list[str]:
    """Make those that are missing; their names. Raises SetupError where one exists with another number of partitions:
    that would lead keys elsewhere, and only a new generation may do that."""
    made = []
    topics = Topics(namespace)
    newer = any(topics.generation_of(name) for name in await admin.topics())
    for name, spec in load_topics().items():
        topic = f"{namespace}.{name}"
        if name == EDGE or (topic == topics.messages and newer):  # `chat admin new-generation` has made its follower
            continue
        if await admin.create_topic(topic, spec.partitions, replication, spec.settings):
            made.append(topic)
        elif (found := await admin.partitions(topic)) != spec.partitions:
            raise SetupError(
                f"topic {topic} has {found} partitions and {FILE} says {spec.partitions}: "
                "write the number that it has, or begin a new generation"
            )
    return made
