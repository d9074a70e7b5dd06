"""Who may send what to whom; acknowledgements, read marks, receipts."""

from chat.records import decode_receipts
from tests.fakes.small_edge import TOPICS, SmallEdge, small_edge, text, until


async def test_exactly_one_of_to_and_group() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await ann.send("send", stream=5, seq=0, text="x", rid=4)
        assert (await ann.expect("error", code="bad_request"))["rid"] == 4
        await ann.send("send", to=2, group=7, stream=5, seq=0, text="x")
        await ann.expect("error", code="bad_request", to=2, group=7, stream=5, seq=0)


async def test_a_refused_send_does_not_use_its_seq_and_what_follows_has_a_gap() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.database.has_all()
        small.edge.hub.set_blocked(1, 2, True)
        for where, code in (({"to": 2}, "blocked"), ({"to": 99}, "not_found"), ({"group": 7}, "forbidden")):
            await ann.send("send", **where, stream=5, seq=3, text="x")
            await ann.send("send", **where, stream=5, seq=4, text="x")
            await ann.expect("error", code=code, seq=3, **where)
            assert (await ann.expect("error", seq=4, **where))["expected"] == 3
        small.edge.hub.set_blocked(1, 2, False)
        await ann.send("send", to=2, stream=5, seq=3, text="x")
        await ann.expect("accepted", seq=3)


async def test_one_that_cannot_be_decoded_pins_the_start_too() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await ann.send("send", to=2, stream=5, seq=3, text=["not a text"])
        await ann.send("send", to=2, stream=5, seq=4, text="x")
        await ann.expect("error", code="bad_request", seq=3, to=2)
        assert (await ann.expect("error", code="sequence_gap", seq=4))["expected"] == 3


async def test_unknown_recipients_are_looked_up_once_and_keep_the_order() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        for seq in range(20):
            await ann.send("send", to=2, stream=5, seq=seq, text="x")
        while (await ann.expect("accepted"))["seq"] != 19:
            pass
        asked = [s for s in small.database.asked if "SELECT id FROM users" in s.sql]
        assert len(asked) == 1
        assert [m.seq for m in small.log("u2")] == list(range(20))


async def test_without_mysql_whoever_may_have_registered_meanwhile_exists() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await ann.send("send", to=2, stream=5, seq=0, text="x")
        await ann.expect("accepted")
        small.database.away = True
        await ann.send("send", to=3, stream=5, seq=0, text="x")
        await ann.expect("accepted", to=3)
        await ann.send("send", to=50, stream=5, seq=0, text="x")
        await ann.expect("accepted", to=50)
        await ann.send("send", to=50_000_000, stream=5, seq=0, text="x")
        assert (await ann.expect("error", to=50_000_000))["part"] == "mysql"


async def test_an_edge_that_was_started_without_mysql_accepts_too() -> None:
    async with small_edge() as small:
        small.database.away = True
        ann = await small.client(1)
        await ann.send("send", to=50, stream=5, seq=0, text="x")
        await ann.expect("accepted", to=50)


async def test_strangers_may_not_write_where_the_operator_says_so() -> None:
    async with small_edge(strangers=False) as small:
        small.database.friends = {(1, 3)}
        ann = await small.client(1)
        await ann.send("send", to=2, stream=5, seq=0, text="x")
        await ann.expect("error", code="forbidden", to=2)
        await ann.send("send", to=3, stream=5, seq=0, text="x")
        await ann.expect("accepted", to=3)


async def test_too_many_messages_are_to_be_sent_again_later() -> None:
    async with small_edge(messages_burst=3, messages_per_second=20.0) as small:
        ann = await small.client(1)
        await ann.send("send", to=1, stream=5, seq=0, text="x")
        for seq in range(1, 5):
            await ann.send("send", to=1, stream=5, seq=seq, text="x")
        refusal = await ann.expect("error", code="rate_limited", seq=3)
        assert 0 < refusal["retry_after_ms"] <= 60
        assert refusal["retriable"]


async def test_extra_that_cannot_be_written_is_refused() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        big = '{"type":"send","to":1,"stream":5,"seq":0,"text":"x","extra":{"n":1' + "0" * 40 + "}}"
        await ann.send_json(big)
        answer = await ann.take(lambda f: f["type"] in ("error", "accepted"))
        if answer["type"] == "error":
            assert answer["code"] == "bad_request"
        await ann.alive()


async def test_seen_carries_the_clock_on() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        ahead = small.edge.clock.now() + 2_000
        await ann.send("send", to=1, stream=5, seq=0, text="x", seen=ahead)
        await ann.expect("accepted")
        assert small.log("u1")[0].sent_at == ahead + 1


def receipts(small: SmallEdge) -> dict[tuple[int, str], dict[str, int]]:
    found: dict[tuple[int, str], dict[str, int]] = {}
    for log in small.kafka.topics[TOPICS.receipts]:
        for record in log.records:
            said = decode_receipts(record.value)
            found.setdefault((said.user, said.device), {}).update(said.acks)
    return found


