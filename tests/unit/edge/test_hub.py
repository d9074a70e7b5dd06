"""Sessions, groups, deliveries, presence: who gets what, and when it is told to sync."""

import json
from collections.abc import Sequence

import msgspec
import pytest
import trio
import trio.testing

from chat import protocol as p
from chat.edge.context import Context, Handler, Opened, Order, Session
from chat.errors import PartAway, SetupError
from chat.ports import Command
from chat.records import (
    Delivery,
    DeliveryBatch,
    PresenceEvent,
    Record,
    TopicPartition,
    decode_presence,
    notice,
    pack_deliveries,
    presence_record,
)
from tests.fakes.redis import FakeRedis
from tests.fakes.small_edge import TOPICS, SmallEdge, small_edge, text, until


def redis_hash(small: SmallEdge, key: str) -> dict[str, str]:
    table = small.redis.data.get(key.encode(), {})
    assert isinstance(table, dict)
    return {k.decode(): v.decode(errors="replace") for k, v in table.items()}


def notice_of(pos: int, kind: str, timeline: str, **fields: object) -> Delivery:
    message = notice(kind, sent_at=1, **fields)  # type: ignore[arg-type]
    message.prev, message.pos = None, pos
    return Delivery(timeline, pos, 1, kind, False, p.encode(message))


# ---------------------------------------------------------------------- locations


async def test_a_session_is_in_redis_before_it_is_logged_in_and_gone_after_it() -> None:
    async with small_edge() as small:
        small.groups = {1: {7, 8}}
        ann = await small.client(1)
        inc = small.edge.incarnation
        assert redis_hash(small, "loc:1") == {ann.logged_in["session"]: f"edge-1 {inc} device-1"}
        assert redis_hash(small, "group:7:edges") == {"edge-1": str(inc)}
        second = await small.client(1, "device-2")
        assert len(redis_hash(small, "loc:1")) == 2
        await ann.stream.aclose()
        await until(2, lambda: list(redis_hash(small, "loc:1")) == [second.logged_in["session"]])
        assert redis_hash(small, "group:7:edges") != {}
        await second.stream.aclose()
        await until(2, lambda: not redis_hash(small, "loc:1") and not redis_hash(small, "group:7:edges"))


async def test_the_lease_says_where_nginx_finds_the_edge() -> None:
    async with small_edge(announce="10.0.0.5:7200", weight=3) as small:
        lease = small.redis.data[b"edge:edge-1"]
        assert isinstance(lease, bytes)
        said = {"incarnation": small.edge.incarnation, "address": "10.0.0.5:7200", "weight": 3}
        assert json.loads(lease) == said
        assert small.redis.execute("PTTL", "edge:edge-1") > 0
        assert small.redis.data[b"edges"] == {b"edge-1"}


async def test_everything_is_registered_anew_when_redis_has_lost_it_and_then_sessions_sync() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}}
        ann = await small.client(1)
        small.redis.restart(lose=True)
        await ann.expect("resync")
        assert redis_hash(small, "loc:1")
        await until(2, lambda: redis_hash(small, "group:7:edges"))


async def test_another_run_of_redis_is_noticed_though_it_kept_all() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.redis.restart()
        await ann.expect("resync")


async def test_a_lapsed_lease_is_taken_again_and_sessions_sync() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.redis.execute("DEL", "edge:edge-1")
        await ann.expect("resync")
        assert b"edge:edge-1" in small.redis.data


async def test_the_sweep_finds_a_single_lost_location() -> None:
    async with small_edge(sweep_s=1) as small:
        ann = await small.client(1)
        small.redis.execute("DEL", "loc:1")

        async def beat() -> None:
            while True:
                await ann.send("heartbeat")
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            await ann.expect("resync")
            nursery.cancel_scope.cancel()
        assert redis_hash(small, "loc:1")


async def test_without_redis_a_log_in_goes_on_and_the_session_syncs_when_it_is_back() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        small.redis.away = True
        ann = await small.client(1)
        assert not redis_hash(small, "loc:1")
        small.redis.away = False
        await ann.expect("resync")
        assert redis_hash(small, "loc:1")


async def test_a_lapse_is_heeded_though_the_question_after_it_fails() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        asked = small.redis.run_id
        failed: list[bool] = []

        async def fails_once() -> str:
            if not failed:
                failed.append(True)
                raise PartAway("redis", "no answer")
            return await asked()

        small.redis.execute("DEL", "edge:edge-1")
        small.redis.run_id = fails_once  # type: ignore[method-assign]
        await ann.expect("resync")
        assert failed


