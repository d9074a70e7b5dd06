from __future__ import annotations

from typing import Any

import pytest
import trio
from msgspec.structs import replace

from chat.bridge import open_memory
from chat.bridge.redis import Address
from chat.config import RedisConfig
from chat.errors import BadData, PartAway
from chat.ports import Command, Memory


@pytest.fixture
def key(namespace: str) -> str:
    return f"{namespace}:key"


async def one(memory: Memory, *command: str | bytes | int | float) -> Any:
    (reply,) = await memory.pipeline([command])
    return reply


async def test_strings(memory: Memory, key: str) -> None:
    assert await memory.pipeline([]) == []
    assert await memory.pipeline(
        [
            ("GET", key),
            ("SET", key, b"\x00\xff\r\n"),
            ("GET", key),
            ("SET", key, "second", "NX"),
            ("SET", key, "third", "XX", "PX", 60_000),
            ("MGET", key, f"{key}-none"),
            ("EXISTS", key, f"{key}-none", key),
            ("DEL", key, f"{key}-none"),
            ("PTTL", key),
            ("INCR", key),
            ("PTTL", key),
        ]
    ) == [None, b"OK", b"\x00\xff\r\n", None, b"OK", [b"third", None], 2, 1, -2, 1, -1]


async def test_hashes_and_sets(memory: Memory, key: str) -> None:
    assert await memory.pipeline(
        [
            ("HSET", key, "a", 1, "b", "2"),
            ("HSET", key, "b", 3),
            ("HGET", key, "b"),
            ("HMGET", key, "a", "none"),
            ("HGETALL", key),
            ("HLEN", key),
            ("HEXISTS", key, "a"),
            ("HDEL", key, "a", "b", "c"),
            ("EXISTS", key),
            ("HGETALL", key),
            ("HGET", key, "a"),
            ("SADD", key, "x", "y", "x"),
            ("SADD", key, "y"),
            ("SISMEMBER", key, "x"),
            ("SCARD", key),
            ("SREM", key, "x", "z"),
            ("SMEMBERS", key),
            ("SREM", key, "y"),
            ("EXISTS", key),
        ]
    ) == [2, 0, b"3", [b"1", None], [b"a", b"1", b"b", b"3"], 2, 1, 2, 0, [], None, 2, 0, 1, 2, 1, [b"y"], 1, 0]


async def test_keys_expire(memory: Memory, key: str) -> None:
    assert await memory.pipeline([("SET", key, "x", "PX", 30), ("PEXPIRE", f"{key}-none", 10)]) == [b"OK", 0]
    with trio.fail_after(5):
        while await one(memory, "GET", key) is not None:
            await trio.lowlevel.checkpoint()
    assert await memory.pipeline([("HSET", key, "a", 1), ("PEXPIRE", key, 30)]) == [1, 1]
    with trio.fail_after(5):
        while await one(memory, "HLEN", key):
            await trio.lowlevel.checkpoint()


async def test_a_refused_command_leaves_the_others_alone(memory: Memory, key: str) -> None:
    replies = await memory.pipeline(
        [("SET", key, "x"), ("HGET", key, "a"), ("NOSUCH", "x"), ("GET",), ("INCR", key), ("GET", key)]
    )
    assert [type(r) for r in replies] == [bytes, BadData, BadData, BadData, BadData, bytes]
    assert "WRONGTYPE" in str(replies[1])


async def test_the_run_id_stays(memory: Memory) -> None:
    assert await memory.run_id() == await memory.run_id()


async def test_many_commands_and_many_tasks(memory: Memory, key: str) -> None:
    commands: list[Command] = [("SET", f"{key}{i}", "v" * 500) for i in range(3_000)]
    assert await memory.pipeline(commands) == [b"OK"] * 3_000
    assert await memory.pipeline([("GET", f"{key}{i}") for i in range(3_000)]) == [b"v" * 500] * 3_000

    async def ask(number: int) -> None:
        assert await memory.pipeline([("SET", f"{key}{number}", number), ("GET", f"{key}{number}")]) == [
            b"OK",
            b"%d" % number,
        ]

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, number)


# ------------------------------------------------------------------ the real one alone


