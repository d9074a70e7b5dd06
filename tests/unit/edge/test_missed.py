"""What routers passed over, and presence events that were missed: sessions sync, or are looked up."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from chat.edge import missed, recheck, tail
from chat.records import DeliveryBatch, PresenceEvent, Record, TopicPartition, pack_deliveries, presence_record
from tests.fakes.small_edge import TOPICS, small_edge, text, until

EDGE = TopicPartition(TOPICS.edge("edge-1"), 0)
PRESENCE = TopicPartition(TOPICS.presence, 0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "LOOK_S", 0.02)
    monkeypatch.setattr(tail, "CHECK_S", 0.05)
    monkeypatch.setattr(tail, "POLL_S", 0.05)
    monkeypatch.setattr(recheck, "AGAIN_S", 0.1)


async def test_sessions_of_named_timelines_sync_once() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}, 2: {7}}
        ann, bob, eve = await small.client(1), await small.client(2), await small.client(3)
        small.redis.execute("SADD", "missed:edge-1", "u1", "g7", "u99")
        assert (await ann.expect("resync"))["timelines"] == ["g7", "u1"]
        assert (await bob.expect("resync"))["timelines"] == ["g7"]
        await eve.silence("resync")
        await ann.silence("resync")
        assert b"missed:edge-1" not in small.redis.data


async def test_too_many_to_name_are_all_and_not_all_the_time() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.redis.execute("SADD", "missed:edge-1", "*", "u5")
        assert "timelines" not in await ann.expect("resync")
        small.redis.execute("SADD", "missed:edge-1", "*")
        await ann.silence("resync")
        assert small.redis.execute("SMEMBERS", "missed:edge-1") == [b"*"]  # for later


async def test_an_empty_batch_makes_all_sync_but_not_one_for_nobody() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.kafka.log(EDGE).append([Record(None, pack_deliveries(DeliveryBatch(0, [])), 0)])
        small.kafka.tell()
        await ann.silence("resync")
        small.deliver(incarnation=None)
        await ann.expect("resync")
        small.deliver(text(2, 2, to=1))
        await ann.expect("message", pos=2)


async def test_a_deleted_topic_is_made_again_and_all_sync() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        del small.kafka.topics[EDGE.topic], small.kafka.ids[EDGE.topic]
        await ann.expect("resync")
        small.deliver(text(1, 2, to=1))
        await ann.expect("message", pos=1)


# ---------------------------------------------------------------------- presence


def miss(small: Any, *events: PresenceEvent) -> None:
    """Events that are trimmed before the edge reads them."""
    log = small.kafka.log(PRESENCE)
    log.append([presence_record(event) for event in events])
    log.trim(log.end)
    small.kafka.tell()


async def test_what_missed_events_would_have_told_is_looked_up() -> None:
    async with small_edge() as small:
        ann, bob, eve, two = [await small.client(user) for user in (1, 2, 3, 4)]
        database, hub = small.database, small.edge.hub
        for user, conn in ((1, b"a"), (2, b"b"), (3, b"e"), (4, b"t")):
            (session,) = hub.sessions_of(user)
            session.token_hash = conn
        database.tokens = {b"a", b"e", b"t"}  # bob's was ended
        database.banned = {3}
        database.blocks = {(4, 1)}
        miss(small, *(PresenceEvent(event="end_sessions", user=user, at=1) for user in (2, 3)))
        assert (await bob.expect("goodbye"))["code"] == 1002
        assert (await eve.expect("goodbye"))["code"] == 1003
        await until(2, lambda: hub.blocked_by(1) == {4})
        await ann.send("send", to=4, stream=5, seq=0, text="hello")
        assert (await ann.expect("error"))["code"] == "blocked"
        await two.silence("goodbye")


async def test_the_look_up_waits_for_mysql() -> None:
    async with small_edge() as small:
        eve = await small.client(3)
        small.database.banned = {3}
        small.database.away = True
        miss(small, PresenceEvent(event="end_sessions", user=3, at=1))
        await until(2, lambda: small.edge.services.guard.away)
        await eve.silence("goodbye")
        small.database.away = False
        assert (await eve.expect("goodbye", seconds=10))["code"] == 1003


async def test_what_is_heard_meanwhile_is_newer_than_what_was_read() -> None:
    async with small_edge() as small:
        await small.client(1)
        hub, since = small.edge.hub, trio.current_time()
        small.edge.presence.heed(PresenceEvent(event="unblocked", user=1, by=4, at=2))
        hub.set_blockers(1, frozenset({4, 3}), since)
        assert hub.blocked_by(1) == {3}


async def test_events_in_a_presence_topic_that_was_made_anew_are_heard() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.kafka.create(TOPICS.presence)
        event = PresenceEvent(event="end_sessions", user=1, at=1, code=1002)
        small.kafka.log(PRESENCE).append([presence_record(event)])
        assert (await ann.expect("goodbye"))["code"] == 1002