class Deaf(FakeRedis):
    """While `deaf`, it does what it is told, and its answers are lost."""

    deaf = False

    async def pipeline(self, commands: Sequence[Command]) -> list[object]:
        replies = await super().pipeline(commands)
        if self.deaf:
            raise PartAway("redis", "no answer")
        return replies


async def test_a_lapse_is_heeded_though_the_renewal_that_found_it_had_no_answer() -> None:
    redis = Deaf()
    async with small_edge(redis=redis, heartbeat_misses=50) as small:
        ann = await small.client(1)
        lapsed = trio.current_time() + small.edge.config.edge.lease_ms / 1_000
        redis.execute("DEL", "edge:edge-1")
        redis.deaf = True
        await until(2, lambda: b"edge:edge-1" in redis.data and trio.current_time() > lapsed)
        redis.deaf = False
        await ann.expect("resync")


async def test_a_location_that_was_lost_and_put_back_without_an_answer_is_followed_by_a_hint() -> None:
    redis = Deaf()
    async with small_edge(redis=redis, lease_ms=60_000, heartbeat_misses=50) as small:
        ann = await small.client(1)
        redis.execute("DEL", "loc:1")
        redis.deaf = True
        small.edge.locations.session_changed(next(iter(small.edge.hub.all_sessions())))  # as the sweep does
        await until(2, lambda: bool(redis_hash(small, "loc:1")))
        redis.deaf = False
        await ann.expect("resync")


async def test_an_edge_is_listed_again_after_redis_lost_all() -> None:
    async with small_edge() as small:
        small.redis.restart(lose=True)
        await until(2, lambda: small.redis.data.get(b"edges") == {b"edge-1"})


async def test_sessions_that_come_and_go_while_redis_is_away_leave_nothing_to_write() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        small.redis.away = True
        first = await small.client(1)
        for number in range(20):
            raw = await small.client(2, f"device-{number}")
            await raw.stream.aclose()
        await until(2, lambda: len(small.edge.hub.all_sessions()) == 1)
        assert len(small.edge.locations._sessions) < 10
        small.redis.away = False
        await first.expect("resync")
        await until(2, lambda: not small.edge.locations._sessions)
        assert not redis_hash(small, "loc:2")


async def test_the_sweep_buries_what_killed_edges_left_behind() -> None:
    async with small_edge(sweep_s=1, heartbeat_misses=50) as small:
        ann = await small.client(1)
        small.redis.execute("SET", "edge:other", '{"incarnation": 77, "address": "x:1"}')
        small.redis.execute("HSET", "loc:1", "alive", "other 77 d", "dead", "other 76 d", "odd", b"\xff")
        await until(4, lambda: set(redis_hash(small, "loc:1")) == {"alive", ann.logged_in["session"]})


# ---------------------------------------------------------------------- deliveries


async def test_deliveries_go_to_every_session_of_the_timeline_as_they_are() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}, 2: {7}}
        ann, second, bob = await small.client(1), await small.client(1, "device-2"), await small.client(2)
        small.deliver(text(5, 2, to=1), text(6, 2, group=7), text(9, 2, to=3))
        for raw in (ann, second):
            assert await raw.expect("message") == {
                "type": "message", "from": 2, "to": 1, "sent_at": 1, "kind": "text", "stream": 1, "seq": 5, "text": "hi",
                "prev": 4, "pos": 5,
            }  # fmt: skip
            await raw.expect("message", pos=6, group=7)
        await bob.expect("message", pos=6)
        await bob.silence("message")


async def test_deliveries_for_another_run_are_passed_over_and_those_for_whoever_reads_are_not() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.deliver(text(1, 2, to=1), incarnation=small.edge.incarnation + 1)
        small.deliver(text(2, 2, to=1), incarnation=None)
        await ann.expect("message", pos=2)
        await ann.silence("message")


async def test_a_topic_cut_off_before_the_edge_makes_all_sync() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        topic = TOPICS.edge("edge-1")
        log = small.kafka.log(TopicPartition(topic, 0))
        value = pack_deliveries(DeliveryBatch(small.edge.incarnation, [text(1, 2, to=1)]))
        log.append([Record(None, value, 0)] * 3)
        log.trim(3)
        small.kafka.tell()
        await ann.expect("resync")
        small.deliver(text(2, 2, to=1))
        await ann.expect("message", pos=2)


async def test_what_was_shown_pushes_the_clock_of_its_reader() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        ahead = small.edge.clock.now() + 3_000
        small.deliver(text(1, 2, to=1, sent_at=ahead))
        await ann.expect("message")
        await ann.send("send", to=2, stream=5, seq=0, text="an answer")
        await ann.expect("accepted")
        assert small.log("u2")[0].sent_at == ahead + 1


