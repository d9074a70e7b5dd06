"""`chat archive` and the verbs that reach into the archive, typed as a person types them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from chat.config import Config, MysqlConfig
from chat.persist.archive.plan import DAY_MS
from chat.persist.archive.shelf import Shelf
from chat.persist.migrate import migrate
from chat.ports import Statement
from chat.protocol import Message, decode_message
from chat.records import message_records, notice
from tests.integration.archive_store import NOW, old_rows, open_store
from tests.integration.pipeline import Pipeline, open_pipeline
from tests.integration.typed import chat

pytestmark = pytest.mark.servers


def of_mysql(mysql: MysqlConfig) -> dict[str, str]:
    return {
        "CHAT_MYSQL_HOST": mysql.host,
        "CHAT_MYSQL_PORT": str(mysql.port),
        "CHAT_MYSQL_USER": mysql.user,
        "CHAT_MYSQL_PASSWORD": mysql.password,
        "CHAT_MYSQL_DATABASE": mysql.database,
    }


async def test_run_status_and_verify(mysql_config: MysqlConfig, tmp_path: Path) -> None:
    url = str(tmp_path / "files")
    settings = of_mysql(mysql_config) | {"CHAT_ARCHIVE_SLICE_ROWS": "100"}
    said = await chat("archive", "run", "--once", settings=settings, code=1)
    assert "[archive] url is empty" in said.stderr
    settings["CHAT_ARCHIVE_URL"] = url
    async with open_store(mysql_config, url) as store:
        await migrate(store.database)
        await store.insert(old_rows(250, days=(400, 300)))
        ran = json.loads((await chat("archive", "run", "--once", "--json", settings=settings)).stdout)
        assert (ran["rows"], ran["slices"]) == (250, 3)
        status = json.loads((await chat("archive", "status", "--json", settings=settings)).stdout)
        assert (status["slices"], status["rows"], status["hot_rows"], status["last_rows"]) == (3, 250, 0, 250)
        assert status["oldest"] < status["newest"] < NOW
        assert status["next_run"] - status["last_run"] < DAY_MS  # one that was asked for is no reason to wait
        said = await chat("archive", "verify", settings=settings)
        assert "3 slices, 250 rows" in said.stdout
        (path, *_) = sorted((tmp_path / "files").iterdir())
        await trio.Path(path).unlink()
        said = await chat("archive", "verify", settings=settings, code=1)
        assert said.stdout.splitlines()[0] == f"{path.name}: the file is missing"


# ---------------------------------------------------------------- an S3 server


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """A server that speaks S3, with the bucket `chats`; the environment in which s3fs finds it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{address}/chats", method="PUT"), timeout=5):
                    break
            except OSError:
                assert server.poll() is None, "the S3 server has ended"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()


