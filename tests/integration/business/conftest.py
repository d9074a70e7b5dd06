from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from chat.bridge.mysql import MysqlDatabase
from chat.config import EdgeConfig, MysqlConfig
from chat.persist.migrate import load
from tests.fakes.redis import FakeRedis
from tests.integration.business.world import World


@pytest.fixture
def edge_config() -> EdgeConfig:
    return EdgeConfig(sync_wait_ms=50, too_old_messages=100, sessions_per_user=8)


@pytest.fixture
async def world(mysql_config: MysqlConfig, edge_config: EdgeConfig) -> AsyncIterator[World]:
    database = MysqlDatabase(mysql_config)
    await database.script([s for migration in load() for s in migration.statements])
    made = World(database, edge_config, FakeRedis())
    await made.set_up()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.services.run)
        yield made
        nursery.cancel_scope.cancel()
    await database.close()
