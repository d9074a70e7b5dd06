"""The archiver against a real server and real files: every row is in one place, once, whatever ends in between."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from chat.bridge.loop import call
from chat.bridge.mysql import MysqlDatabase, run
from chat.config import Config, MysqlConfig
from chat.metrics import ArchiveMetrics
from chat.persist.archive import mover as movers
from chat.persist.archive.archiver import LOCK, Archiver
from chat.persist.archive.plan import DAY_MS, FIRST, LAST, Range
from chat.persist.archive.rows import Garbled
from chat.persist.archive.tables import rows_go, slices
from chat.persist.archive.verify import verify_all
from chat.persist.migrate import migrate
from tests.integration.archive_store import NOW, Store, environment, old_rows, open_store

pytestmark = pytest.mark.servers

BEFORE = NOW - 30 * DAY_MS


@pytest.fixture
async def store(mysql_config: MysqlConfig, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(mysql_config, str(tmp_path / "files"), grace_s=0.0) as store:
        await migrate(store.database)
        yield store


async def test_old_rows_move_and_young_ones_stay(store: Store) -> None:
    rows = old_rows(500)
    young = old_rows(80, seed=2, first=1_000, days=(29, 1))
    await store.insert([*rows, *young])
    progress = await store.archiver().run(BEFORE, "asked")
    assert (progress.rows, progress.slices) == (500, len(await slices(store.database)))
    assert progress.slices == 5
    assert await store.hot() == sorted(young)
    assert await store.cold() == rows
    assert {one.file for one in await slices(store.database)} == await store.files()
    assert await store.ask("SELECT why, row_count, slice_count, ended_at IS NOT NULL FROM archive_runs") == [
        ("asked", 500, 5, 1)
    ]
    again = await store.archiver().run(BEFORE, "asked")
    assert (again.rows, again.slices) == (0, 0)
    found = await verify_all(store.database, store.folder, lambda done, of: None)
    assert (found.slices, found.rows, found.damaged) == (5, 500, [])


async def test_rows_of_any_size_move(store: Store) -> None:
    """Larger together than one value of the server may be, so that windows are halved; with one that barely fits."""
    rows = [(*row[:9], row[9] + b"y" * size) for row, size in zip(old_rows(60), [900_000] * 24 + [0] * 36, strict=True)]
    for at in range(0, 60, 5):
        await store.insert(rows[at : at + 5])
    await store.archiver(slice_rows=50_000).run(BEFORE, "asked")
    assert await store.hot() == []
    assert await store.cold() == rows


#: Step of a look → which time. All of them, in the first slice and in a later one.
STEPS = [
    ("read", 1), ("begun", 1), ("half-written", 1), ("written", 2), ("verified", 1), ("removed", 1), ("in-transaction", 2),
    ("commit-sent", 1), ("committed", 1), ("rewritten", 1), ("swapped", 1),
]  # fmt: skip


async def test_killed_at_every_step_nothing_is_lost_or_doubled(mysql_config: MysqlConfig, tmp_path: Path) -> None:
    """A process is killed at each step in turn, and each finds what the one before has left. In the end a whole look."""
    url, rows = str(tmp_path / "files"), old_rows(700)
    config = Config(mysql=mysql_config)
    settings = {"grace_s": 0.0, "run_hours": 0.0}
    kept = [row for row in rows if row[3] >= NOW - 90 * DAY_MS]
    async with open_store(mysql_config, url, **settings) as store:
        await migrate(store.database)
        await store.insert(rows)
        for step, nth in STEPS:
            expires = step in ("rewritten", "swapped")
            env = environment(config, url, step, nth, **settings, retention_days=90.0 if expires else 0.0)
            command = [sys.executable, "-m", "tests.integration.archive_store"]
            with trio.fail_after(60):
                done = await trio.run_process(command, env=env, check=False)
            assert done.returncode == -signal.SIGKILL, step
            assert await store.whole() == rows or (expires and {*kept} <= {*await store.whole()} <= {*rows}), step
            slices_there = {one.file for one in await slices(store.database)}
            known = {file for (file,) in await store.ask("SELECT file FROM archive_files")}
            assert slices_there <= await store.files() <= slices_there | known, step
        archiver = store.archiver(retention_days=90.0)
        async with archiver.holding() as held:
            assert held  # a dead holder has not kept it
            await archiver.look(trio.Event())
            await archiver.look(trio.Event())
        assert await store.hot() == []
        assert await store.cold() == kept
        assert {one.file for one in await slices(store.database)} == await store.files()
        assert await store.ask("SELECT * FROM archive_files") == []


async def test_rows_that_come_meanwhile_are_neither_lost_nor_doubled(store: Store) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rows = old_rows(2_000, seed=seed)
    first, later = rows[::2], rows[1::2]
    await store.insert(first)
    metrics = ArchiveMetrics()
    archiver = Archiver(
        replace(store.config, slice_rows=200), database=store.database, folder=store.folder, metrics=metrics, now=lambda: NOW
    )
    parts = [later[at : at + 50] for at in range(0, len(later), 50)]
    left = iter(parts[:10])  # for the middle of slices: their rows lie everywhere

    async def persist() -> None:
        for part in parts[10:]:
            await store.insert(part)

    write = archiver.mover.write

    async def writing(gathered: movers.Gathered) -> movers.Written:
        """Between the reading of a slice and its end, rows come into it, at least once."""
        made = await write(gathered)
        for part in left:
            await store.insert(part)
            break
        return made

    archiver.mover.write = writing  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archiver.run, BEFORE, "asked")
        nursery.start_soon(persist)
    archiver.mover.write = write  # type: ignore[method-assign]
    for part in left:
        await store.insert(part)
    assert await store.whole() == rows
    assert metrics.again._value.get() > 0
    await archiver.run(BEFORE, "asked")
    assert await store.hot() == []
    assert await store.cold() == rows
    await archiver.look()
    assert {one.file for one in await slices(store.database)} == await store.files()


async def test_the_transaction_locks_no_gap(store: Store, mysql_config: MysqlConfig) -> None:
    """While a slice's rows are deleted and not committed, rows are stored among them and behind them."""
    rows = old_rows(200)
    await store.insert(rows[::2])
    other = MysqlDatabase(mysql_config)

    async def delete() -> None:
        connection = await other.connect(limits=True)
        await run(connection, ["START TRANSACTION"], [rows_go(Range(FIRST, LAST), BEFORE, 100)])
        delete.connection = connection  # type: ignore[attr-defined]

    await call(10, delete)
    with trio.fail_after(2):
        await store.insert(rows[1::2])
        await store.insert(old_rows(50, first=10_000))

    async def end() -> None:
        await delete.connection.query("COMMIT")  # type: ignore[attr-defined]
        delete.connection.close()  # type: ignore[attr-defined]

    await call(10, end)
    assert len(await store.hot()) == 150


