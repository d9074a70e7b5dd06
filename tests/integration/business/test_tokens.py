"""Tokens' entries in a real Redis: the exchange is a script."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from chat.bridge.redis import RedisMemory, open_memory
from chat.config import RedisConfig
from chat.edge.tokens import DAY_MS, Entry, Read, Tokens, hash_of, new_token

pytestmark = pytest.mark.servers


@pytest.fixture
async def memory(redis_config: RedisConfig) -> AsyncIterator[RedisMemory]:
    async with open_memory(redis_config) as made:
        yield made


async def test_entries(memory: RedisMemory, redis_config: RedisConfig) -> None:
    tokens = Tokens(memory, redis_config.prefix, 30)
    a, b = hash_of(new_token()), hash_of(new_token())
    first = Entry(user=1, name="anna", device="device-1", expires_at=DAY_MS, groups=[3], at=0)
    assert await tokens.cached([a, b]) == [None, None]
    await tokens.keep({a: (None, first)})
    await tokens.keep({a: (None, replace(first, name="not this"))})
    (found, none) = await tokens.cached([a, b])
    assert isinstance(found, Read)
    assert (found.entry, none) == (first, None)
    (life,) = await memory.pipeline([("PTTL", f"{redis_config.prefix}session:{a.hex()}")])
    assert 0 < life <= DAY_MS

    second = replace(first, groups=[3, 4], at=5)
    await tokens.keep({a: (found, second)})
    (now,) = await tokens.cached([a])
    assert isinstance(now, Read)
    assert now.entry == second
    await tokens.keep({a: (found, first)})  # somebody else was quicker
    (now,) = await tokens.cached([a])
    assert isinstance(now, Read)
    assert now.entry == second

    assert await tokens.bury([a, b])
    await tokens.keep({a: (now, first), b: (None, first)})
    assert await tokens.cached([a, b]) == ["gone", "gone"]
    await tokens.keep({hash_of("x"): (None, replace(first, at=DAY_MS))})  # no life left
    assert await tokens.cached([hash_of("x")]) == [None]
    await memory.pipeline([("DEL", f"{redis_config.prefix}session:{h.hex()}") for h in (a, b)])
