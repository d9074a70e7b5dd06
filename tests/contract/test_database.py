"""MySQL has no fake: the suite runs on the real server alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from chat import sql
from chat.bridge import open_bridge, open_database
from chat.bridge.loop import call
from chat.bridge.mysql import TOGETHER_BYTES, MysqlDatabase
from chat.config import MysqlConfig
from chat.errors import BadData, Conflict, PartAway
from chat.ports import Statement as S
from tests.harness.servers import Servers

pytestmark = pytest.mark.servers

TABLE = """CREATE TABLE things (
    id BIGINT NOT NULL PRIMARY KEY,
    name VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NULL,
    label VARCHAR(500) CHARACTER SET utf8mb4 NULL,
    body MEDIUMBLOB NULL,
    UNIQUE KEY by_name (name)
) ENGINE=InnoDB"""


@pytest.fixture
async def database(mysql_config: MysqlConfig) -> AsyncIterator[MysqlDatabase]:
    async with open_database(mysql_config) as database:
        await database.script([TABLE])
        yield database


IS_SLEEPING = "SELECT 1 FROM information_schema.processlist WHERE id = %s AND info LIKE '%%SLEEP%%'"


async def rows(database: MysqlDatabase, text: str, *args: Any) -> list[tuple[Any, ...]]:
    (result,) = await database.read([S(text, args)])
    return list(result.rows)


async def test_values_come_back_as_they_went(database: MysqlDatabase) -> None:
    label = "中文 'quoted' \\ \"double\" % _ 🙂 \n\t;--"
    (result,) = await database.write(
        [S("INSERT INTO things VALUES (%s, %s, %s, %s)", (2**53 - 1, "a-name", label, bytes(range(256))), 1)]
    )
    assert result.changed == 1
    assert await rows(database, "SELECT * FROM things") == [(2**53 - 1, "a-name", label, bytes(range(256)))]
    assert await rows(database, "SELECT id FROM things WHERE label = %s AND body = %s", label, bytes(range(256)))
    assert await rows(database, "SELECT %s, 100 %% 7", None) == [(None, 2)]
    assert await rows(database, "SELECT 100 % 7") == [(2,)]
    assert await rows(database, "SELECT 2 IN %s, 2 IN %s, 2 IN %s", [1, 2], (3,), []) == [(1, 0, None)]


async def test_each_statement_has_its_result(database: MysqlDatabase) -> None:
    found = await database.read(
        [S("SELECT 1 UNION SELECT 2"), S("SELECT 3 WHERE 1 = 0"), S("SELECT 4;"), S("SELECT 5 -- five")]
    )
    assert [list(r.rows) for r in found] == [[(1,), (2,)], [], [(4,)], [(5,)]]


async def test_a_transaction_is_whole_or_nothing(database: MysqlDatabase) -> None:
    await database.write([S("INSERT INTO things (id, name) VALUES (1, 'one')")])
    with pytest.raises(Conflict) as conflict:
        await database.write(
            [
                S("INSERT INTO things (id) VALUES (2)", (), 1),
                S("UPDATE things SET label = 'x' WHERE id = %s", (9,), 1),
                S("INSERT INTO things (id) VALUES (3)"),
            ]
        )
    assert (conflict.value.index, conflict.value.found) == (1, 0)
    with pytest.raises(BadData) as duplicate:
        await database.write([S("INSERT INTO things (id) VALUES (2)"), S("INSERT INTO things (id, name) VALUES (4, 'one')")])
    assert duplicate.value.duplicate
    with pytest.raises(BadData) as too_long:
        await database.write(
            [S("INSERT INTO things (id) VALUES (2)"), S("INSERT INTO things (id, name) VALUES (4, %s)", ("x" * 21,))]
        )
    assert not too_long.value.duplicate
    with pytest.raises(BadData):
        await database.write([S("INSERT INTO things (id) VALUES (2)"), S("SELEC 1")])
    with pytest.raises(BadData):
        await database.write([S("INSERT INTO things (id, name) VALUES (5, %s)", ("中",))])
    assert await rows(database, "SELECT id FROM things") == [(1,)]


async def test_changed_rows_are_those_that_are_altered(database: MysqlDatabase) -> None:
    await database.write([S("INSERT INTO things (id, label) VALUES (1, 'a'), (2, 'a')", (), 2)])
    results = await database.write(
        [
            S("UPDATE things SET label = 'a'"),
            S("UPDATE things SET label = 'b' WHERE id = 1"),
            S("INSERT INTO things (id, label) VALUES (2, 'a') ON DUPLICATE KEY UPDATE label = VALUES(label)"),
            S("INSERT INTO things (id, label) VALUES (2, 'c') ON DUPLICATE KEY UPDATE label = VALUES(label)"),
            S("INSERT INTO things (id, label) VALUES (3, 'c') ON DUPLICATE KEY UPDATE label = VALUES(label)"),
            S("DELETE FROM things"),
        ]
    )
    assert [r.changed for r in results] == [0, 1, 0, 2, 1, 3]


async def test_an_id_that_the_database_gives(database: MysqlDatabase) -> None:
    await database.script(["CREATE TABLE counted (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, x INT) ENGINE=InnoDB"])
    first, second = await database.write([S("INSERT INTO counted (x) VALUES (1)"), S("INSERT INTO counted (x) VALUES (2)")])
    assert second.last_id == first.last_id + 1 > 1


async def test_a_snapshot_does_not_move(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    """A row that is committed between its statements is not seen."""
    async with open_database(mysql_config) as other, trio.open_nursery() as nursery:
        before_second = S("SELECT COUNT(*) FROM things")
        slow = S("SELECT SLEEP(0.5)")

        async def add() -> None:
            await trio.testing.wait_all_tasks_blocked(0.1)
            await other.write([S("INSERT INTO things (id) VALUES (1)")])

        nursery.start_soon(add)
        first, _, second = await database.snapshot([before_second, slow, before_second])
        assert (first.rows[0], second.rows[0]) == ((0,), (0,))
    assert await rows(database, "SELECT COUNT(*) FROM things") == [(1,)]
    with pytest.raises((BadData, PartAway)):
        await database.snapshot([S("INSERT INTO things (id) VALUES (2)")])


async def test_reads_see_what_others_have_committed(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    one_connection = replace(mysql_config, connections=1)
    async with open_database(one_connection) as reader:
        for count in range(3):
            assert await rows(reader, "SELECT COUNT(*) FROM things") == [(count,)]
            await database.write([S("INSERT INTO things (id) VALUES (%s)", (count,))])


async def test_more_than_fits_one_packet_together(database: MysqlDatabase) -> None:
    body = b"x" * (TOGETHER_BYTES // 4)
    await database.write([S("INSERT INTO things (id, body) VALUES (%s, %s)", (i, body), 1) for i in range(5)])
    assert await rows(database, "SELECT COUNT(*), SUM(LENGTH(body)) = %s FROM things", 5 * len(body)) == [(5, 1)]


async def test_a_killed_connection(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    single = replace(mysql_config, connections=1)
    async with open_database(single) as victim:
        ((number,),) = await rows(victim, "SELECT CONNECTION_ID()")
        await database.script([f"KILL {number}"])
        with trio.fail_after(5):  # noticed while idle
            while True:
                try:
                    ((after,),) = await rows(victim, "SELECT CONNECTION_ID()")
                except PartAway:
                    continue
                break
        assert after != number
        async with trio.open_nursery() as nursery:  # in the middle of a transaction

            async def write() -> None:
                with pytest.raises(PartAway):
                    await victim.write([S("INSERT INTO things (id) VALUES (1)"), S("SELECT SLEEP(3)")])

            nursery.start_soon(write)
            with trio.fail_after(5):
                while not await rows(
                    database,
                    IS_SLEEPING,
                    after,
                ):
                    await trio.lowlevel.checkpoint()
            await database.script([f"KILL {after}"])
        assert await rows(victim, "SELECT COUNT(*) FROM things") == [(0,)]


async def test_a_lock_that_is_waited_for_too_long(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    await database.write([S("INSERT INTO things (id) VALUES (1)")])
    quick = replace(mysql_config, timeout_ms=2_000)
    async with open_database(quick) as waiting, trio.open_nursery() as nursery:
        holding = trio.Event()

        async def hold() -> None:
            holding.set()
            await database.write([S("UPDATE things SET label = 'held'"), S("SELECT SLEEP(3)")])

        nursery.start_soon(hold)
        await holding.wait()
        with trio.fail_after(5):
            while not await rows(
                waiting,
                "SELECT 1 FROM information_schema.processlist WHERE db = %s AND info LIKE 'SELECT SLEEP%%'",
                mysql_config.database,
            ):
                await trio.lowlevel.checkpoint()
            with pytest.raises(PartAway):
                await waiting.write([S("UPDATE things SET label = 'mine'")])
            assert await rows(waiting, "SELECT label FROM things") == [(None,)]


async def test_a_statement_that_takes_too_long(mysql_config: MysqlConfig) -> None:
    async with open_database(replace(mysql_config, timeout_ms=500)) as database:
        with trio.fail_after(5), pytest.raises(PartAway):
            await database.read([S("SELECT SLEEP(4)"), S("SELECT BENCHMARK(2000000000, MD5('x'))")])
        assert await rows(database, "SELECT 1") == [(1,)]


async def test_more_tasks_than_connections(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    async with open_database(replace(mysql_config, connections=2)) as small, trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(small.write, [S("INSERT INTO things (id) VALUES (%s)", (number,), 1)])
    assert await rows(database, "SELECT COUNT(*) FROM things") == [(30,)]


async def test_cancelling_leaves_no_half_transaction(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    async with open_database(replace(mysql_config, connections=1)) as single:
        for number in range(10):
            with trio.move_on_after(0.0004 * number):
                await single.write(
                    [
                        S("INSERT INTO things (id) VALUES (%s)", (2 * number,)),
                        S("INSERT INTO things (id) VALUES (%s)", (2 * number + 1,)),
                    ]
                )
            found = [
                row[0]
                for row in await rows(single, "SELECT id FROM things WHERE id IN (%s, %s)", 2 * number, 2 * number + 1)
            ]
            assert len(found) in (0, 2)


async def test_a_named_lock_has_one_holder(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    async with open_database(mysql_config) as other:
        lock = database.lock("archive")
        async with lock as held:
            assert held
            assert await lock.held()
            async with other.lock("archive") as second:
                assert not second
            async with other.lock("another") as third:
                assert third
        assert not await lock.held()
        async with other.lock("archive") as held:
            assert held


async def test_a_dead_holder_loses_the_lock(database: MysqlDatabase, mysql_config: MysqlConfig) -> None:
    async with open_database(mysql_config) as other:
        lock = database.lock("archive")
        async with lock as held:
            assert held
            number = await call(5, lock._ask, "SELECT IS_USED_LOCK(%s)")
            await other.script([f"KILL {number}"])
            assert not await lock.held()
            with trio.fail_after(5):
                while True:
                    async with other.lock("archive") as taken:
                        if taken:
                            break


async def test_nobody_listens(bridge: None, closed_port: int) -> None:
    with trio.fail_after(5):
        async with open_database(MysqlConfig(port=closed_port)) as database:
            with pytest.raises(PartAway):
                await database.read([S("SELECT 1")])
            with pytest.raises(PartAway):
                async with database.lock("x"):
                    pass


async def test_nobody_answers(bridge: None, silent_port: int) -> None:
    with trio.fail_after(5):
        async with open_database(MysqlConfig(port=silent_port, timeout_ms=200)) as database:
            with pytest.raises(PartAway):
                await database.read([S("SELECT 1")])


async def test_a_wrong_password(mysql_config: MysqlConfig) -> None:
    async with open_database(replace(mysql_config, password="wrong")) as database:
        with pytest.raises(PartAway):
            await database.read([S("SELECT 1")])


Row = tuple[str | None, bytes | None, int, float]


@given(
    table=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(codec="utf-8"), max_size=40) | st.text("'\"\\;-#/*%`\0\n\r\x1a", max_size=20),
            st.none() | st.binary(max_size=60),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, min_value=-1e300, max_value=1e300),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_breaks_out_of_its_literal(servers: Servers, table: list[Row]) -> None:
    """Each comes back from the server as it went."""

    async def ask() -> None:
        config = replace(servers.mysql, database="information_schema")
        async with open_bridge(), open_database(config) as database:
            one_by_one = await database.read([S("SELECT %s, %s, %s, %s", row) for row in table])
            assert [r.rows[0] for r in one_by_one] == table
            doubled = " UNION ALL SELECT ".join(sql.row(row)[1:-1] for row in table)
            (together,) = await database.read([S(f"SELECT {doubled}")])
            assert len(together.rows) == len(table)

    trio.run(ask)
