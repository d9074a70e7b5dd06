"""The operator's verbs on real servers, typed as a person types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import trio

from chat.config import Config
from chat.errors import SetupError
from chat.generations import message_topics
from chat.positions import generation_of, position
from chat.records import Record, TopicPartition, message_records, notice, partition_of
from chat.tools.cluster import wait_ready
from chat.tools.control import ask
from tests.harness.cluster import Cluster, quiet
from tests.integration.pipeline import Pipeline, open_pipeline, records, text, until
from tests.integration.raw import PASSWORD, World, new_device
from tests.integration.typed import chat

pytestmark = pytest.mark.servers
TOO_LONG = "x" * 400


@pytest.fixture
async def line(config: Config) -> AsyncIterator[Pipeline]:
    async with open_pipeline(config) as line:
        yield line


async def admin(*words: str, settings: Mapping[str, str], code: int = 0) -> CompletedProcess[str]:
    """`chat admin` in a process of its own."""
    return await chat("admin", *words, settings=settings, code=code)


def corner(line: Pipeline) -> dict[str, str]:
    """A test's corner of the servers, as settings."""
    c = line.config
    return {
        "CHAT_KAFKA_BOOTSTRAP": c.kafka.bootstrap,
        "CHAT_KAFKA_NAMESPACE": c.kafka.namespace,
        "CHAT_REDIS_URL": c.redis.url,
        "CHAT_REDIS_PREFIX": c.redis.prefix,
        "CHAT_MYSQL_HOST": c.mysql.host,
        "CHAT_MYSQL_PORT": str(c.mysql.port),
        "CHAT_MYSQL_USER": c.mysql.user,
        "CHAT_MYSQL_PASSWORD": c.mysql.password,
        "CHAT_MYSQL_DATABASE": c.mysql.database,
        "CHAT_EDGE_LEASE_MS": "600",
    }


def of(cluster: Cluster) -> dict[str, str]:
    return {"CHAT_CONFIG": str(cluster.state.settings)}


# ---------------------------------------------------------------- dead records


async def listed(line: Pipeline, *words: str) -> list[dict[str, Any]]:
    said = await admin("dead", "list", "--json", *words, settings=corner(line))
    found: list[dict[str, Any]] = json.loads(said.stdout)
    return found


async def test_what_mysql_refused_is_put_where_it_belongs_when_that_is_mended(line: Pipeline) -> None:
    await line.database.script(["ALTER TABLE messages MODIFY body VARBINARY(300) NOT NULL"])
    asks = notice("friend_request", sender=1, to=2, sent_at=5, text=TOO_LONG)
    joins = notice("group_joined", sender=1, group=7, sent_at=5, extra={"user": 3, "group": 7, "name": TOO_LONG})
    async with line.persist():
        await line.send(text(0), text(1, said=TOO_LONG), text(2))
        await line.write(*message_records(asks, ["u2"]))
        await line.write(*message_records(notice("friend_accepted", sender=2, to=1, sent_at=6), ["u2"]))
        await line.write(*message_records(joins, ["g7"]))
        await line.write(*message_records(notice("group_left", sender=3, group=7, sent_at=9, extra={"user": 3}), ["g7"]))
        await line.stored()
    assert await line.seqs("u2") == [0, 2, None]  # type: ignore[list-item]
    found = await listed(line)
    assert [d["key"] for d in found].count("u2") == 2
    assert {d["key"] for d in found} == {"u1", "u2", "g7"}
    assert all("value" not in d and "1406" in d["why"] and d["size"] > 300 for d in found)
    assert TOO_LONG in (await listed(line, "--show"))[0]["value"]
    numbers = [str(d["n"]) for d in found]

    said = await admin("dead", "retry", *numbers, settings=corner(line), code=1)
    assert said.stderr.count("MySQL still refuses it") == 4
    assert await listed(line) == found

    await line.database.script(["ALTER TABLE messages MODIFY body MEDIUMBLOB NOT NULL"])
    said = await admin("dead", "retry", *numbers, settings=corner(line))
    assert said.stdout.count("its stream had moved on") == 2
    assert await line.seqs("u1") == [0, 1, 2]
    assert await line.seqs("u2") == [0, 1, 2, None, None]  # type: ignore[list-item]
    assert await line.rows("SELECT next_seq FROM streams") == [(3,), (3,)]
    assert await line.rows("SELECT user, other, state FROM friends") == [(2, 1, "friend")]
    stays = await line.rows("SELECT user, from_position, to_position FROM members WHERE chat_group = 7")
    (joined,), (left,) = await line.rows("SELECT position FROM messages WHERE timeline = 'g7' ORDER BY position")
    assert stays == [(3, joined, left)]

    assert await listed(line) == []
    assert {d["outcome"] for d in await listed(line, "--all")} == {"retried"}
    said = await admin("dead", "retry", *numbers, settings=corner(line))
    assert said.stdout.count("it is stored already") == 4
    assert len(await line.rows("SELECT 1 FROM messages")) == 10