async def test_one_archiver_at_a_time_and_a_false_one_moves_nothing(store: Store) -> None:
    await store.insert(old_rows(150))
    async with store.database.lock(LOCK) as held:
        assert held
        async with store.archiver().holding() as second:
            assert not second
    # One that has lost the lock without knowing: the other has given up its file, so it can make no slice of it.
    archiver = store.archiver()
    write = archiver.mover.write

    async def overtaken(gathered: movers.Gathered) -> movers.Written:
        made = await write(gathered)
        await store.archiver().sweep()
        return made

    archiver.mover.write = overtaken  # type: ignore[method-assign]
    with pytest.raises(movers.LockLost):
        await archiver.run(BEFORE, "asked")
    assert len(await store.hot()) == 150
    assert await slices(store.database) == []


async def test_a_file_that_is_not_what_was_written_becomes_no_slice(store: Store) -> None:
    rows = old_rows(150)
    await store.insert(rows)
    archiver = store.archiver()
    read = store.folder.read

    async def damaged(name: str) -> bytes:
        data = bytearray(await read(name))
        data[len(data) // 2] ^= 1
        return bytes(data)

    archiver.folder.read = damaged  # type: ignore[method-assign]
    with pytest.raises(Garbled):
        await archiver.run(BEFORE, "asked")
    archiver.folder.read = read  # type: ignore[method-assign]
    assert await store.hot() == rows
    await archiver.run(BEFORE, "asked")
    assert await store.cold() == rows
    (one, *_) = await slices(store.database)
    path = trio.Path(store.folder.path(one.file))
    content = await path.read_bytes()
    await path.write_bytes(content[:-1] + b"?")
    found = await verify_all(store.database, store.folder, lambda done, of: None)
    assert [(d.slice, "checksum" in d.what) for d in found.damaged] == [(one.id, True)]
    await path.unlink()
    found = await verify_all(store.database, store.folder, lambda done, of: None)
    assert [d.what for d in found.damaged] == ["the file is missing"]


async def test_many_rows_are_a_reason_too_and_old_age_an_end(store: Store) -> None:
    young = old_rows(400, days=(20, 1))
    await store.insert(young)
    await store.database.script(["ANALYZE TABLE messages"])
    outcome = await store.archiver(max_rows=300, keep_rows=200).look()
    assert outcome.why == "rows"
    left = await store.hot()
    assert 150 < len(left) <= 200
    assert await store.whole() == young
    assert min(r[3] for r in left) >= outcome.before > max(r[3] for r in await store.cold())
    quiet = await store.archiver().look()
    assert quiet.why == ""  # a run a day
    later = NOW + 2 * DAY_MS
    ended = await store.archiver(now=lambda: later, retention_days=10.0, age_days=40.0, run_hours=24.0).look()
    kept = [row for row in young if row[3] >= later - 10 * DAY_MS]
    # a slice that is too old in part, but not for long, waits: a day at most
    assert {*kept} <= {*await store.whole()} <= {r for r in young if r[3] >= later - 11 * DAY_MS}
    assert ended.expired == 400 - len(await store.whole())
    await store.archiver(now=lambda: later).look()
    assert {one.file for one in await slices(store.database)} == await store.files()


async def test_files_nobody_refers_to_wait_for_their_readers(store: Store) -> None:
    await store.insert(old_rows(150))
    archiver = store.archiver(grace_s=600.0)
    await archiver.run(BEFORE, "asked")
    before = await store.files()
    clock = [NOW + 11 * DAY_MS]
    late = store.archiver(now=lambda: clock[0], retention_days=20.0, grace_s=600.0)
    await late.look()
    assert await slices(store.database) == []
    assert await store.files() == before
    clock[0] += 599_000
    assert await late.sweep() == 0
    clock[0] += 2_000
    assert await late.sweep() == len(before)
    assert await store.files() == set()