@pytest.mark.servers
async def test_scripts(redis_config: RedisConfig, key: str) -> None:
    async with open_memory(redis_config) as memory:
        assert await one(memory, "EVAL", "return {KEYS[1], ARGV[1], 3, false}", 1, key, "x") == [key.encode(), b"x", 3, None]
        assert isinstance(await one(memory, "EVAL", "return redis.error_reply('ERR no')", 0), BadData)


@pytest.mark.servers
async def test_a_connection_that_was_closed_while_idle(redis_config: RedisConfig, key: str) -> None:
    async with open_memory(redis_config) as memory, open_memory(redis_config) as killer:
        mine = await one(memory, "CLIENT", "ID")
        assert await one(killer, "CLIENT", "KILL", "ID", mine) == 1
        with trio.fail_after(5):
            while not memory._idle[0].stale():
                await trio.lowlevel.checkpoint()
        assert await one(memory, "SET", key, "x") == b"OK"
        assert await one(memory, "CLIENT", "ID") != mine
        await one(memory, "DEL", key)


@pytest.mark.servers
async def test_a_connection_that_breaks_in_the_middle(redis_config: RedisConfig, key: str) -> None:
    async with open_memory(redis_config) as memory, open_memory(redis_config) as killer, trio.open_nursery() as nursery:
        mine = await one(memory, "CLIENT", "ID")

        async def wait() -> None:
            with pytest.raises(PartAway):
                await memory.pipeline([("BLPOP", key, 30)])

        nursery.start_soon(wait)
        with trio.fail_after(5):
            while await one(killer, "CLIENT", "KILL", "ID", mine) != 1:
                await trio.lowlevel.checkpoint()
    async with open_memory(redis_config) as memory:
        assert await one(memory, "PING") == b"PONG"


@pytest.mark.servers
async def test_a_late_answer_is_not_taken_for_another_ones(redis_config: RedisConfig, key: str) -> None:
    async with open_memory(replace(redis_config, timeout_ms=100, connections=1)) as memory:
        with trio.fail_after(5), pytest.raises(PartAway):
            await memory.pipeline([("BLPOP", key, 1)])
        assert await one(memory, "ECHO", "mine") == b"mine"


@pytest.mark.servers
async def test_cancelling_waits_for_the_answer(redis_config: RedisConfig, key: str) -> None:
    async with open_memory(replace(redis_config, connections=1)) as memory:
        assert await one(memory, "PING") == b"PONG"
        with trio.CancelScope() as scope:
            scope.cancel()
            await memory.pipeline([("SET", key, "x")])
        assert await one(memory, "GET", key) is None  # cancelled before it began
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.pipeline, [("SET", key, "x")])
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await one(memory, "GET", key) in (None, b"x")
        await one(memory, "DEL", key)


async def test_nobody_listens(closed_port: int) -> None:
    with trio.fail_after(5):
        async with open_memory(RedisConfig(url=f"redis://127.0.0.1:{closed_port}")) as memory:
            with pytest.raises(PartAway):
                await memory.pipeline([("PING",)])
            with pytest.raises(PartAway):
                await memory.run_id()


async def test_nobody_answers(silent_port: int) -> None:
    with trio.fail_after(5):
        async with open_memory(RedisConfig(url=f"redis://127.0.0.1:{silent_port}", timeout_ms=200)) as memory:
            with pytest.raises(PartAway):
                await memory.pipeline([("PING",)])


@pytest.mark.servers
async def test_a_wrong_password(redis_config: RedisConfig) -> None:
    url = redis_config.url.replace("redis://", "redis://nobody:wrong@")
    async with open_memory(replace(redis_config, url=url)) as memory:
        with pytest.raises(PartAway):
            await memory.pipeline([("PING",)])


@pytest.mark.parametrize(
    ("url", "host", "port", "hello"),
    [
        ("redis://h", "h", 6379, []),
        ("redis://h:1/2", "h", 1, [("SELECT", 2)]),
        ("redis://:p%40ss@h", "h", 6379, [("AUTH", "p@ss")]),
        ("redis://u:p@h:7/0", "h", 7, [("AUTH", "u", "p")]),
    ],
)
def test_addresses(url: str, host: str, port: int, hello: list[Command]) -> None:
    found = Address(url)
    assert (found.host, found.port, found.hello) == (host, port, hello)


def test_an_address_of_another_kind() -> None:
    with pytest.raises(ValueError, match="not a redis URL"):
        Address("http://h")
    assert Address("unix:///run/redis.sock?db=3").path == "/run/redis.sock"