async def test_late_notices_and_marks_change_only_what_is_not_newer(line: Pipeline) -> None:
    group = "INSERT INTO chat_groups (id, name, open, owner, created_at) VALUES (7, 'g', 0, 1, 1)"
    await line.database.script([group, "ALTER TABLE messages MODIFY body VARBINARY(300) NOT NULL"])
    narrow = "ALTER TABLE delivered_marks MODIFY stream TINYINT NOT NULL"
    await line.database.script([narrow])
    async with line.persist():
        for user in (1, 2):
            joined = notice("group_joined", sender=user, group=7, sent_at=5, extra={"user": user, "group": 7, "name": "g"})
            await line.write(*message_records(joined, ["g7"]))
        left = notice("group_left", sender=1, group=7, sent_at=6, text=TOO_LONG, extra={"user": 1, "group": 7})
        await line.write(*message_records(left, ["g7"]))
        for stream, seq in ((1_000, 9), (5, 1)):
            mark = notice("delivered", sender=2, to=1, sent_at=6, extra={"to": 2, "stream": stream, "seq": seq})
            await line.write(*message_records(mark, ["u1"]))
            await line.stored()
    assert await line.rows("SELECT owner FROM chat_groups") == [(1,)]
    await line.database.script(["ALTER TABLE messages MODIFY body MEDIUMBLOB NOT NULL", narrow.replace("TINY", "BIG")])
    found = await listed(line)
    said = await admin("dead", "retry", *(str(d["n"]) for d in found), settings=corner(line))
    assert "the membership computed anew" in said.stdout
    assert "marks set" in said.stdout
    assert await line.rows("SELECT owner FROM chat_groups") == [(2,)]
    stays = await line.rows("SELECT user, to_position IS NULL FROM members ORDER BY user")
    assert stays == [(1, 0), (2, 1)]
    assert await line.rows("SELECT stream, seq FROM delivered_marks") == [(5, 1)]


async def test_what_cannot_be_read_can_only_be_skipped(line: Pipeline) -> None:
    async with line.persist():
        await line.produce({line.place("u2"): [Record(b"u2", b"{not JSON", 77)]})
        await line.send(text(0), text(0, said="another text"))
        await line.stored()
    found = await listed(line)
    assert (found[0]["key"], found[0]["size"], found[0]["offset"]) == ("u2", 9, 0)
    unreadable, *others = (str(d["n"]) for d in found)
    said = await admin("dead", "retry", unreadable, settings=corner(line), code=1)
    assert "it cannot be read: not a message" in said.stderr
    said = await admin("dead", "retry", *others, settings=corner(line), code=1)
    assert said.stderr.count("another text or extra is stored") == 2
    assert (await admin("dead", "skip", unreadable, settings=corner(line), code=2)).stdout == ""
    await admin("dead", "skip", unreadable, "--yes", settings=corner(line))
    assert [str(d["n"]) for d in await listed(line)] == others
    assert [d["outcome"] for d in await listed(line, "--all")] == ["skipped", None, None]
    said = await admin("dead", "skip", "99", "--yes", settings=corner(line), code=1)
    assert "no dead record 99" in said.stderr
    assert await line.seqs("u2") == [0]


# ---------------------------------------------------------------- a new generation


async def test_no_new_generation_while_something_can_be_lost(line: Pipeline) -> None:
    words = ("new-generation", "--yes")
    said = await admin(*words, settings=corner(line), code=1)
    assert "persist has never run" in said.stderr
    async with line.persist():
        await line.send(text(0))
        await line.stored()
    await line.send(text(1))
    await line.edge("here", 5)
    said = await admin(*words, "--partitions", "6", settings=corner(line), code=1)
    assert "here holds a lease" in said.stderr
    assert "Let `chat persist` read it out" in said.stderr
    assert "Let `chat router` read it out" in said.stderr
    await line.redis.pipeline([("DEL", line.key("edge:here"))])
    async with line.persist(), line.router():
        await line.stored()
        await until(lambda: _routed(line))
    said = await admin(*words, settings=corner(line), code=1)
    assert "is whole and has 4 partitions already" in said.stderr
    said = await admin(*words, "--partitions", "6", settings=corner(line))
    assert "messages.1 is made: generation 1, 6 partitions" in said.stdout
    assert await message_topics(line.admin, line.topics) == [line.topics.messages, f"{line.topics.messages}.1"]
    async with line.persist(), line.router():
        new = line.topics.generation_topic(1)
        await line.produce({TopicPartition(new, partition_of(r.timeline, 6)): [r.record] for r in records(text(2))})
        await line.stored()
    assert await line.seqs("u2") == [0, 1, 2]
    ((newest,),) = await line.rows("SELECT MAX(position) FROM messages WHERE timeline = 'u2'")
    assert newest == position(1, 0)


