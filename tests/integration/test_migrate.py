"""Migrations on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from chat.bridge import open_database
from chat.config import MysqlConfig
from chat.errors import PartError, SetupError
from chat.persist import migrate as module
from chat.persist.migrate import load, migrate
from chat.ports import Database, Statement

pytestmark = pytest.mark.servers


@pytest.fixture
async def database(mysql_config: MysqlConfig) -> AsyncIterator[Database]:
    async with open_database(mysql_config) as database:
        yield database


async def applied(database: Database) -> list[str]:
    (result,) = await database.read([Statement("SELECT name FROM schema_migrations ORDER BY number")])
    return [name for (name,) in result.rows]


async def test_once_by_many_at_a_time_and_never_again(database: Database) -> None:
    done: list[list[str]] = []

    async def run() -> None:
        done.append(await migrate(database))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(run)
    ours = [m.name for m in load()]
    assert sorted(done) == [[], [], ours]
    assert await migrate(database) == []
    assert await applied(database) == ours


async def test_a_run_that_was_cut_off_is_taken_up(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "0001_first.sql"
    file.write_text("CREATE TABLE IF NOT EXISTS a (x INT); CREATE TABLE IF NOT EXISTS b (x INT); rubbish;")
    with pytest.raises(PartError):
        await migrate(database, tmp_path)
    assert await applied(database) == []
    file.write_text("CREATE TABLE IF NOT EXISTS a (x INT); CREATE TABLE IF NOT EXISTS b (x INT);")
    assert await migrate(database, tmp_path) == ["0001_first.sql"]
    file.write_text("CREATE TABLE c (x INT);")
    with pytest.raises(SetupError, match="must not be edited"):
        await migrate(database, tmp_path)


async def test_who_holds_the_lock_is_waited_for_a_bounded_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.2)
    async with database.lock(module.LOCK) as held:
        assert held
        with pytest.raises(SetupError, match="PROCESSLIST"):
            await migrate(database)
    assert await migrate(database)


async def test_ours_can_all_be_repeated_and_fill_what_is_new(database: Database) -> None:
    statements = [statement for migration in load() for statement in migration.statements]
    await database.script(statements)
    await database.write(
        [
            Statement("INSERT INTO members VALUES (7, 1, 5, 9, 100, NULL), (7, 2, 6, NULL, 100, NULL)"),
            Statement("INSERT INTO messages VALUES ('g7', 9, 'g7', 123, 1, NULL, NULL, 'group_left', 0, '{}')"),
        ]
    )
    await database.script(statements)
    (found,) = await database.read([Statement("SELECT user, left_at FROM members ORDER BY user")])
    assert [tuple(row) for row in found.rows] == [(1, 123), (2, None)]
