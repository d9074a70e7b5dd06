"""MySQL is lost, and an older dump is loaded: the documented way, while people go on writing.

Nothing accepted may be lost or doubled, and no number that was given out after the dump is given to somebody else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chat.bridge import open_database, open_log_admin, open_memory
from chat.config import MysqlConfig
from chat.ports import Statement
from chat.records import TopicPartition
from chat.tools import programs
from chat.tools.check import CheckOptions, check
from chat.tools.check.ledger import Ledger
from chat.tools.control import ask
from tests.harness.cluster import Cluster
from tests.harness.scene import PATIENCE, new_seed
from tests.integration.raw import PASSWORD, World

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

SETTINGS = {"up.edges": 2, "up.routers": 1, "up.persists": 1}
NONE = {"edges": 0, "routers": 0, "persists": 0}
ALL = {"edges": 2, "routers": 1, "persists": 1}


def client(mysql: MysqlConfig, names: tuple[str, ...], *words: str, **more: Any) -> None:
    """A client program of the database; the password does not stand in its command line."""
    program = programs.locate("the database's client", names, "mariadb-client")
    command = [program, f"--host={mysql.host}", f"--port={mysql.port}", f"--user={mysql.user}", *words]
    subprocess.run(command, check=True, timeout=120, env=os.environ | {"MYSQL_PWD": mysql.password}, **more)


def dump(mysql: MysqlConfig, into: Path) -> None:
    """As docs/operations.md says."""
    with into.open("wb") as file:
        client(mysql, ("mariadb-dump", "mysqldump"), "--single-transaction", "--routines=false", mysql.database, stdout=file)


def load(mysql: MysqlConfig, dumped: Path) -> None:
    with dumped.open("rb") as file:
        client(mysql, ("mariadb", "mysql"), mysql.database, stdin=file)


async def lose_mysql(cluster: Cluster) -> None:
    """Everything is stopped, its data removed; then the servers run again, the services do not."""
    await cluster.down()
    shutil.rmtree(cluster.folder / "mariadb" / "data")
    (cluster.folder / "mariadb" / "installed").unlink()
    await cluster.up_again(**{f"up.{role}": 0 for role in NONE})


async def restore(cluster: Cluster, dumped: Path) -> None:
    """Redis is emptied, the database is loaded; persist catches up before an edge serves anybody."""
    async with open_memory(cluster.config.redis) as memory:
        assert await memory.pipeline([("FLUSHDB",)]) == [b"OK"]
    await trio.to_thread.run_sync(load, cluster.config.mysql, dumped)
    assert await ask(cluster.state, {"do": "scale", **NONE, "persists": 1}) == {"ok": True}
    await cluster.until(lambda: cluster.processes.ready, 90 * PATIENCE)
    with trio.fail_after(90 * PATIENCE):
        while await behind(cluster):  # noqa: ASYNC110 - another process works it off
            await trio.sleep(0.1)
    assert await ask(cluster.state, {"do": "scale", **ALL}) == {"ok": True}
    await cluster.until(lambda: cluster.processes.ready, 90 * PATIENCE)


async def behind(cluster: Cluster) -> int:
    """Records of the log that are not stored, as MySQL and Kafka say."""
    config = cluster.config
    async with open_database(config.mysql) as database, open_log_admin(config.kafka) as log:
        (rows,) = await database.read([Statement("SELECT topic, topic_partition, next_offset FROM offsets")])
        ends = await log.end_offsets([TopicPartition(topic, number) for topic, number, _ in rows.rows])
        return sum(ends[TopicPartition(topic, number)] - stored for topic, number, stored in rows.rows)


async def test_mysql_is_lost_and_a_dump_loaded(own_cluster: Callable[..., Cluster], tmp_path: Path, bridge: None) -> None:
    cluster = own_cluster(**SETTINGS)
    seed, dumped = new_seed(), tmp_path / "dump.sql"
    print(f"CHAT_SEED={seed}")
    ledger = Ledger({})

    def watch(watched: Ledger, devices: Any) -> None:
        nonlocal ledger
        ledger = watched

    async def shown(count: int) -> None:
        goal = len(ledger.shown_at) + count
        with trio.fail_after(60 * PATIENCE):
            while len(ledger.shown_at) < goal:  # noqa: ASYNC110 - it is about many devices
                await trio.sleep(0.05)

    async def disturb() -> None:
        await shown(150)
        await trio.to_thread.run_sync(dump, cluster.config.mysql, dumped)
        await shown(150)  # what the dump does not have
        await lose_mysql(cluster)
        await restore(cluster, dumped)
        await shown(150)

    options = CheckOptions(
        servers=[cluster.front], users=8, groups=2, devices=2, rate=20.0, duration=1.0, settle=90.0 * PATIENCE,
        setup=60.0 * PATIENCE, seed=seed,
    )  # fmt: skip
    report = await check(options, disturb=disturb, watch=watch)
    print(report)
    assert report.ok, f"CHAT_SEED={seed}\n{report}"
    assert report.disconnects > 0


async def test_numbers_given_out_after_the_dump_are_not_given_out_again(
    own_cluster: Callable[..., Cluster], tmp_path: Path, nursery: trio.Nursery, bridge: None
) -> None:
    cluster = own_cluster(**SETTINGS)
    dumped = tmp_path / "dump.sql"

    def world() -> World:
        return World(nursery, {"here": cluster.address("edge-1"), "front": cluster.front})

    before = world()
    alice = await before.person("alice")
    await alice.say("before the dump", stream=9, seq=0, to=alice.user)
    await trio.to_thread.run_sync(dump, cluster.config.mysql, dumped)
    carol, quiet = await before.person("carol"), await before.person("quiet")
    group = (await carol.done("group_create", name="theirs", members=[]))["group"]
    await alice.say("for carol alone", stream=9, seq=0, to=carol.user)
    await alice.say("for one who says nothing", stream=9, seq=0, to=quiet.user)
    await carol.say("in the group", stream=3, seq=0, group=group)
    await carol.message("for carol alone")
    name = alice.logged_in["name"]
    await before.close()

    await lose_mysql(cluster)
    await restore(cluster, dumped)

    after = world()
    dave = await after.person("dave")
    assert dave.user > max(carol.user, quiet.user)
    assert (await dave.done("group_create", name="other", members=[]))["group"] > group
    messages, _ = await dave.synced(f"u{dave.user}", 0)
    assert [m["text"] for m in messages if m["kind"] == "text"] == []
    again = await after.greeted()
    await again.log_in(name)
    page = await again.done("history", to=carol.user)
    assert [m["text"] for m in page["messages"]] == ["for carol alone"]
    ghost = await after.greeted()
    token, device = carol.logged_in["token"], carol.logged_in["device"]
    await ghost.refused("token_expired", "resume", token=token, device=device)
    lost = await after.greeted()
    await lost.refused("bad_credentials", "login", name=carol.logged_in["name"], password=PASSWORD, device="carols-device")
    warned = [json.loads(line) for line in cluster.log("persist-1").splitlines() if "older dump" in line]
    assert {line["table"] for line in warned} == {"users", "chat_groups"}
    await after.close()