@pytest.mark.chaos
async def test_an_archive_in_s3(mysql_config: MysqlConfig, tmp_path: Path, s3: dict[str, str]) -> None:
    settings = of_mysql(mysql_config) | s3
    settings |= {"CHAT_ARCHIVE_SLICE_ROWS": "100", "CHAT_ARCHIVE_URL": "s3://chats/old", "CHAT_ARCHIVE_GRACE_S": "0"}
    rows = old_rows(250, days=(400, 300))
    async with open_store(mysql_config, str(tmp_path)) as store:
        await migrate(store.database)
        await store.insert(rows)
        ran = json.loads((await chat("archive", "run", "--once", "--json", settings=settings)).stdout)
        assert (ran["rows"], ran["slices"]) == (250, 3)
        assert await store.hot() == []
        assert "250 rows" in (await chat("archive", "verify", settings=settings)).stdout
        await store.database.write(
            [Statement("INSERT INTO users (id, name, password, created_at) VALUES (1, 'alice', '', 1)")]
        )
        said = await chat("admin", "users", "export", "alice", settings=settings)
        assert [json.loads(line)["position"] for line in said.stdout.splitlines()] == [r[1] for r in rows if r[0] == "u1"]
        # A file that nothing refers to any more is removed there too.
        ((file,),) = await store.ask("SELECT file FROM archive_slices ORDER BY id LIMIT 1")
        await store.database.write(
            [
                Statement("DELETE FROM archive_slices WHERE file = %s", (file,)),
                Statement("INSERT INTO archive_files (file, state, since) VALUES (%s, 'gone', 1)", (file,)),
            ]
        )
        ran = json.loads((await chat("archive", "run", "--once", "--json", settings=settings)).stdout)
        assert (ran["rows"], ran["removed_files"]) == (0, 1)
        address = f"{s3['AWS_ENDPOINT_URL']}/chats/old/{file}"
        with pytest.raises(urllib.error.HTTPError, match="404") as raised:
            await trio.to_thread.run_sync(urllib.request.urlopen, address)
        raised.value.close()
    settings["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    assert "archive:" in (await chat("archive", "verify", settings=settings, code=3)).stderr


# ---------------------------------------------------------------- users


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    async with open_pipeline(config) as line:
        yield line


def old_text(seq: int, *, sender: int = 1, to: int = 2, days: float = 40.0, said: str = "") -> Message:
    sent_at = int(time.time() * 1000 - days * DAY_MS) + seq
    return Message(sender=sender, to=to, stream=5, seq=seq, sent_at=sent_at, kind="text", text=said or f"text {seq}")


async def test_a_user_is_exported_and_deleted_and_a_duplicate_of_an_archived_message_is_one(
    line: Pipeline, tmp_path: Path
) -> None:
    c = line.config
    settings = of_mysql(c.mysql) | {
        "CHAT_KAFKA_BOOTSTRAP": c.kafka.bootstrap,
        "CHAT_KAFKA_NAMESPACE": c.kafka.namespace,
        "CHAT_REDIS_URL": c.redis.url,
        "CHAT_REDIS_PREFIX": c.redis.prefix,
        "CHAT_ARCHIVE_URL": str(tmp_path / "files"),
        "CHAT_ARCHIVE_AGE_DAYS": "30",
    }
    await line.database.script(
        [
            "INSERT INTO users (id, name, password, created_at) VALUES (1, 'alice', 'x', 1), (2, 'bob', 'x', 1)",
            "INSERT INTO chat_groups (id, name, open, owner, created_at) VALUES (7, 'g', 0, 1, 1)",
            "INSERT INTO blocks (user, other, created_at) VALUES (1, 2, 1)",
        ]
    )
    async with line.persist():
        for user in (1, 2):
            joined = {"user": user, "group": 7, "name": "g"}
            said = notice("group_joined", sender=1, group=7, sent_at=old_text(0).sent_at, extra=joined)
            await line.write(*message_records(said, ["g7"]))
        for kind, sender in (("friend_request", 1), ("friend_accepted", 2)):
            await line.write(*message_records(notice(kind, sender=sender, to=3 - sender, sent_at=5), ["u1", "u2"]))
        first = [old_text(n, sender=s, to=3 - s) for n in range(20) for s in (1, 2)]
        await line.send(*first, *(old_text(n, days=1) for n in range(20, 25)))
        await line.send(old_text(0, said="not what was said"))
        await line.stored()
        assert len(await line.dead()) == 2
        ran = json.loads((await chat("archive", "run", "--once", "--json", settings=settings)).stdout)
        assert ran["rows"] == 2 + 4 + 80
        # What was dead for another text is so still, though the first copy is not in MySQL any more.
        said = await chat("admin", "dead", "retry", "0", "1", settings=settings, code=1)
        assert said.stderr.count("another text or extra is stored, at position") == 2
        # The first copy is archived: a second one is dropped, whatever it says, and nothing more is dead.
        await line.send(first[0], old_text(1, said="another text"))
        await line.stored()
        assert len(await line.dead()) == 2
        assert await line.seqs("u2") == [20, 21, 22, 23, 24]

        whole = await everything(line, settings, "u1")
        said = await chat("admin", "users", "export", "alice", settings=settings)
        lines = [json.loads(text) for text in said.stdout.splitlines()]
        assert [(r["position"], r["message"]) for r in lines] == [(p, json.loads(body)) for p, body in whole]
        assert len(lines) == 47
        assert "47 records" in said.stderr

        theirs = await everything(line, settings, "u2"), await everything(line, settings, "g7")
        assert (await chat("admin", "users", "delete", "alice", settings=settings, code=2)).stdout == ""
        said = await chat("admin", "users", "delete", "alice", "--yes", settings=settings)
        assert "5 messages in MySQL, 42 in 1 archived slices" in said.stdout
        assert "1 groups and 1 friends were told" in said.stdout
        assert await everything(line, settings, "u1") == []
        # What he wrote to others is theirs, and they have been told.
        after = await everything(line, settings, "u2"), await everything(line, settings, "g7")
        assert [decode_message(body).kind for _, body in after[0][len(theirs[0]) :]] == ["friend_removed"]
        assert [decode_message(body).kind for _, body in after[1][len(theirs[1]) :]] == ["group_left"]
        assert (after[0][: len(theirs[0])], after[1][: len(theirs[1])]) == theirs
        assert await line.rows("SELECT owner FROM chat_groups") == [(2,)]
        assert await line.rows("SELECT user, to_position IS NULL FROM members ORDER BY user") == [(1, 0), (2, 1)]
        for table in ("friends", "blocks", "devices", "cursors", "tokens"):
            assert await line.rows(f"SELECT * FROM {table}") == [], table
        assert await line.rows("SELECT timeline FROM streams WHERE timeline = 'u1'") == []
        assert await line.rows("SELECT user FROM deleted_users") == [(1,)]
        assert await line.rows("SELECT banned_at IS NOT NULL, password FROM users WHERE id = 1") == [(1, "deleted")]
        said = await chat("admin", "users", "delete", "id:1", "--yes", settings=settings)
        assert "0 messages in MySQL, 0 in 0 archived slices" in said.stdout


async def everything(line: Pipeline, settings: dict[str, str], timeline: str) -> list[tuple[int, bytes]]:
    """A timeline's positions and bodies, hot and cold."""
    hot = await line.rows("SELECT position, body FROM messages WHERE timeline = %s", timeline)
    cold = await Shelf(line.database, settings["CHAT_ARCHIVE_URL"]).rows(timeline)
    return sorted([*((p, bytes(b)) for p, b in hot), *((row.position, row.body) for row in cold)])