async def _routed(line: Pipeline) -> bool:
    ends = await line.admin.end_offsets(line.partitions)
    done = await line.admin.group_offsets(f"{line.topics.namespace}-router", line.partitions)
    return all((done[p] or 0) == end for p, end in ends.items())


async def test_mysql_ahead_of_every_topic_is_refused_by_name(line: Pipeline) -> None:
    async with line.persist():
        await line.send(text(0))
        await line.stored()
    await line.database.script(
        ["UPDATE offsets SET generation = 3, topic = CONCAT(topic, '.3') WHERE topic LIKE '%messages'"]
    )
    with pytest.raises((SetupError, BaseExceptionGroup)) as caught:
        async with line.persist():
            raise AssertionError("it has started")
    assert f"Kafka has no topic {line.topics.messages}.3" in _said(caught.value)


def _said(error: BaseException) -> str:
    return " ".join(map(_said, error.exceptions)) if isinstance(error, BaseExceptionGroup) else str(error)


@pytest.mark.chaos  # long: with `make chaos`
async def test_kafka_is_lost_and_mysql_kept(own_cluster: Callable[..., Cluster], nursery: trio.Nursery) -> None:
    one_of_each = {"up.edges": 1, "up.routers": 1, "up.persists": 1, "up.parts": "kafka,redis,mariadb"}
    cluster = own_cluster(**one_of_each)
    world = World(nursery, {"here": cluster.address("edge-1")})
    alice, bob = await world.person("alice"), await world.person("bob")
    for seq in range(3):
        await alice.say(f"old {seq}", stream=9, seq=seq, to=bob.user)
    before, _ = await bob.synced(f"u{bob.user}", 0)
    assert [m["text"] for m in before] == ["old 0", "old 1", "old 2"]
    known = max(m["pos"] for m in before)
    names = alice.logged_in["name"], bob.logged_in["name"]
    await world.close()

    await cluster.down()
    shutil.rmtree(cluster.folder / "kafka" / "data")
    (cluster.folder / "kafka" / "formatted").unlink()
    with pytest.raises(SetupError) as refused:
        await cluster.up({"up.mysql_pool_mb": 64, "up.start_s": 60, **one_of_each})
    assert "the topic was deleted and made anew" in cluster.log("persist-1"), str(refused.value)
    assert "chat admin new-generation" in cluster.log("persist-1")

    # Edges accept, for they need Kafka alone: this must not be lost.
    world = World(nursery, {"here": cluster.address("edge-1")})
    alice = await world.greeted()
    await alice.log_in(names[0])
    await alice.say("meanwhile", stream=10, seq=0, to=bob.user)
    await world.close()
    said = await admin("new-generation", "--yes", settings=of(cluster), code=1)
    assert "edge-1 holds a lease: stop it" in said.stderr

    none = {"edges": 0, "routers": 0, "persists": 0}
    assert await ask(cluster.state, {"do": "scale", **none}) == {"ok": True}
    await cluster.until(lambda: not cluster.names("edge") and not cluster.names("router"))
    made = json.loads((await admin("new-generation", "--yes", "--json", settings=of(cluster))).stdout)
    assert (made["generation"], made["carried"]) == (1, 2)
    assert "made anew" in made["lost"]
    assert await ask(cluster.state, {"do": "scale", "edges": 1, "routers": 1, "persists": 1}) == {"ok": True}
    await wait_ready(cluster.state, 60, quiet)

    world = World(nursery, {"here": cluster.address("edge-1")})
    alice, bob = await world.greeted(), await world.greeted()
    await alice.log_in(names[0])
    await bob.log_in(names[1])
    await alice.say("new", stream=11, seq=0, to=bob.user)
    live = await bob.message("new")
    assert generation_of(live["pos"]) == 1
    after, _ = await bob.synced(f"u{bob.user}", known)
    assert [m["text"] for m in after if m["kind"] == "text"] == ["meanwhile", "new"]
    assert all(m["pos"] > known for m in after)
    page = await bob.done("history", to=alice.user, limit=50)
    assert [m["text"] for m in page["messages"]] == ["new", "meanwhile", "old 2", "old 1", "old 0"]
    await world.close()


