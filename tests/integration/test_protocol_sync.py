"""PROTOCOL: `sync`, `fetch`, `conversations`, `history`, `search`, and their pages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.integration.raw import Frame, Raw, World, encoded, leave, new_stream, until

pytestmark = pytest.mark.servers


async def write(sender: Raw, texts: list[str], *, stream: int | None = None, first: int = 0, **target: int) -> int:
    """All texts on one stream, in one go; returns when they are accepted."""
    stream = stream or new_stream()
    frames = [
        encoded({"type": "send", **target, "stream": stream, "seq": first + at, "text": text})
        for at, text in enumerate(texts)
    ]
    await sender.send_bytes(b"".join(frames))
    await sender.expect("accepted", stream=stream, seq=first + len(texts) - 1)
    return stream


async def pages(raw: Raw, kind: str, limit: int, **fields: object) -> AsyncIterator[list[Frame]]:
    """The pages of history or search, to the end."""
    before: str | None = None
    while True:
        answer = await raw.done(kind, limit=limit, **fields, **({"before": before} if before else {}))
        assert answer["type"] == "history"
        yield answer["messages"]
        before = answer["next"]
        if before is None:
            return
        assert isinstance(before, str)


async def test_a_thousand_waiting_messages_all_once_and_in_order(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    timeline = f"u{bob.user}"
    await leave(bob)
    stream = await write(ann, [f"m{at}" for at in range(1000)], to=bob.user)
    again = await world.again(bob, "front")
    after, seen, incomplete = again.logged_in["cursors"][timeline], [], 0
    with trio.fail_after(60):
        while True:
            answer = await again.done("sync", timeline=timeline, after=after, limit=130)
            messages = answer["messages"]
            assert len(messages) <= 130
            positions = [m["pos"] for m in messages]
            assert positions == sorted(set(positions))
            assert all(after < pos < answer["upto"] for pos in positions)
            assert all("prev" not in m for m in messages)
            seen += [m for m in messages if m["kind"] == "text"]
            after = max(after, answer["upto"] - 1)
            incomplete += not answer["complete"]
            if answer["complete"]:
                break
    assert [(m["seq"], m["text"], m["stream"], m["from"]) for m in seen] == [
        (at, f"m{at}", stream, ann.user) for at in range(1000)
    ]
    assert incomplete >= 7  # it was paged
    assert "heads" not in answer


async def test_limits_of_a_sync(world: World) -> None:
    ann = await world.person()
    await write(ann, [str(at) for at in range(600)], to=ann.user)
    await ann.synced(f"u{ann.user}", 0)
    for limit, length in ((None, 50), (1, 1), (500, 500), (501, 500), (2**53 - 1, 500)):
        fields = {} if limit is None else {"limit": limit}
        answer = await ann.done("sync", timeline=f"u{ann.user}", after=0, **fields)
        assert [m["seq"] for m in answer["messages"]] == list(range(length))
        assert answer["complete"] is False
        assert answer["upto"] == answer["messages"][-1]["pos"] + 1
    for kind in ("history", "search"):
        answer = await ann.done(kind, to=ann.user, limit=10**6, **({"text": "1"} if kind == "search" else {}))
        assert len(answer["messages"]) <= 500


async def test_a_page_stays_within_a_mebibyte(world: World) -> None:
    ann = await world.person()
    await write(ann, ["x" * 60_000] * 40, to=ann.user)
    messages, _ = await ann.synced(f"u{ann.user}", 0)  # `Raw` refuses longer frames
    assert [m["seq"] for m in messages] == list(range(40))
    found = [m["seq"] async for page in pages(ann, "history", 500, to=ann.user) for m in page]
    assert found == list(reversed(range(40)))


async def test_a_new_device_begins_at_the_end_and_learns_the_heads(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob")
    stream = await write(ann, ["0", "1", "2"], to=bob.user)
    own = await write(bob, ["a"], to=ann.user)
    timeline = f"u{bob.user}"
    await bob.synced(timeline, 0)
    other = await world.device_of(bob, "there")
    assert other.logged_in["new_device"] is True
    after = other.logged_in["cursors"][timeline]
    with trio.fail_after(15):
        while True:
            answer = await other.done("sync", timeline=timeline, after=after, fresh=True)
            if answer["complete"]:
                break
            after = max(after, answer["upto"] - 1)
    assert not [m for m in answer["messages"] if m["kind"] == "text"]
    heads = {(h["from"], h.get("to"), h["stream"]): h["next"] for h in answer["heads"]}
    assert heads == {(ann.user, bob.user, stream): 3, (bob.user, ann.user, own): 1}
    await write(ann, ["3"], to=bob.user, stream=stream, first=3)
    assert (await other.message("3"))["seq"] == 3
    assert [m["text"] for m in await other.persisted(to=ann.user)] == ["3", "a", "2", "1", "0"]


async def test_a_sync_of_what_is_not_mine(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    group = (await bob.done("group_create", name="bob's"))["group"]
    await ann.refused("forbidden", "sync", timeline=f"u{bob.user}", after=0)
    await ann.refused("forbidden", "sync", timeline=f"g{group}", after=0)
    await ann.refused("forbidden", "history", group=group)
    await ann.refused("forbidden", "search", group=group, text="x")


async def test_a_sync_that_is_up_to_date_brings_nothing(world: World) -> None:
    ann = await world.person()
    await write(ann, ["x"], to=ann.user)
    _, upto = await ann.synced(f"u{ann.user}", 0)
    messages, again = await ann.synced(f"u{ann.user}", upto - 1)
    assert messages == []
    assert again >= upto


async def test_fetch_tells_what_is_there_and_what_never_was(world: World) -> None:
    ann, bob, eve = await world.person(), await world.person(), await world.person()
    stream = await write(ann, ["0", "1", "2"], to=bob.user)
    await bob.synced(f"u{bob.user}", 0)
    fetch = {"from_": ann.user, "to": bob.user, "stream": stream}
    with trio.fail_after(15):
        while True:
            answer = await bob.done("fetch", **fetch, seqs=[0, 2, 7])
            if not answer["pending"]:
                break
    assert answer["type"] == "fetched"
    assert [(m["seq"], m["text"]) for m in answer["messages"]] == [(0, "0"), (2, "2")]
    assert all("pos" in m for m in answer["messages"])
    assert answer["void"] == [7]
    outsider = await eve.ask("fetch", **fetch, seqs=[0])
    assert outsider["type"] == "error" or (outsider["messages"] == [] and outsider["void"] == [0])


# ---------------------------------------------------------------- history, search, conversations


async def test_history_in_pages_newest_first(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob", "there")
    stream = await write(ann, [f"a{at}" for at in range(60)], to=bob.user)
    await write(bob, [f"b{at}" for at in range(45)], to=ann.user)
    await write(ann, [f"a{at}" for at in range(60, 75)], to=bob.user, stream=stream, first=60)
    wanted = [f"a{at}" for at in range(60)] + [f"b{at}" for at in range(45)] + [f"a{at}" for at in range(60, 75)]
    for reader, other in ((ann, bob), (bob, ann)):
        await reader.persisted(to=other.user)
        for limit in (7, 50, 500):
            sizes, found = [], []
            async for page in pages(reader, "history", limit, to=other.user):
                sizes.append(len(page))
                found += page
            assert [m["text"] for m in reversed(found)] == wanted
            assert max(sizes) <= limit
            assert all(m["kind"] == "text" and "prev" not in m for m in found)
    default = await ann.done("history", to=bob.user)
    assert len(default["messages"]) == 50


async def test_a_page_does_not_move_when_something_new_comes(world: World) -> None:
    ann = await world.person()
    stream = await write(ann, [str(at) for at in range(10)], to=ann.user)
    await ann.persisted(to=ann.user)
    first = await ann.done("history", to=ann.user, limit=4)
    await write(ann, ["new"], to=ann.user, stream=stream, first=10)
    await ann.persisted(to=ann.user)
    second = await ann.done("history", to=ann.user, limit=4, before=first["next"])
    assert [m["text"] for m in first["messages"] + second["messages"]] == [str(at) for at in range(9, 1, -1)]


async def test_an_empty_history(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    assert await ann.done("history", to=bob.user) | {"rid": 0} == {"type": "history", "messages": [], "next": None, "rid": 0}
    answer = await ann.done("conversations")
    assert (answer["conversations"], answer["next"]) == ([], None)


async def test_search_is_an_exact_substring_case_folded(world: World) -> None:
    ann, bob = await world.person(), await world.person()
    texts = ["Das Häuschen", "das HÄUSCHEN", "100% wahr", "100 wahr", "a_b", "aXb", "我们去吃饭吧", "back\\slash", 'quote"d']
    await write(ann, texts, to=bob.user)
    await ann.persisted(to=bob.user)
    for text, found in {
        "häuschen": [1, 0], "100%": [2], "a_b": [4], "吃饭": [6], "back\\slash": [7], 'quote"d': [8], "nowhere": [],
    }.items():  # fmt: skip
        got = [m["seq"] async for page in pages(ann, "search", 500, to=bob.user, text=text) for m in page]
        assert got == found, text
    got = [m["seq"] async for page in pages(bob, "search", 1, to=ann.user, text="wahr") for m in page]
    assert got == [3, 2]


async def test_conversations_newest_first_with_unread_counts(world: World) -> None:
    ann = await world.person()
    others = [await world.person() for _ in range(3)]
    group = (await ann.done("group_create", name="all", members=[o.user for o in others]))["group"]
    for at, other in enumerate(others):
        await write(other, [f"{at}.{number}" for number in range(at + 1)], to=ann.user)
    await write(others[0], ["to all"], group=group)
    await write(ann, ["mine"], to=others[0].user)
    await ann.persisted(group=group)
    await ann.persisted(to=others[0].user)
    answer = await ann.done("conversations")
    found = [(c.get("to"), c.get("group"), c["unread"], c["last"]["text"]) for c in answer["conversations"]]
    assert found == [
        (others[0].user, None, 1, "mine"), (None, group, 1, "to all"), (others[2].user, None, 3, "2.2"),
        (others[1].user, None, 2, "1.1"),
    ]  # fmt: skip
    last = next(c for c in answer["conversations"] if c.get("to") == others[2].user)["last"]
    await ann.send("read", to=others[2].user, sent_at=last["sent_at"])

    async def read() -> bool:
        conversations = (await ann.done("conversations"))["conversations"]
        return bool(next(c for c in conversations if c.get("to") == others[2].user)["unread"] == 0)

    await until(read)


async def test_many_conversations_are_paged(world: World) -> None:
    ann = await world.person()
    others = [(await world.person()).user for _ in range(3)]
    for other in others:
        await write(ann, ["x"], to=other)
    await ann.persisted(to=others[-1])
    found, before = [], None
    for _ in range(10):
        answer = await ann.done("conversations", **({"before": before} if before else {}))
        found += [c["to"] for c in answer["conversations"]]
        before = answer["next"]
        if before is None:
            break
    assert found == others[::-1]
