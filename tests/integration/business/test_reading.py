"""`conversations`, `history`, `search`."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from chat import protocol as p
from chat.edge import reading
from chat.persist import browse
from chat.protocol import Message
from chat.records import message_records, notice
from tests.integration.business.test_groups import create
from tests.integration.business.world import Session, World, refused

pytestmark = pytest.mark.servers


@pytest.fixture
async def pair(world: World) -> tuple[Session, Session]:
    return await world.online("anna"), await world.online("bert")


def texts(messages: list[Message]) -> list[str]:
    return [m.text if isinstance(m.text, str) else m.kind for m in messages]


async def all_of(world: World, session: Session, request: p.History | p.Search) -> tuple[list[str], int]:
    """All pages, and how many."""
    found: list[str] = []
    for pages in range(1, 100):
        reply = await world.ask(session, request)
        found += texts(reply.messages)
        if reply.next is None:
            return found, pages
        request.before = reply.next
    raise AssertionError("no end")


# ------------------------------------------------------------------ history


async def test_newest_first_in_pages(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    for n in range(5):
        await world.send(anna.user, to=bert.user, text=f"{n}")
        await world.send(bert.user, to=anna.user, text=f"{n}b")
    await world.send(anna.user, to=anna.user, text="to myself")
    whole = [f"{n}{b}" for n in range(4, -1, -1) for b in ("b", "")]
    for session, other in (pair, pair[::-1]):
        assert await all_of(world, session, p.History(to=other.user)) == (whole, 1)
        assert await all_of(world, session, p.History(to=other.user, limit=3)) == (whole, 4)
        assert await all_of(world, session, p.History(to=other.user, limit=10)) == (whole, 1)
    assert await all_of(world, anna, p.History(to=anna.user)) == (["to myself"], 1)
    assert await all_of(world, bert, p.History(to=bert.user)) == ([], 1)


async def test_by_time_then_position(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    for text, at in (("c", 30), ("a", 10), ("b1", 20), ("b2", 20), ("d", 40)):
        await world.send(anna.user, to=bert.user, text=text, sent_at=at)
    for limit in (1, 2, 50):
        assert (await all_of(world, bert, p.History(to=anna.user, limit=limit)))[0] == ["d", "c", "b2", "b1", "a"]


async def test_notices_are_not_in_direct_history(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.ask(anna, p.FriendRequest(user=bert.user, text="please"))
    await create(world, anna, bert)
    await world.send(anna.user, to=bert.user, text="hi")
    assert await all_of(world, bert, p.History(to=anna.user)) == (["hi"], 1)


async def test_history_is_cut_by_bytes(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=20, text="x" * 60_000)
    found, pages = await all_of(world, bert, p.History(to=anna.user, limit=500))
    assert (len(found), pages) == (20, 2)


async def test_history_of_a_group_by_stays(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, is_open=True)
    ask = p.History(group=group)
    await refused(world, bert, ask, "forbidden")
    await refused(world, bert, p.History(), "bad_request")
    await refused(world, bert, p.History(to=1, group=1), "bad_request")
    for text in ("before", None, "first", None, "between", None, "second", None, "after"):
        if text is not None:
            await world.send(anna.user, group=group, text=text)
        elif group in world.hub.groups_of(bert.user):
            await world.ask(bert, p.GroupLeave(group=group))
        else:
            await world.ask(bert, p.GroupJoin(group=group))
    whole = ["group_left", "second", "group_joined", "group_left", "first", "group_joined"]
    for limit in (1, 2, 3, 50):
        assert (await all_of(world, bert, p.History(group=group, limit=limit)))[0] == whole
    assert len((await all_of(world, anna, p.History(group=group)))[0]) == 10


async def test_a_stay_whose_end_is_archived_has_no_hot_rows(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, bert)
    await world.send(anna.user, group=group, text="then")
    await world.ask(bert, p.GroupLeave(group=group))
    await world.sql("DELETE FROM messages WHERE timeline = %s", f"g{group}")
    await world.send(anna.user, group=group, text="later")
    for request in (p.History(group=group), p.Search(text="t", group=group), p.Search(text="t")):
        assert await all_of(world, bert, request) == ([], 1)


async def test_cursors_are_of_one_conversation_and_answer(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=3)
    cursor = (await world.ask(bert, p.History(to=anna.user, limit=1))).next
    await refused(world, bert, p.History(to=bert.user, before=cursor), "bad_request")
    await refused(world, bert, p.Search(text="x", to=anna.user, before=cursor), "bad_request")
    await refused(world, bert, p.Conversations(before=cursor), "bad_request")
    await refused(world, bert, p.History(to=anna.user, before="AAAA"), "bad_request")


# ------------------------------------------------------------------ search


async def test_exact_substring_case_folded(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    for text in ("Straße 7", "STRASSE 8", "今天天气很好", 'say "hi"\n50% off_now', "strass"):
        await world.send(anna.user, to=bert.user, text=text)
    for needle, found in (
        ("strasse", ["STRASSE 8", "Straße 7"]),
        ("天气", ["今天天气很好"]),
        ('"HI"\n50%', ['say "hi"\n50% off_now']),
        ("%", ['say "hi"\n50% off_now']),
        ("ff_n", ['say "hi"\n50% off_now']),
        ("type", []),
        ("s", ["strass", 'say "hi"\n50% off_now', "STRASSE 8", "Straße 7"]),
    ):
        assert await all_of(world, bert, p.Search(text=needle)) == (found, 1)
        assert await all_of(world, bert, p.Search(text=needle, to=anna.user)) == (found, 1)
        assert await all_of(world, bert, p.Search(text=needle, to=bert.user)) == ([], 1)


async def test_bounded_work_a_request(world: World, pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SCAN_ROWS", 7)
    monkeypatch.setattr(reading, "CHUNK_ROWS", 3)
    anna, bert = pair
    group = await create(world, anna, bert)
    whole: list[str] = []
    for n in range(20):
        text = f"needle {n}" if n % 4 == 0 else f"hay {n}"
        await world.send(anna.user, to=bert.user if n % 3 else None, group=None if n % 3 else group, text=text)
        whole.insert(0, text)
    needles = [t for t in whole if "needle" in t]
    found, pages = await all_of(world, bert, p.Search(text="NEEDLE"))
    assert found == needles
    assert pages >= 2
    assert (await all_of(world, bert, p.Search(text="needle", limit=1)))[0] == needles
    assert (await all_of(world, bert, p.Search(text="e", limit=2)))[0] == needles
    assert (await all_of(world, bert, p.Search(text="needle", to=anna.user)))[0] == [
        t for n, t in enumerate(reversed(whole)) if n % 3 and n % 4 == 0
    ][::-1]
    assert (await all_of(world, bert, p.Search(text="needle", group=group)))[0] == ["needle 12", "needle 0"]


async def test_search_keeps_to_stays(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, is_open=True)
    await world.send(anna.user, group=group, text="secret")
    await refused(world, bert, p.Search(text="secret", group=group), "forbidden")
    await world.ask(bert, p.GroupJoin(group=group))
    await world.send(anna.user, group=group, text="no secret")
    await world.ask(bert, p.GroupLeave(group=group))
    await world.send(anna.user, group=group, text="secret again")
    for request in (p.Search(text="secret"), p.Search(text="secret", group=group)):
        assert await all_of(world, bert, request) == (["no secret"], 1)
    assert len((await all_of(world, anna, p.Search(text="secret")))[0]) == 3


async def test_found_is_cut_by_bytes(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=20, text="x" * 60_000)
    found, pages = await all_of(world, bert, p.Search(text="xx", limit=500))
    assert (len(found), pages) == (20, 2)


# ------------------------------------------------------------------ conversations


async def read(world: World, session: Session, sent_at: int, *, to: int = 0, group: int = 0) -> None:
    extra = {"sent_at": sent_at} | ({"group": group} if group else {})
    said = notice("read", sender=session.user, to=to or session.user, sent_at=world.clock.sent_at(1), extra=extra)
    timelines = [f"u{session.user}"] if group else [f"u{session.user}", f"u{to}"]
    await world.log.publish(message_records(said, timelines))


async def test_newest_conversation_first_with_marks(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, bert)
    await world.send(anna.user, to=bert.user, text="one")
    await world.send(anna.user, to=bert.user, text="two")
    await world.send(anna.user, group=group, text="all")
    silent = await create(world, anna, bert)
    (in_group, direct) = (await world.ask(bert, p.Conversations())).conversations
    assert (in_group.group, in_group.to, in_group.unread, texts([in_group.last])) == (group, None, 1, ["all"])
    assert (direct.to, direct.unread, texts([direct.last])) == (anna.user, 2, ["two"])
    assert direct.mine is direct.read is direct.delivered is UNSET
    assert silent != group

    last = direct.last.sent_at
    await read(world, bert, last - 1, to=anna.user)
    await read(world, bert, in_group.last.sent_at, group=group)
    said = notice("delivered", sender=bert.user, to=anna.user, sent_at=1, extra={"to": bert.user, "stream": 1, "seq": 1})
    await world.log.publish(message_records(said, [f"u{anna.user}"]))
    (in_group, direct) = (await world.ask(bert, p.Conversations())).conversations
    assert (in_group.unread, in_group.mine, in_group.read) == (0, in_group.last.sent_at, in_group.last.sent_at)
    assert (direct.unread, direct.mine, direct.read) == (1, last - 1, UNSET)
    (in_group, direct) = (await world.ask(anna, p.Conversations())).conversations
    assert (in_group.unread, direct.unread) == (0, 0)
    assert (direct.to, direct.read, direct.delivered) == (bert.user, last - 1, p.Delivered(1, 1))


async def test_groups_left_or_not_yet_spoken_in_are_not_listed(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, is_open=True)
    await world.send(anna.user, group=group, text="before he came")
    await world.ask(bert, p.GroupJoin(group=group))
    reply = await world.ask(bert, p.Conversations())
    assert (reply.conversations, reply.next) == ([], None)
    await world.send(anna.user, group=group, text="a stay")
    await world.ask(bert, p.GroupLeave(group=group))
    assert (await world.ask(bert, p.Conversations())).conversations == []
    await world.send(anna.user, group=group, text="away")
    await world.ask(bert, p.GroupJoin(group=group))
    (one,) = (await world.ask(bert, p.Conversations())).conversations
    assert (texts([one.last]), one.unread) == (["a stay"], 1)


async def test_unread_is_capped(world: World, pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=1_100)
    await world.send(bert.user, to=anna.user, count=10)
    (one,) = (await world.ask(bert, p.Conversations())).conversations
    assert one.unread == 1_000
    monkeypatch.setattr(browse, "UNREAD_ROWS", 100)
    (one,) = (await world.ask(bert, p.Conversations())).conversations
    assert one.unread == 90


async def test_pages_of_conversations(world: World, pair: tuple[Session, Session]) -> None:
    anna, _ = pair
    others = [await world.user(f"user-{n}") for n in range(60)]
    group = await create(world, anna)
    for n, other in enumerate(others):
        await world.send(other, to=anna.user, text=f"{n}", sent_at=world.clock.now() + 100 + n // 7)
        if n == 20:
            await world.send(anna.user, group=group, text="in group", sent_at=world.clock.now() + 102)
    first = await world.ask(anna, p.Conversations())
    second = await world.ask(anna, p.Conversations(before=first.next))
    assert (len(first.conversations), len(second.conversations), second.next) == (50, 11, None)
    both = first.conversations + second.conversations
    assert {c.to for c in both} == {*others, None}
    times = [c.last.sent_at for c in both]
    assert times == sorted(times, reverse=True)


async def test_conversations_are_cut_by_bytes(world: World, pair: tuple[Session, Session]) -> None:
    anna, _ = pair
    for n in range(20):
        await world.send(await world.user(f"user-{n}"), to=anna.user, text="x" * 60_000)
    first = await world.ask(anna, p.Conversations())
    second = await world.ask(anna, p.Conversations(before=first.next))
    assert (len(first.conversations), len(second.conversations), second.next) == (16, 4, None)


async def test_nothing(world: World, pair: tuple[Session, Session]) -> None:
    reply = await world.ask(pair[0], p.Conversations())
    assert (reply.conversations, reply.next) == ([], None)


async def test_short_stays_in_other_groups_hide_none_that_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.persist.browse.MOST_STAYS", 2)
    anna = await world.online("anna")
    old = (await world.ask(anna, p.GroupCreate(name="old"))).group
    await world.send(anna.user, group=old, text="needle")
    for _ in range(3):
        group = (await world.ask(anna, p.GroupCreate(name="short"))).group
        await world.send(anna.user, group=group)
        await world.ask(anna, p.GroupLeave(group=group))
    assert [c.group for c in (await world.ask(anna, p.Conversations())).conversations] == [old]
    assert [m.text for m in (await world.ask(anna, p.Search(text="needle"))).messages] == ["needle"]