# ---------------------------------------------------------------------- groups


async def test_a_join_registers_the_group_and_tells_the_sessions_to_sync_it() -> None:
    async with small_edge() as small:
        small.database.has_all()
        small.database.members = {(7, 1)}
        ann = await small.client(1)
        extra = {"user": 1, "name": "ann", "group": 7}
        small.deliver(notice_of(1, "group_joined", "u1", sender=2, to=1, extra=extra))
        await ann.expect("message", kind_="group_joined")
        await ann.expect("resync", timelines=["g7"])
        assert redis_hash(small, "group:7:edges")
        small.deliver(text(5, 2, group=7))
        await ann.expect("message", group=7)
        await ann.send("send", group=7, stream=5, seq=0, text="hello")
        await ann.expect("accepted", group=7)
        small.database.members.clear()
        small.deliver(notice_of(9, "group_left", "g7", sender=1, group=7, extra=extra))
        await ann.expect("message", kind_="group_left")
        await until(2, lambda: not redis_hash(small, "group:7:edges"))
        await ann.send("send", group=7, stream=5, seq=1, text="hello")
        await ann.expect("error", code="forbidden")


async def test_a_notice_of_a_join_that_comes_when_he_is_out_again_lets_nobody_in() -> None:
    async with small_edge(heartbeat_misses=1_000) as small:
        small.database.has_all()
        ann = await small.client(1)
        extra = {"user": 1, "name": "ann", "group": 7}
        small.deliver(notice_of(1, "group_joined", "u1", sender=2, to=1, extra=extra))
        await ann.expect("message", kind_="group_joined")
        await until(3, lambda: not small.edge.hub.groups_of(1))
        await until(3, lambda: not redis_hash(small, "group:7:edges"))


async def test_a_second_member_of_a_known_group_is_told_at_once() -> None:
    async with small_edge() as small:
        small.groups = {2: {7}}
        await small.client(2)
        ann = await small.client(1)
        await small.edge.hub.join(1, 7)
        await ann.expect("resync", timelines=["g7"])
        await small.edge.hub.join(1, 7)
        await ann.silence("resync")
        assert small.edge.hub.groups_of(1) == {7}


# ---------------------------------------------------------------------- presence


def events(small: SmallEdge) -> list[tuple[str, int]]:
    return [(e.event, e.user) for e in map(decode_presence, small.kafka.values(TOPICS.presence))]


def tell(small: SmallEdge, **fields: object) -> None:
    event = msgspec.convert({"at": small.edge.clock.now(), **fields}, PresenceEvent)
    small.kafka.log(TopicPartition(TOPICS.presence, 0)).append([presence_record(event)])
    small.kafka.tell()


async def test_log_ins_and_log_outs_are_told() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await until(2, lambda: events(small) == [("login", 1)])
        await ann.stream.aclose()
        await until(2, lambda: events(small) == [("login", 1), ("logout", 1)])


async def test_a_second_log_in_of_the_device_here_replaces_the_first() -> None:
    async with small_edge() as small:
        first = await small.client(1)
        second = await small.client(1)
        await first.expect("replaced")
        await first.goodbye(1001)
        await second.alive()
        small.deliver(text(1, 2, to=1))
        await second.expect("message")
        assert list(redis_hash(small, "loc:1")) == [second.logged_in["session"]]


async def test_a_later_log_in_elsewhere_replaces_and_an_earlier_one_does_not() -> None:
    async with small_edge() as small:
        tell(small, event="login", user=1, edge="other", incarnation=9, session="early", device="device-1")
        ann = await small.client(1)
        await until(2, lambda: next(iter(small.edge.hub.all_sessions())).announced)
        tell(small, event="login", user=1, edge="other", incarnation=9, session="x", device="device-2")
        await ann.alive()
        tell(small, event="login", user=1, edge="other", incarnation=9, session="late", device="device-1")
        await ann.expect("replaced")
        await ann.goodbye(1001)


async def test_ended_sessions_close_but_the_one_named() -> None:
    async with small_edge() as small:
        ann, second = await small.client(1), await small.client(1, "device-2")
        tell(small, event="end_sessions", user=1, session=second.logged_in["session"], code=1002)
        await ann.goodbye(1002)
        await second.alive()


async def test_a_block_takes_effect_wherever_the_blocked_one_is() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        tell(small, event="blocked", user=1, by=2)
        await until(2, lambda: small.edge.hub.blocked_by(1) == {2})
        await ann.send("send", to=2, stream=5, seq=0, text="x")
        await ann.expect("error", code="blocked")
        tell(small, event="unblocked", user=1, by=2)
        await until(2, lambda: not small.edge.hub.blocked_by(1))


