from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chat.edge.tokens import AWAY_S, DAY_MS, Entry, Tokens, hash_of, new_token
from chat.errors import PartAway
from tests.fakes.redis import FakeRedis

ENTRY = Entry(user=1, name="anna", device="device-1", expires_at=DAY_MS, at=0)


def test_tokens_are_random_and_short() -> None:
    made = {new_token() for _ in range(100)}
    assert {len(t) for t in made} == {43}
    assert len({hash_of(t) for t in made}) == 100


@pytest.mark.parametrize(("used", "needed"), [(0, False), (DAY_MS, False), (DAY_MS + 1, True)])
def test_a_life_is_extended_by_the_day(used: int, needed: bool) -> None:
    tokens = Tokens(FakeRedis(), "", 30)
    assert tokens.needs_extending(tokens.life_ms, used) is needed
    short = Tokens(FakeRedis(), "", 1)
    assert short.needs_extending(DAY_MS, DAY_MS // 12)


async def test_redis_is_left_alone_for_a_moment(autojump_clock: MockClock) -> None:
    redis = FakeRedis()
    tokens = Tokens(redis, "t:", 30)
    key = hash_of("x")
    await tokens.keep({key: (None, ENTRY)})
    redis.away = True
    with pytest.raises(PartAway):
        await tokens.cached([key])
    redis.away = False
    asked = len(redis.pipelines)
    with pytest.raises(PartAway):
        await tokens.cached([key])
    await tokens.keep({key: (None, ENTRY)})
    assert len(redis.pipelines) == asked
    assert await tokens.bury([hash_of("y")])  # an end is always tried
    await trio.sleep(AWAY_S)
    assert await tokens.cached([key]) != [None]


async def test_what_another_version_wrote_counts_as_unknown(autojump_clock: MockClock) -> None:
    redis = FakeRedis()
    tokens = Tokens(redis, "t:", 30)
    for raw in ("{}", "nonsense", '{"user":"x"}'):
        redis.execute("SET", "t:session:" + hash_of("x").hex(), raw)
        assert await tokens.cached([hash_of("x")]) == [None]
