"""A store with old messages in it, an archiver to move them, and a process of its own to be killed while it does:
`python -m tests.integration.archive_store` (see `main`)."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import trio
from msgspec.structs import replace

import chat.bridge.mysql as bridge
from chat.bridge import open_bridge, open_database
from chat.config import ArchiveConfig, Config, MysqlConfig
from chat.metrics import ArchiveMetrics
from chat.persist.archive import folder as folders
from chat.persist.archive.archiver import Archiver
from chat.persist.archive.folder import Folder, open_folder
from chat.persist.archive.plan import DAY_MS
from chat.persist.archive.slices import read
from chat.persist.archive.tables import index_of, slices
from chat.ports import Database, Statement
from chat.sql import values

#: When these tests play.
NOW: Final = 1_800_000_000_000
COLUMNS: Final = "timeline, position, conversation, sent_at, sender, stream, seq, kind, receipt, body"

Row = tuple[Any, ...]  # in the order of COLUMNS


class Store(NamedTuple):
    database: Database
    folder: Folder
    config: ArchiveConfig

    def archiver(self, *, now: Callable[[], int] = lambda: NOW, **settings: Any) -> Archiver:
        config = replace(self.config, **settings)
        return Archiver(config, database=self.database, folder=self.folder, metrics=ArchiveMetrics(), now=now)

    async def insert(self, rows: Iterable[Row]) -> None:
        await self.database.write([Statement(f"INSERT INTO messages ({COLUMNS}) VALUES {values(rows)}")])

    async def ask(self, sql: str, *args: Any) -> list[Row]:
        (result,) = await self.database.read([Statement(sql, args)])
        return list(result.rows)

    async def hot(self) -> list[Row]:
        found = await self.ask(f"SELECT {COLUMNS} FROM messages ORDER BY timeline, position")
        return [(*row[:9], bytes(row[9])) for row in found]

    async def cold(self) -> list[Row]:
        """All rows of all slices, as the index finds them: each stretch holds its conversation and nothing else."""
        found: list[Row] = []
        for one in await slices(self.database):
            table = read(await self.folder.read(one.file), one.checksum).to_pylist()
            assert len(table) == one.rows
            covered = 0
            for stretch in await index_of(self.database, one.id):
                part = table[stretch.first : stretch.first + stretch.rows]
                assert {(r["timeline"], r["conversation"]) for r in part} == {(stretch.timeline, stretch.conversation)}
                ends = [(r["sent_at"], r["position"]) for r in part]
                assert ends == sorted(ends)
                assert (stretch.min_sent_at, stretch.max_sent_at) == (ends[0][0], ends[-1][0])
                positions = [r["position"] for r in part]
                assert (stretch.min_position, stretch.max_position) == (min(positions), max(positions))
                assert stretch.first == covered
                covered += stretch.rows
                found += [tuple(int(r[c]) if c == "receipt" else r[c] for c in COLUMNS.split(", ")) for r in part]
            assert covered == one.rows
        return sorted(found, key=lambda r: r[:2])

    async def whole(self) -> list[Row]:
        """Hot and cold. Nothing is in both."""
        hot, cold = await self.hot(), await self.cold()
        assert not {r[:2] for r in hot} & {r[:2] for r in cold}
        return sorted([*hot, *cold], key=lambda r: r[:2])

    async def files(self) -> set[str]:
        """What lies in the folder."""
        root = trio.Path(self.folder.path(""))
        return {path.name for path in await root.iterdir()} if await root.exists() else set()


@asynccontextmanager
async def open_store(mysql: MysqlConfig, url: str, **settings: Any) -> AsyncIterator[Store]:
    config = ArchiveConfig(url=url, age_days=30, slice_rows=100, **settings)
    async with open_database(mysql) as database:
        yield Store(database, open_folder(url), config)


def old_rows(count: int, *, seed: int = 1, first: int = 1, days: tuple[float, float] = (100, 31)) -> list[Row]:
    """Rows sent so many days ago, in order of their keys; every kind of column value there is."""
    rng, made = random.Random(seed), []
    for n in range(count):
        owner = rng.choice(["u1", "u2", "u10", "g7", "u90071992547409"])
        text = rng.random() < 0.8
        other = owner if owner[0] == "g" else f"u{rng.randrange(1, 5)}"
        body = json.dumps(
            {"n": n, "text": rng.choice(["né 中文 🙂", "x\ty", "plain", ""]) * rng.randrange(6)}, ensure_ascii=False
        )
        made.append(
            (
                owner,
                first + n,
                other,
                NOW - int(DAY_MS * (days[0] - (days[0] - days[1]) * n / count)) + rng.randrange(-5000, 5000),
                rng.randrange(1, 2**53),
                rng.randrange(2**48) if text else None,
                n if text else None,
                "text" if text else rng.choice(["group_joined", "friend_request"]),
                rng.randrange(2),
                body.encode() + (b"\n\t\xff\x00" if rng.random() < 0.05 else b""),
            )
        )
    return sorted(made, key=lambda r: r[:2])


# ------------------------------------------------------------------ the process that is killed


def main() -> None:
    """Runs one look of the archiver as the environment says, and dies by SIGKILL at the step KILL_AT, the KILL_NTH time."""
    mysql = MysqlConfig(
        host=os.environ["STORE_HOST"],
        port=int(os.environ["STORE_PORT"]),
        user=os.environ["STORE_USER"],
        password=os.environ["STORE_PASSWORD"],
        database=os.environ["STORE_DATABASE"],
    )
    wanted, nth = os.environ["KILL_AT"], int(os.environ["KILL_NTH"])
    seen: Counter[str] = Counter()

    def step(name: str) -> None:
        seen[name] += 1
        if name == wanted and seen[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    _step_in_a_transaction(step)
    _step_in_a_file(step)

    async def look() -> None:
        settings = json.loads(os.environ["STORE_SETTINGS"])
        async with open_bridge(), open_store(mysql, os.environ["STORE_URL"], **settings) as store:
            archiver = Archiver(
                store.config,
                database=store.database,
                folder=store.folder,
                metrics=ArchiveMetrics(),
                now=lambda: NOW,
                step=step,
            )
            async with archiver.holding() as held:
                assert held
                await archiver.look()

    trio.run(look)


def _step_in_a_transaction(step: Callable[[str], None]) -> None:
    """`in-transaction`: all statements of a slice's transaction are done, its COMMIT is not sent. `commit-sent`: it is, but
    its answer is not read."""
    run = bridge.run

    async def watched(connection: Any, before: Any, statements: Any) -> Any:
        results = await run(connection, before, statements)
        if any("INTO archive_slices" in s.sql for s in statements):
            step("in-transaction")
            query = connection.query

            async def commit(sql: str) -> None:
                connection.query = query
                if sql == "COMMIT" and os.environ["KILL_AT"] == "commit-sent":
                    await connection._execute_command(3, sql)  # COM_QUERY
                    await connection._writer.drain()
                    step("commit-sent")
                await query(sql)

            connection.query = commit
        return results

    bridge.run = watched


def _step_in_a_file(step: Callable[[str], None]) -> None:
    write = folders._write_durably

    def halting(path: Any, data: bytes) -> None:
        if os.environ["KILL_AT"] == "half-written":
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
            step("half-written")
            path.unlink()
        write(path, data)

    folders._write_durably = halting


def environment(config: Config, url: str, at: str, nth: int, **settings: Any) -> dict[str, str]:
    return {
        **os.environ,
        "STORE_HOST": config.mysql.host,
        "STORE_PORT": str(config.mysql.port),
        "STORE_USER": config.mysql.user,
        "STORE_PASSWORD": config.mysql.password,
        "STORE_DATABASE": config.mysql.database,
        "STORE_URL": url,
        "STORE_SETTINGS": json.dumps(settings),
        "KILL_AT": at,
        "KILL_NTH": str(nth),
    }


if __name__ == "__main__":
    main()
    sys.exit(0)