async def test_what_a_killed_edge_left_behind_is_removed_when_its_users_come_back() -> None:
    async with small_edge() as small:
        small.redis.execute("SET", "edge:other", '{"incarnation": 77, "address": "x:1"}')
        small.redis.execute(
            "HSET", "loc:1", "alive", "other 77 device-8", "dead", "other 76 device-9", "gone", "third 5 device-7"
        )
        small.redis.execute("HSET", "loc:1", "before", "edge-1 4 device-1")
        ann = await small.client(1)
        await until(2, lambda: set(redis_hash(small, "loc:1")) == {"alive", ann.logged_in["session"]})


async def test_the_edge_ends_when_another_process_takes_its_name() -> None:
    redis = FakeRedis()
    with pytest.RaisesGroup(pytest.RaisesExc(SetupError, match="edge-1"), flatten_subgroups=True):
        async with small_edge(redis=redis) as small:
            ann = await small.client(1)
            async with small_edge(redis=redis) as second:
                assert second.edge.incarnation != small.edge.incarnation
                await ann.closed()
                await trio.sleep_forever()
    assert str(second.edge.incarnation).encode() in redis.execute("GET", "edge:edge-1")


async def test_a_key_of_another_kind_does_not_stop_the_others() -> None:
    async with small_edge() as small:
        small.redis.execute("SET", "loc:1", "nonsense")
        await small.client(1)
        await small.client(2)
        assert redis_hash(small, "loc:2")


async def slow_log_in(small: SmallEdge) -> trio.Event:
    """Log-ins read first, and open when the gate does. Returns what is set when one has begun."""
    begun = trio.Event()

    async def resume(context: Context, session: Session, request: p.Resume) -> p.LoggedIn:
        asked_at = trio.current_time()
        begun.set()
        assert small.gate is not None
        await small.gate.wait()
        opened = Opened(1, "ann", request.device, "s", b"", frozenset(), frozenset(), {}, asked_at)
        await context.hub.open(session, opened)
        return p.LoggedIn(
            user=1, name="ann", device=request.device, session="s", token="", token_expires_at=0, new_device=False,
            cursors={}, groups=[],
        )  # fmt: skip

    small.handlers[p.Resume] = Handler(resume, Order.OPENING, before_login=True)
    small.gate = trio.Event()
    return begun


async def test_a_block_that_is_heard_during_a_log_in_holds() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        bob = await small.client(2)
        begun = await slow_log_in(small)
        ann = await small.connect()
        await ann.greet()
        await ann.send("resume", token="1", device="device-1")
        await until(2, begun.is_set)
        tell(small, event="blocked", user=1, by=2)
        tell(small, event="end_sessions", user=2, code=1002)
        await bob.goodbye(1002)  # so the one before was heard
        small.gate.set()  # type: ignore[union-attr]
        await ann.expect("logged_in")
        await ann.send("send", to=2, stream=5, seq=0, text="x")
        await ann.expect("error", code="blocked")


async def test_a_log_in_that_began_before_the_sessions_were_ended_is_not_opened() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        bob = await small.client(2)
        begun = await slow_log_in(small)
        ann = await small.connect()
        await ann.greet()
        await ann.send("resume", token="1", device="device-1")
        await until(2, begun.is_set)
        tell(small, event="end_sessions", user=1, code=1002)
        tell(small, event="end_sessions", user=2, code=1002)
        await bob.goodbye(1002)
        small.gate.set()  # type: ignore[union-attr]
        await ann.expect("error", code="unavailable")
        assert not small.edge.hub.users
        await ann.done("resume", token="1", device="device-1")


async def test_an_older_event_that_is_still_to_be_heard_does_not_undo_a_block() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        await small.client(1)
        hub, heed = small.edge.hub, small.edge.presence.heed
        at, since = small.edge.clock.now(), trio.current_time()
        older = PresenceEvent(event="unblocked", user=1, by=2, at=at)
        newer = PresenceEvent(event="blocked", user=1, by=2, at=at + 1)
        done: list[frozenset[int]] = []

        async def wait() -> None:
            await hub.heeded(newer, since)
            done.append(hub.blocked_by(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            heed(older)
            await trio.testing.wait_all_tasks_blocked()
            assert not done
            heed(newer)
        assert done == [{2}]
        await hub.heeded(PresenceEvent(event="unblocked", user=1, by=2, at=at + 2), since)  # never comes
        assert not hub.blocked_by(1)