# ---------------------------------------------------------------- users, groups, edges


async def test_a_banned_user_is_out_and_stays_out(cluster: Cluster, world: World) -> None:
    here, there = await world.person("banned"), None
    there = await world.device_of(here, "there")
    name, token, device = (here.logged_in[key] for key in ("name", "token", "device"))
    said = await admin("users", "ban", name, settings=of(cluster))
    assert said.stdout == f"{name} is banned; 2 tokens and 2 sessions were ended\n"
    await here.goodbye(1003)
    await there.goodbye(1003)
    again = await world.greeted()
    await again.send("login", name=name, password=PASSWORD, device=device)
    await again.goodbye(1003)
    again = await world.greeted("there")
    await again.refused("token_expired", "resume", token=token, device=device)
    (found,) = json.loads((await admin("users", "find", name, "--json", settings=of(cluster))).stdout)
    assert (found["user"], found["tokens"], found["banned_at"] is None) == (here.user, 0, False)
    said = await admin("users", "unban", f"id:{here.user}", settings=of(cluster))
    assert said.stdout == f"{name} may log in\n"
    back = await world.greeted()
    await back.log_in(name, device=device)
    await admin("users", "ban", "nobody.is.called.so", settings=of(cluster), code=1)


async def test_kicked_may_come_back_and_logged_out_needs_the_password(cluster: Cluster, world: World) -> None:
    raw = await world.person("kicked")
    assert "1 sessions" in (await admin("users", "kick", raw.logged_in["name"], settings=of(cluster))).stdout
    await raw.goodbye(1000)
    back = await world.again(raw, "there")
    assert "1 sessions" in (await admin("users", "logout", f"id:{raw.user}", settings=of(cluster))).stdout
    await back.goodbye(1002)
    other = await world.greeted()
    await other.refused("token_expired", "resume", token=raw.logged_in["token"], device=raw.logged_in["device"])
    await other.log_in(raw.logged_in["name"], device=new_device())


async def test_groups_and_edges_are_shown(cluster: Cluster, world: World) -> None:
    owner, member = await world.person("owner"), await world.person("member", "there")
    made = await owner.done("group_create", name="a group\x1b[2J", members=[member.user])
    found = json.loads((await admin("groups", "members", str(made["group"]), "--json", settings=of(cluster))).stdout)
    assert [(m["user"], m["owner"]) for m in found] == [(owner.user, True), (member.user, False)]
    said = (await admin("groups", "list", "a group", settings=of(cluster))).stdout
    assert str(made["group"]) in said
    assert "\x1b" not in said
    rows = json.loads((await admin("edges", "--json", settings=of(cluster))).stdout)
    assert {r["edge"] for r in rows if r["state"] == "leased"} >= {"edge-1", "edge-2"}
    assert all(r["sessions"] >= 1 for r in rows if r["edge"] in {"edge-1", "edge-2"})


async def test_a_drained_edge_sends_its_clients_away_and_gives_its_lease_up(
    own_cluster: Callable[..., Cluster], nursery: trio.Nursery
) -> None:
    cluster = own_cluster(**{"up.edges": 1, "up.routers": 0, "up.persists": 0, "up.parts": "kafka,redis,mariadb"})
    world = World(nursery, {"here": cluster.address("edge-1")})
    raw, before = await world.person(), cluster.pid("edge-1")
    said = await admin("drain", "edge-9", settings=of(cluster), code=1)
    assert "those that do: edge-1" in said.stderr
    await admin("drain", "edge-1", settings=of(cluster))
    await raw.expect("moved")
    await raw.goodbye(2000)
    await cluster.back("edge-1", before)  # by its supervisor
    await world.close()


async def test_servers_that_are_away(tmp_path: Path) -> None:
    nowhere = {"CHAT_MYSQL_PORT": "1", "CHAT_KAFKA_BOOTSTRAP": "127.0.0.1:1", "CHAT_REDIS_URL": "redis://127.0.0.1:1/0"}
    nowhere |= {"CHAT_MYSQL_HOST": "127.0.0.1", "CHAT_CONFIG": str(tmp_path / "empty.toml")}
    (tmp_path / "empty.toml").write_text("")
    for words in (["users", "find"], ["edges"], ["dead", "list"], ["groups", "list"], ["new-generation", "--yes"]):
        said = await admin(*words, settings=nowhere, code=3)
        assert len(said.stderr.splitlines()) == 1, said
