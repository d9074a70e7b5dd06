"""Fixtures of all suites: the servers, and a corner of each for one test.

`CHAT_TEST_KAFKA` and `CHAT_TEST_REDIS` (host:port) and `CHAT_TEST_MYSQL` (user:password@host:port) name servers that are
running already. A missing server is a failure, not a skip.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from chat.bridge import open_bridge, open_database, open_log_admin
from chat.bridge.mysql import MysqlDatabase
from chat.config import Config, KafkaConfig, MysqlConfig, RedisConfig
from chat.persist.migrate import migrate
from chat.sql import identifier
from chat.tools.topics import create_topics
from tests.harness.cluster import Cluster, run_cluster
from tests.harness.servers import Servers, given_servers, run_servers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if given := given_servers(os.environ):
        yield given
        return
    with run_servers(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture
def namespace() -> str:
    """Before the names of everything that a test makes."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def kafka_config(servers: Servers, namespace: str) -> KafkaConfig:
    return replace(servers.kafka, namespace=namespace)


@pytest.fixture
def redis_config(servers: Servers, namespace: str) -> RedisConfig:
    return replace(servers.redis, prefix=f"{namespace}:")


@pytest.fixture
async def bridge() -> AsyncIterator[None]:
    async with open_bridge():
        yield


@pytest.fixture
async def mysql_config(servers: Servers, namespace: str, bridge: None) -> AsyncIterator[MysqlConfig]:
    """An empty database."""
    outside = MysqlDatabase(replace(servers.mysql, database="information_schema"))
    name = f"chat_{namespace}"
    await outside.script([f"CREATE DATABASE {identifier(name)} CHARACTER SET utf8mb4"])
    yield replace(servers.mysql, database=name)
    await outside.script([f"DROP DATABASE {identifier(name)}"])


@pytest.fixture
async def config(kafka_config: KafkaConfig, redis_config: RedisConfig, mysql_config: MysqlConfig) -> AsyncIterator[Config]:
    """A corner of the servers in which a service can start: topics made, tables migrated; removed afterwards."""
    async with open_database(mysql_config) as database:
        await migrate(database)
    async with open_log_admin(kafka_config) as admin:
        await create_topics(admin, kafka_config.namespace, 1)
        yield Config(kafka=kafka_config, redis=redis_config, mysql=mysql_config)
        await admin.delete_topics([t for t in await admin.topics() if t.startswith(f"{kafka_config.namespace}.")])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One whole cluster for all tests that do it no harm: two edges, a router, a persist, nginx. `CHAT_TEST_CLUSTER` names
    the folder of one that runs already."""
    if given := os.environ.get("CHAT_TEST_CLUSTER"):
        yield Cluster(Path(given))
        return
    with run_cluster(tmp_path_factory.mktemp("cluster") / ".chat", {}) as found:
        yield found


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start clusters that may be harmed: `own_cluster(**{"up.edges": 3, "edge.heartbeat_ms": 200})`."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Cluster:
            return stack.enter_context(run_cluster(tmp_path / f"cluster-{secrets.token_hex(2)}", settings))

        yield start
