"""PROTOCOL, "Messages": sending, accepted, deliveries, acknowledgements, receipts, read marks."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import trio

from tests.integration.raw import Frame, Raw, World, encoded, leave, new_stream, until

pytestmark = pytest.mark.servers


def check_message(frame: Frame) -> None:
    assert isinstance(frame["from"], int)
    assert isinstance(frame["sent_at"], int)
    assert isinstance(frame["pos"], int)
    assert frame["pos"] >= 1
    assert "prev" in frame
    assert frame["prev"] is None or 0 <= frame["prev"] < frame["pos"]


@pytest.mark.parametrize(
    "doors", [("here", "here"), ("here", "there"), ("there", "here"), ("front", "front"), ("front", "here")]
)
async def test_two_users_chat(world: World, doors: tuple[str, str]) -> None:
    ann, bob = await world.person("ann", doors[0]), await world.person("bob", doors[1])
    streams = {ann: new_stream(), bob: new_stream()}
    last = 0
    for number in range(10):
        sender, other = (ann, bob) if number % 2 == 0 else (bob, ann)
        stream, seq, text = streams[sender], number // 2, f'line {number}: 你好 🙂 "quoted" \\ \n'
        accepted = await sender.say(text, to=other.user, stream=stream, seq=seq)
        assert accepted == {"type": "accepted", "to": other.user, "stream": stream, "seq": seq}
        for reader in (other, sender):  # the sender's own device gets it too
            message = await reader.message(text)
            check_message(message)
            wanted = {"from": sender.user, "to": other.user, "stream": stream, "seq": seq}
            assert {k: message[k] for k in wanted} == wanted
            assert "group" not in message
            assert abs(message["sent_at"] - time.time() * 1000) < 60_000
            assert message["sent_at"] > last  # an answer does not sort before what it answers
        last = message["sent_at"]


async def test_the_chain_of_a_timeline(world: World) -> None:
    ann, bob = await world.person(), await world.person(door="there")
    stream, known = new_stream(), bob.logged_in["cursors"][f"u{bob.user}"]
    for seq in range(50):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=str(seq))
    positions = []
    for seq in range(50):
        message = await bob.expect("message", stream=stream)
        assert message["seq"] == seq
        positions.append((message["prev"], message["pos"]))
    for (_, before), (prev, _) in pairwise(positions):
        assert prev in {before, None}
    assert positions[0][0] is None or positions[0][0] <= known
    await ann.expect("accepted", stream=stream, seq=49)


async def test_a_note_to_oneself_is_one_record(world: World) -> None:
    ann = await world.person()
    stream = new_stream()
    await ann.say("note", to=ann.user, stream=stream, seq=0)
    await ann.message("note", to=ann.user, from_=ann.user)
    messages, _ = await ann.synced(f"u{ann.user}", 0)
    assert [m["text"] for m in messages] == ["note"]
    await ann.silence("message", text="note")


async def test_what_is_carried_unchanged(world: World) -> None:
    ann, bob = await world.person(), await world.person(door="there")
    stream = new_stream()
    extra = {"a": [1, -2.5, None, True, {"ключ": "значение"}], "big": 2**53 - 1, "": "", "text": "not the text"}
    texts = ["", " ", "\u0000\u001f\u007f\u2028", "a" * 60_000, "<b>&amp;</b>", '"}', "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 مرحبا"]
    for seq, text in enumerate(texts):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=text, extra=extra)
    for text in texts:
        message = await bob.expect("message", stream=stream)
        assert (message["text"], message["extra"]) == (text, extra)
    stored = {m["seq"]: m for m in await bob.persisted(to=ann.user)}
    assert {seq: m["text"] for seq, m in stored.items()} == dict(enumerate(texts))
    assert all(m["extra"] == extra for m in stored.values())


# ---------------------------------------------------------------- seq


async def test_a_gap_is_refused_with_what_is_expected(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    stream = new_stream()
    await ann.say("0", to=bob.user, stream=stream, seq=0)
    await ann.send("send", to=bob.user, stream=stream, seq=2, text="2")
    error = await ann.expect("error", code="sequence_gap")
    assert (error["expected"], error["retriable"]) == (1, True)
    assert (error["to"], error["stream"], error["seq"]) == (bob.user, stream, 2)
    for seq in (1, 2):
        await ann.say(str(seq), to=bob.user, stream=stream, seq=seq)
    assert [(await bob.expect("message", stream=stream))["text"] for _ in range(3)] == ["0", "1", "2"]


async def test_again_is_answered_but_not_stored_again(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = new_stream()
    for seq in range(3):
        await ann.say(str(seq), to=bob.user, stream=stream, seq=seq)
    accepted = await ann.say("1 again", to=bob.user, stream=stream, seq=1)
    assert accepted["seq"] == 2  # the highest contiguous one that is stored
    for seq in range(3):
        await bob.message(str(seq))
    stored = await bob.persisted(to=ann.user)
    assert [m["text"] for m in stored] == ["2", "1", "0"]
    await bob.silence("message", text="1 again")


async def test_resent_after_a_reconnect_it_is_in_history_once(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = new_stream()
    for seq in range(5):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=str(seq))
    await ann.expect("accepted", stream=stream, seq=4)
    await trio.aclose_forcefully(ann.stream)
    again = await world.again(ann, "there")
    for seq in range(3, 8):  # as if the last acknowledgements had been lost
        await again.send("send", to=bob.user, stream=stream, seq=seq, text=str(seq))
    await again.expect("accepted", stream=stream, seq=7)
    wanted = [str(seq) for seq in reversed(range(8))]
    assert [m["text"] for m in await bob.persisted(to=ann.user)] == wanted
    assert [m["text"] for m in await again.persisted(to=bob.user)] == wanted
    assert [m["text"] for m in (await bob.synced(f"u{bob.user}", 0))[0]] == wanted[::-1]


async def test_streams_and_conversations_have_their_own_numbers(world: World) -> None:
    ann, bob, eve = await world.person(), await world.person(), await world.person()
    one, other = new_stream(), new_stream()
    for to, stream in ((bob.user, one), (eve.user, one), (bob.user, other)):
        await ann.say("first", to=to, stream=stream, seq=0)
    await ann.say("second", to=bob.user, stream=one, seq=1)
    await ann.send("send", to=eve.user, stream=one, seq=2, text="too far")
    assert (await ann.expect("error", code="sequence_gap"))["expected"] == 1


async def test_a_hundred_at_once_are_all_accepted_in_order(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = new_stream()
    await ann.send_bytes(b"".join(
        encoded({"type": "send", "to": bob.user, "stream": stream, "seq": seq, "text": str(seq)}) for seq in range(100)
    ))  # fmt: skip
    highest = -1
    while highest < 99:
        seq = (await ann.expect("accepted", stream=stream))["seq"]
        assert seq > highest
        highest = seq
    assert [(await bob.expect("message", stream=stream))["seq"] for _ in range(100)] == list(range(100))


# ---------------------------------------------------------------- refused for good


async def test_a_refused_send_does_not_use_up_its_seq(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    stream = new_stream()
    nobody = 2**52
    await ann.send("send", to=nobody, stream=stream, seq=0, text="x", rid="n")
    error = await ann.expect("error", rid="n")
    assert (error["code"], error["retriable"]) == ("not_found", False)
    assert (error["to"], error["stream"], error["seq"]) == (nobody, stream, 0)

    await bob.done("block", user=ann.user)

    async def heard_of() -> bool:
        return (await ann.say("a probe", to=bob.user, stream=new_stream(), seq=0)).get("code") == "blocked"

    await until(heard_of)
    await ann.send("send", to=bob.user, stream=stream, seq=0, text="refused")
    await ann.send("send", to=bob.user, stream=stream, seq=1, text="behind it")
    blocked = await ann.expect("error", to=bob.user, stream=stream, seq=0)
    assert (blocked["code"], blocked["retriable"]) == ("blocked", False)
    behind = await ann.expect("error", to=bob.user, stream=stream, seq=1)
    assert behind["code"] in {"blocked", "sequence_gap"}

    await bob.done("unblock", user=ann.user)

    async def let_through() -> bool:
        return (await ann.say("anew", to=bob.user, stream=stream, seq=0))["type"] == "accepted"

    await until(let_through)  # the edge of the sender hears of it
    assert (await bob.message("anew"))["seq"] == 0
    texts = [m["text"] for m in await bob.persisted(to=ann.user)]
    assert [text for text in texts if text != "a probe"] == ["anew"]


async def test_to_a_group_of_others_or_of_nobody(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    group = (await ann.done("group_create", name="closed"))["group"]
    for number, code in ((group, "forbidden"), (2**52, {"not_found", "forbidden"})):
        await bob.send("send", group=number, stream=(stream := new_stream()), seq=0, text="x")
        error = await bob.expect("error", group=number, stream=stream, seq=0)
        assert error["code"] in code
        assert error["retriable"] is False


# ---------------------------------------------------------------- ack, delivered, read


async def test_acknowledged_positions_are_the_cursors_of_the_next_log_in(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = new_stream()
    for seq in range(3):
        await ann.say(str(seq), to=bob.user, stream=stream, seq=seq)
    messages = [await bob.expect("message", stream=stream) for _ in range(3)]
    timeline = f"u{bob.user}"
    await bob.synced(timeline, 0)
    await bob.send("ack", timeline=timeline, pos=messages[1]["pos"])
    await bob.send("ack", timeline=timeline, pos=messages[0]["pos"])  # cumulative: only the highest counts
    await leave(bob)

    async def stored() -> bool:
        again = await world.again(bob)
        await leave(again)
        return bool(again.logged_in["cursors"][timeline] == messages[1]["pos"])

    await until(stored)
    again = await world.again(bob, "there")
    rest, _ = await again.synced(timeline, again.logged_in["cursors"][timeline])
    assert [m["text"] for m in rest] == ["2"]


async def test_only_ones_own_and_only_what_is(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    await ann.say("x", to=bob.user, stream=new_stream(), seq=0)
    pos = (await bob.message("x"))["pos"]
    await ann.synced(f"u{ann.user}", 0)
    for rid, (kind, fields, code) in enumerate(
        [
            ("ack", {"timeline": f"u{bob.user}", "pos": pos}, "forbidden"),
            ("ack", {"timeline": "g9007199254740000", "pos": 1}, "forbidden"),
            ("ack", {"timeline": f"u{ann.user}", "pos": 2**53 - 1}, "bad_request"),
            ("read", {"group": 2**52, "sent_at": 1}, "forbidden"),
        ]
    ):
        await ann.send(kind, rid=f"r{rid}", **fields)
        assert (await ann.expect("error", rid=f"r{rid}"))["code"] == code, (kind, fields)
    await ann.send("ack", timeline=f"u{ann.user}", pos=1)
    await ann.alive()
    assert not [f for f in ann.inbox if f["type"] == "error"]


async def test_delivered_when_a_device_has_acknowledged(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = new_stream()
    for seq in range(3):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=str(seq), receipt=True)
    messages = [await bob.expect("message", stream=stream) for _ in range(3)]
    await ann.silence("message", kind="delivered")
    await bob.send("ack", timeline=f"u{bob.user}", pos=messages[-1]["pos"])
    told = await ann.expect("message", kind="delivered")
    check_message(told)
    assert (told["from"], told["to"]) == (bob.user, ann.user)
    assert told["extra"] == {"to": bob.user, "stream": stream, "seq": 2}
    assert "stream" not in told
    assert "seq" not in told


async def test_delivered_to_one_who_was_away(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    await leave(bob)
    stream = new_stream()
    await ann.say("later", to=bob.user, stream=stream, seq=0, receipt=True)
    again = await world.again(bob)
    messages, _ = await again.synced(f"u{bob.user}", again.logged_in["cursors"][f"u{bob.user}"])
    await again.send("ack", timeline=f"u{bob.user}", pos=messages[-1]["pos"])
    told = await ann.expect("message", kind="delivered")
    assert told["extra"] == {"to": bob.user, "stream": stream, "seq": 0}


async def test_read_is_told_to_both_and_kept(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    other = await world.device_of(bob)
    await ann.say("read me", to=bob.user, stream=new_stream(), seq=0)
    sent_at = (await bob.message("read me"))["sent_at"]
    await bob.send("read", to=ann.user, sent_at=sent_at)
    for reader in (ann, other):
        told = await reader.expect("message", kind="read")
        assert (told["from"], told["to"], told["extra"]["sent_at"]) == (bob.user, ann.user, sent_at)

    async def kept() -> bool:
        [conversation] = (await ann.done("conversations"))["conversations"]
        assert conversation["to"] == bob.user
        return bool(conversation.get("read") == sent_at)

    await until(kept)
    messages, _ = await ann.synced(f"u{ann.user}", 0)
    assert {m["kind"] for m in messages} == {"text"}  # kept as state, not as rows


async def others_device(world: World, raw: Raw, door: str) -> Raw:
    device = await world.device_of(raw, door)
    assert device.logged_in["session"] != raw.logged_in["session"]
    return device


async def test_all_devices_of_both_get_everything(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    devices = [ann, bob, await others_device(world, ann, "there"), await others_device(world, bob, "front")]
    stream = new_stream()
    for seq in range(5):
        await ann.send("send", to=bob.user, stream=stream, seq=seq, text=str(seq))
    for device in devices:
        assert [(await device.expect("message", stream=stream))["seq"] for _ in range(5)] == list(range(5))


async def test_the_same_device_elsewhere_replaces_this_one(world: World) -> None:
    for door in ("here", "there"):
        ann = await world.person()
        again = await world.again(ann, door)
        await ann.expect("replaced")
        await ann.goodbye(1001)
        await again.say("still here", to=again.user, stream=new_stream(), seq=0)
        await again.message("still here")