async def test_acknowledgements_are_coalesced_checked_and_written() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}}
        ann = await small.client(1)
        for seq in range(3):
            await ann.send("send", to=1, stream=5, seq=seq, text="x")
        await ann.expect("accepted", seq=2)
        await ann.send("ack", timeline="u2", pos=1)
        await ann.expect("error", code="forbidden")
        await ann.send("ack", timeline="g8", pos=1, rid=6)
        await ann.expect("error", code="forbidden", rid=6)
        await ann.send("ack", timeline="u1", pos=4, rid=7)
        await ann.expect("error", code="bad_request", rid=7)
        for pos in (1, 3, 2):
            await ann.send("ack", timeline="u1", pos=pos)
        await until(3, lambda: receipts(small) == {(1, "device-1"): {"u1": 3}})


async def test_cursors_wait_longer_than_delivered_but_not_for_who_has_left() -> None:
    async with small_edge(cursors_ms=3_600_000) as small:
        ann, bob = await small.client(1), await small.client(2)
        for seq in range(3):
            await ann.send("send", to=2, stream=1, seq=seq, text="x", receipt=True)
        await ann.expect("accepted", seq=2)
        small.deliver(*(text(pos, 1, to=2, receipt=True) for pos in (1, 2, 3)))
        await bob.expect("message", pos=3)
        await bob.send("ack", timeline="u2", pos=1)
        await until(3, lambda: receipts(small) == {(2, "device-1"): {"u2": 1}})
        for pos in (2, 3):
            await bob.send("ack", timeline="u2", pos=pos)
            await until(3, lambda pos=pos: marks(small, "u1")[-1:] == [pos])  # type: ignore[misc]
        assert receipts(small) == {(2, "device-1"): {"u2": 1}}
        await bob.send("goodbye")
        await until(3, lambda: receipts(small) == {(2, "device-1"): {"u2": 3}})


def marks(small: SmallEdge, timeline: str) -> list[int]:
    """The seqs that `delivered` has told of."""
    return [m.extra["seq"] for m in small.log(timeline) if m.kind == "delivered" and m.extra]


async def test_delivered_goes_to_the_sender_when_the_device_has_acknowledged() -> None:
    async with small_edge() as small:
        ann, bob = await small.client(1), await small.client(2)
        for seq in range(2):
            await ann.send("send", to=2, stream=1, seq=seq, text="x", receipt=True)
        await ann.expect("accepted", seq=1)
        small.deliver(text(1, 1, to=2, receipt=True), text(2, 1, to=2, receipt=True))
        await bob.expect("message", pos=2)
        assert not [m for m in small.log("u1") if m.kind == "delivered"]
        await bob.send("ack", timeline="u2", pos=2)
        await until(3, lambda: [m for m in small.log("u1") if m.kind == "delivered"])
        (notice,) = [m for m in small.log("u1") if m.kind == "delivered"]
        assert (notice.sender, notice.to, notice.extra) == (2, 1, {"to": 2, "stream": 1, "seq": 2})
        assert any("receipt = 1" in s.sql for s in small.database.asked)


async def test_read_marks_go_to_both_or_to_the_readers_own_timeline() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}}
        ann = await small.client(1)
        await ann.send("read", to=2, sent_at=44)
        await ann.send("read", group=7, sent_at=45)
        await ann.send("read", to=1, sent_at=46)
        await until(3, lambda: len(small.log("u1")) == 3)
        assert [m.extra for m in small.log("u1")] == [{"sent_at": 44}, {"sent_at": 45, "group": 7}, {"sent_at": 46}]
        assert [(m.kind, m.sender, m.to) for m in small.log("u2")] == [("read", 1, 2)]
        await ann.send("read", group=8, sent_at=1, rid=3)
        await ann.expect("error", code="forbidden", rid=3)
        await ann.send("read", to=99, sent_at=1)
        await ann.expect("error", code="not_found")


async def test_what_grows_when_it_is_written_out_is_refused() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        numbers = ",".join(["1e15"] * 10_000)
        await ann.send_json('{"type":"send","to":1,"stream":5,"seq":0,"text":"x","extra":{"n":[' + numbers + "]}}")
        await ann.expect("error", code="bad_request", stream=5, seq=0)
        assert small.log("u1") == []


async def test_a_read_mark_that_kafka_did_not_take_is_refused_in_full() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await ann.send("send", to=2, stream=5, seq=0, text="x")
        await ann.expect("accepted")
        small.kafka.fail_produce("lost", "lost")
        await ann.send("read", to=2, sent_at=1, rid=8)
        error = await ann.expect("error", code="unavailable", rid=8)
        assert (error["part"], error["retriable"]) == ("kafka", True)


async def test_a_member_whose_join_the_edge_has_not_heard_of_is_let_through() -> None:
    async with small_edge() as small:
        small.database.has_all()
        small.database.members = {(7, 1)}
        ann = await small.client(1)
        for seq in range(3):
            await ann.send("send", group=7, stream=5, seq=seq, text="x")
        await ann.expect("accepted", group=7, seq=2)
        await ann.expect("resync", timelines=["g7"])


async def test_while_persist_is_behind_nobody_is_refused_for_good() -> None:
    async with small_edge(heartbeat_ms=1_000) as small:
        ann = await small.client(1)
        await ann.send("send", group=7, stream=5, seq=0, text="x")
        refusal = await ann.expect("error", group=7, stream=5, seq=0)
        assert (refusal["code"], refusal["retriable"]) == ("unavailable", True)
        small.database.has_all()
        await ann.send("send", group=7, stream=5, seq=0, text="x")
        await ann.expect("error", code="forbidden", group=7)
