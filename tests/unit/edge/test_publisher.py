"""What a failed batch means: nothing lost, nothing doubled by the edge, nothing overtaken."""

import pytest
import trio

from chat.errors import Goodbye, Unavailable
from chat.protocol import Message
from chat.records import PresenceEvent, decode_presence, message_records, notice
from tests.fakes.small_edge import TOPICS, small_edge, until
from tests.integration.raw import Raw


async def say(raw: Raw, to: int, *seqs: int, stream: int = 5) -> None:
    for seq in seqs:
        await raw.send("send", to=to, stream=stream, seq=seq, text=f"{stream}/{seq}")


def seqs(messages: list[Message], sender: int = 1) -> list[int]:
    return [int(m.seq) for m in messages if m.sender == sender and m.kind == "text"]  # type: ignore[arg-type]


async def accepted_up_to(raw: Raw, seq: int) -> None:
    while (await raw.expect("accepted"))["seq"] != seq:
        pass


async def test_accepted_needs_both_records_and_is_cumulative() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await say(ann, 2, *range(50))
        await accepted_up_to(ann, 49)
        assert seqs(small.log("u2")) == seqs(small.log("u1")) == list(range(50))
        assert len(small.kafka.produced) < 60


async def test_a_note_to_oneself_is_one_record_and_a_group_message_too() -> None:
    async with small_edge() as small:
        small.groups = {1: {7}}
        ann = await small.client(1)
        await say(ann, 1, 0)
        await ann.expect("accepted", to=1)
        await ann.send("send", group=7, stream=5, seq=3, text="all")
        assert await ann.expect("accepted", group=7) == {"type": "accepted", "group": 7, "stream": 5, "seq": 3}
        assert seqs(small.log("u1")) == [0]
        assert seqs(small.log("g7")) == [3]


@pytest.mark.parametrize("fate", ["lost", "ghost", "late"])
async def test_after_a_failed_batch_connections_resend_and_the_log_has_no_hole(fate: str) -> None:
    async with small_edge() as small:
        ann, bob, eve = await small.client(1), await small.client(2), await small.client(3)
        await say(ann, 2, 0)
        await ann.expect("accepted")
        small.kafka.fail_produce(fate)  # type: ignore[arg-type]
        await say(ann, 2, *range(1, 30))
        await ann.goodbye(Goodbye.OUTCOME_UNKNOWN)
        await eve.alive()  # she had nothing under way
        accepted = max((f["seq"] for f in ann.inbox if f["type"] == "accepted"), default=0)
        again = await small.client(1)
        await until(3, lambda: trio.current_time() >= small.edge.publisher._refuse_until)
        small.kafka.release_late()
        await say(again, 2, *range(accepted + 1, 30))
        await accepted_up_to(again, 29)
        for timeline in ("u1", "u2"):
            assert list(dict.fromkeys(seqs(small.log(timeline)))) == list(range(30))
        await bob.alive()


async def test_what_is_queued_behind_a_failed_batch_is_never_sent() -> None:
    async with small_edge() as small:
        ann, bob = await small.client(1), await small.client(2)
        await until(2, small.edge.publisher._idle.is_set)
        small.kafka.fail_produce("lost")
        publisher = small.edge.publisher
        waits = [(message_records(notice("read", sender=4, sent_at=1, to=4), ["u4"])) for _ in range(2)]
        failed: list[Unavailable] = []

        async def publish(n: int) -> None:
            with pytest.raises(Unavailable) as caught:
                await publisher.publish(waits[n])
            failed.append(caught.value)

        async with trio.open_nursery() as nursery:
            for n in range(2):
                nursery.start_soon(publish, n)
            await trio.testing.wait_all_tasks_blocked()
        assert [e.fields["part"] for e in failed] == ["kafka", "kafka"]
        assert small.log("u4") == []
        await ann.alive()
        await bob.alive()


async def test_while_kafka_is_away_sends_are_refused_and_keep_their_seq() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        small.kafka.away = True
        await say(ann, 2, 0)
        await ann.goodbye(Goodbye.OUTCOME_UNKNOWN)
        again = await small.client(1)
        await say(again, 2, 0, 1)
        refusal = await again.expect("error", seq=0)
        assert (refusal["code"], refusal["retriable"], refusal["part"]) == ("unavailable", True, "kafka")
        await again.alive()
        small.kafka.away = False
        await until(5, lambda: trio.current_time() >= small.edge.publisher._refuse_until)
        await say(again, 2, 1)
        assert (await again.expect("error", seq=1, code="sequence_gap"))["expected"] == 0
        await say(again, 2, 0, 1)
        await accepted_up_to(again, 1)
        assert seqs(small.log("u2")) == [0, 1]


async def test_a_full_queue_refuses() -> None:
    async with small_edge(publish_queue_bytes=1) as small:
        ann = await small.client(1)
        small.edge.publisher._bytes = 1
        await say(ann, 2, 0)
        assert (await ann.expect("error", seq=0))["code"] == "unavailable"
        small.edge.publisher._bytes = 0
        await say(ann, 2, 0)
        await ann.expect("accepted", seq=0)


async def test_a_batch_refused_as_bad_is_tried_by_halves_and_others_get_through() -> None:
    async with small_edge() as small:
        ann, bob = await small.client(1), await small.client(2)
        small.kafka.max_batch_bytes = 3_000
        await ann.send("send", to=1, stream=5, seq=0, text="x" * 5_000)
        await say(ann, 1, 1, 2)
        await bob.send("send", to=1, stream=6, seq=0, text="fits")
        await ann.goodbye(Goodbye.PROTOCOL)
        await bob.expect("accepted", seq=0)
        assert seqs(small.log("u1"), 2) == [0]
        assert seqs(small.log("u1"), 1) == []
        await bob.alive()


async def test_notices_have_positions() -> None:
    async with small_edge() as small:
        records = message_records(notice("friend_request", sender=1, sent_at=1, to=2), ["u1", "u2"])
        first = await small.edge.publisher.publish(records)
        second = await small.edge.publisher.publish(records)
        assert [b - a for a, b in zip(first, second, strict=True)] == [1, 1]
        assert all(p >= 1 for p in first)


async def test_a_resend_is_answered_with_what_kafka_has() -> None:
    async with small_edge() as small:
        ann = await small.client(1)
        await say(ann, 2, 3, 4)
        await accepted_up_to(ann, 4)
        await say(ann, 2, 3)
        assert (await ann.expect("accepted"))["seq"] == 4
        assert seqs(small.log("u2")) == [3, 4]


async def test_who_tells_the_edges_something_hears_whether_it_is_in_the_log() -> None:
    async with small_edge() as small:
        event = PresenceEvent(event="blocked", user=1, by=2, at=5)
        await small.edge.publisher.tell([event])
        assert decode_presence(small.kafka.values(TOPICS.presence)[-1]) == event
        small.kafka.fail_produce("lost")
        with pytest.raises(Unavailable):
            await small.edge.publisher.tell([event])
