"""Kafka, Redis and MariaDB for all tests of a run: given ones, or their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from chat.config import KafkaConfig, MysqlConfig, RedisConfig
from tests.harness.cluster import run_cluster

GIVEN = ("CHAT_TEST_KAFKA", "CHAT_TEST_REDIS", "CHAT_TEST_MYSQL")


class Servers(NamedTuple):
    """Where they are; `mysql.database` names none yet."""

    kafka: KafkaConfig
    redis: RedisConfig
    mysql: MysqlConfig


def given_servers(environ: Mapping[str, str]) -> Servers | None:
    """Those named in the environment. None: none are; ValueError: only some."""
    found = {name: environ.get(name, "") for name in GIVEN}
    if not any(found.values()):
        return None
    if missing := [name for name, where in found.items() if not where]:
        raise ValueError(f"set {', '.join(missing)} too, or none of {', '.join(GIVEN)}")
    who, _, where = found["CHAT_TEST_MYSQL"].rpartition("@")
    user, _, password = who.partition(":")
    host, _, port = where.partition(":")
    return Servers(
        KafkaConfig(bootstrap=found["CHAT_TEST_KAFKA"]),
        RedisConfig(url=f"redis://{found['CHAT_TEST_REDIS']}/0"),
        MysqlConfig(host=host, port=int(port), user=user, password=password, database=""),
    )


@contextmanager
def run_servers(folder: Path) -> Iterator[Servers]:
    none = {"up.edges": 0, "up.routers": 0, "up.persists": 0, "up.parts": "kafka,redis,mariadb"}
    with run_cluster(folder, none) as cluster:
        config = cluster.config
        yield Servers(config.kafka, config.redis, replace(config.mysql, database=""))
