"""Each suite runs on the fake and on the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from chat import bridge as real
from chat.config import KafkaConfig, RedisConfig
from chat.ports import GroupConsumer, LogAdmin, LogReader, Memory, Producer
from tests.fakes.kafka import FakeKafka
from tests.fakes.redis import FakeRedis


class AnyKafka:
    """Opens what a test needs, in the fake or in the real one. Topics begin with `ns`."""

    def __init__(self, config: KafkaConfig | None, ns: str) -> None:
        self._config = config
        self.fake = FakeKafka() if config is None else None
        self.ns = ns

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        return self.fake.open_producer() if self.fake else real.open_producer(self._real)

    def member(self, topics: Sequence[str]) -> AbstractAsyncContextManager[GroupConsumer]:
        if self.fake:
            return self.fake.open_group_consumer(self.ns, topics)
        return real.open_group_consumer(self._real, self.ns, topics)

    def reader(self) -> AbstractAsyncContextManager[LogReader]:
        return self.fake.open_log_reader() if self.fake else real.open_log_reader(self._real)

    def admin(self) -> AbstractAsyncContextManager[LogAdmin]:
        return self.fake.open_log_admin() if self.fake else real.open_log_admin(self._real)

    @property
    def _real(self) -> KafkaConfig:
        assert self._config is not None
        return self._config

    async def topic(self, partitions: int = 1) -> str:
        name = f"{self.ns}.topic"
        async with self.admin() as admin:
            await admin.create_topic(name, partitions, 1, {})
        return name

    async def clean(self) -> None:
        if not self.fake:
            async with self.admin() as admin:
                await admin.delete_topics([t for t in await admin.topics() if t.startswith(self.ns)])


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def kafka(request: pytest.FixtureRequest, namespace: str, bridge: None) -> AsyncIterator[AnyKafka]:
    config = request.getfixturevalue("kafka_config") if request.param == "real" else None
    kafka = AnyKafka(config, namespace)
    yield kafka
    await kafka.clean()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
async def memory(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Memory]:
    if request.param == "fake":
        yield FakeRedis()
        return
    config: RedisConfig = request.getfixturevalue("redis_config")
    async with real.open_memory(config) as found:
        yield found
        _, keys = (await found.pipeline([("SCAN", 0, "MATCH", f"{namespace}:*", "COUNT", 1_000_000)]))[0]
        await found.pipeline([("DEL", *keys)] if keys else [])


@pytest.fixture
async def closed_port() -> AsyncIterator[int]:
    """A port that nobody listens on."""
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A server that takes connections and never answers."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]
