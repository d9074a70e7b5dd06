"""`sync` and `fetch` by the rules of PROTOCOL and DESIGN section 4."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from chat import protocol as p
from chat.edge import pages
from tests.integration.business.test_groups import create
from tests.integration.business.world import Session, World, refused

pytestmark = pytest.mark.servers


async def end(world: World, timeline: str) -> int:
    return (await world.log.end([timeline]))[timeline]


def seqs(messages: list[p.Message]) -> list[int]:
    return [m.seq for m in messages if isinstance(m.seq, int)]


@pytest.fixture
async def pair(world: World) -> tuple[Session, Session]:
    return await world.online("anna"), await world.online("bert")


async def test_everything_in_order_and_whole(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=3)
    await world.send(bert.user, to=anna.user, count=2)
    for session in pair:
        answer = await world.sync(session, f"u{session.user}")
        assert answer.complete
        assert answer.upto == await end(world, f"u{session.user}")
        assert seqs(answer.messages) == [0, 1, 2, 0, 1]
        assert [m.pos for m in answer.messages] == sorted(m.pos for m in answer.messages if isinstance(m.pos, int))
        assert answer.heads is UNSET
        assert not answer.too_old
    after = answer.messages[2].pos
    assert isinstance(after, int)
    assert seqs((await world.sync(bert, f"u{bert.user}", after)).messages) == [0, 1]


async def test_a_cut_page_ends_behind_its_last_row(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=7)
    found: list[int] = []
    known, answers = 0, 0
    while True:
        answer = await world.sync(bert, f"u{bert.user}", known, limit=3, fresh=True)
        answers += 1
        found += seqs(answer.messages)
        known = max(known, answer.upto - 1)
        if answer.complete:
            break
        assert len(answer.messages) == 3
        assert answer.messages[-1].pos == answer.upto - 1
        assert answer.heads is UNSET
    assert (found, answers) == (list(range(7)), 3)
    assert answer.heads == [p.Head(sender=anna.user, to=bert.user, stream=1, next=7)]


async def test_a_page_of_exactly_the_limit_is_whole(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=3)
    assert (await world.sync(bert, f"u{bert.user}", limit=3)).complete


@pytest.mark.parametrize("limit", [50, 500])
async def test_a_page_is_cut_by_bytes(world: World, pair: tuple[Session, Session], limit: int) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=40, text="x" * 60_000)
    found: list[int] = []
    known = 0
    while True:
        answer = await world.sync(bert, f"u{bert.user}", known, limit=limit)
        found += seqs(answer.messages)
        known = answer.upto - 1
        if answer.complete:
            break
        assert len(answer.messages) == 16
    assert found == list(range(40))


async def test_persist_behind(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    own = f"u{bert.user}"
    await world.send(anna.user, to=bert.user)
    world.log.persisting = False
    before = await end(world, own)
    await world.send(anna.user, to=bert.user)
    answer = await world.sync(bert, own)
    assert (seqs(answer.messages), answer.upto, answer.complete) == ([0], before, False)
    await world.log.persist()
    answer = await world.sync(bert, own, answer.upto - 1)
    assert (seqs(answer.messages), answer.complete) == ([1], True)


async def test_mysql_away_says_nothing_and_is_found_back(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user)
    world.database.away = True
    for timeline in (f"u{bert.user}", "g77"):
        answer = await world.sync(bert, timeline, 41)
        assert (answer.messages, answer.upto, answer.complete) == ([], 42, False)
    reply = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[0]))
    assert (reply.messages, reply.void, reply.pending) == ([], [], [0])
    world.database.away = False
    await world.services.guard.wait_mended()
    assert (await world.sync(bert, f"u{bert.user}")).complete


async def test_kafka_away_gives_what_is_stored_but_is_not_whole(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user)
    world.log.away = True
    answer = await world.sync(bert, f"u{bert.user}")
    assert (seqs(answer.messages), answer.complete) == ([0], False)
    reply = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[0, 1]))
    assert (seqs(reply.messages), reply.void, reply.pending) == ([0], [], [1])


async def test_heads_of_all_streams_but_the_forgotten(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=2, stream=5)
    await world.send(bert.user, to=anna.user, count=3, stream=6)
    await world.send(bert.user, to=bert.user, count=1, stream=7)
    await world.send(anna.user, to=bert.user, stream=8, sent_at=world.clock.now() - 31 * 86_400_000)
    answer = await world.sync(bert, f"u{bert.user}", fresh=True)
    assert isinstance(answer.heads, list)
    assert sorted((h.sender, h.to or 0, h.stream, h.next) for h in answer.heads) == [
        (anna.user, bert.user, 5, 2),
        (bert.user, anna.user, 6, 3),
        (bert.user, bert.user, 7, 1),
    ]
    assert (await world.sync(bert, f"u{bert.user}", fresh=False)).heads is UNSET


async def test_heads_that_do_not_fit_beside_the_rows_come_alone(
    world: World, pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "HEADS_BUDGET", 240)
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=2)
    first = await world.sync(bert, f"u{bert.user}", fresh=True)
    assert (seqs(first.messages), first.complete, first.heads) == ([0, 1], False, UNSET)
    second = await world.sync(bert, f"u{bert.user}", first.upto - 1, fresh=True)
    assert (second.messages, second.complete) == ([], True)
    assert second.heads == [p.Head(sender=anna.user, to=bert.user, stream=1, next=2)]


async def test_too_far_behind(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    own = f"u{bert.user}"
    await world.send(anna.user, to=bert.user, count=100)
    assert not (await world.sync(bert, own)).too_old
    await world.send(anna.user, to=bert.user, count=1)
    answer = await world.sync(bert, own)
    assert (answer.messages, answer.too_old, answer.complete) == ([], True, True)
    assert answer.upto == await end(world, own)
    assert answer.heads == [p.Head(sender=anna.user, to=bert.user, stream=1, next=101)]
    # as far in the partition, but few messages of his own
    await world.send(anna.user, to=anna.user, count=300)
    first = (await world.sync(anna, f"u{anna.user}", limit=1)).too_old
    assert first
    assert not (await world.sync(bert, own, answer.upto - 1)).too_old


async def test_other_timelines(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await refused(world, bert, p.Sync(timeline=f"u{anna.user}", after=0), "forbidden")
    await refused(world, bert, p.Sync(timeline="g123456", after=0), "forbidden")
    await refused(world, bert, p.Sync(timeline="g9999999999999999999", after=0), "bad_request")


async def test_receipts_are_noted(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    (pos,) = await world.send(anna.user, to=bert.user, receipt=True)
    await world.send(anna.user, to=bert.user)
    for session in pair:
        await world.sync(session, f"u{session.user}")
    assert bert.receipts == [(pos, anna.user, 1, 0)]
    assert anna.receipts == []


# ------------------------------------------------------------------ groups


async def test_a_member_sees_his_stays(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, is_open=True)
    timeline = f"g{group}"

    async def say(text: str) -> None:
        await world.send(anna.user, group=group, text=text)

    async def texts(limit: int = 50) -> tuple[list[str], int]:
        found: list[str] = []
        known = asked = 0
        while True:
            answer = await world.sync(bert, timeline, known, limit=limit, fresh=True)
            asked += 1
            found += [m.text if isinstance(m.text, str) else m.kind for m in answer.messages]
            known = answer.upto - 1
            if answer.complete:
                assert answer.upto == await end(world, timeline)
                assert isinstance(answer.heads, list)
                return found, asked
            assert answer.heads is UNSET

    await say("before")
    await refused(world, bert, p.Sync(timeline=timeline, after=0), "forbidden")
    await world.ask(bert, p.GroupJoin(group=group))
    await say("one")
    assert await texts() == (["group_joined", "one"], 1)
    await world.ask(bert, p.GroupLeave(group=group))
    await say("away")
    assert await texts() == (["group_joined", "one", "group_left"], 1)
    await world.ask(bert, p.GroupJoin(group=group))
    await say("two")
    whole = ["group_joined", "one", "group_left", "group_joined", "two"]
    assert await texts() == (whole, 2)  # a page a stay
    assert (await texts(1))[0] == whole


async def test_a_former_member_gets_no_heads_of_what_went_on(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, bert)
    await world.send(anna.user, group=group, stream=1)
    await world.ask(bert, p.GroupLeave(group=group))
    await world.send(anna.user, group=group, stream=2)
    answer = await world.sync(bert, f"g{group}", fresh=True)
    assert answer.complete
    assert answer.heads == [p.Head(sender=anna.user, group=group, stream=1, next=1)]
    answer = await world.sync(anna, f"g{group}", fresh=True)
    assert isinstance(answer.heads, list)
    assert len(answer.heads) == 2


async def test_a_join_that_is_not_stored_yet_is_not_refused(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, is_open=True)
    world.log.persisting = False
    await world.ask(bert, p.GroupJoin(group=group))
    answer = await world.sync(bert, f"g{group}", 0)
    assert (answer.messages, answer.complete, answer.upto) == ([], False, 1)
    await world.log.persist()
    assert [m.kind for m in (await world.sync(bert, f"g{group}", 0)).messages] == ["group_joined"]


async def test_a_member_unknown_to_the_hub_is_registered(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    group = await create(world, anna, bert)
    world.hub.joins.clear()
    await world.sync(bert, f"g{group}")
    await world.sync(bert, f"g{group}")
    assert world.hub.joins == [(bert.user, group, True)]


async def test_the_own_timeline_tells_of_groups_as_they_are_now(world: World) -> None:
    anna, bert = await world.online("anna"), await world.online("bert")
    stays, left = await create(world, anna, bert), await create(world, anna, bert)
    await world.ask(bert, p.GroupLeave(group=left))
    world.hub.groups[bert.user] = {left}
    world.hub.joins.clear()
    await world.sync(bert, f"u{bert.user}")
    assert world.hub.groups_of(bert.user) == {stays}
    assert world.hub.joins == [(bert.user, stays, True)]


# ------------------------------------------------------------------ fetch


async def test_fetch(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=3)
    for session in pair:
        reply = await world.ask(session, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[2, 0, 2, 9]))
        assert (seqs(reply.messages), reply.void, reply.pending) == ([0, 2], [9], [])
    world.log.persisting = False
    await world.send(anna.user, to=bert.user, count=1)
    reply = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[1, 3, 4]))
    assert (seqs(reply.messages), reply.void, reply.pending) == ([1], [], [3, 4])
    await world.log.persist()
    reply = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[1, 3, 4]))
    assert (seqs(reply.messages), reply.void, reply.pending) == ([1, 3], [4], [])


async def test_fetch_is_for_those_whom_it_concerns(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    carl = await world.online("carl")
    await world.send(anna.user, to=bert.user)
    await world.send(anna.user, to=carl.user)
    reply = await world.ask(carl, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[0]))
    assert (reply.messages, reply.void) == ([], [0])
    await refused(world, carl, p.Fetch(sender=anna.user, stream=1, seqs=[0]), "bad_request")
    await refused(world, carl, p.Fetch(sender=anna.user, to=1, group=1, stream=1, seqs=[0]), "bad_request")


async def test_fetch_in_groups_by_stays(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    group = await create(world, anna, is_open=True)
    await world.send(anna.user, group=group)
    ask = p.Fetch(sender=anna.user, group=group, stream=1, seqs=[0, 1])
    reply = await world.ask(bert, ask)
    assert (reply.messages, reply.void) == ([], [0, 1])
    await world.ask(bert, p.GroupJoin(group=group))
    await world.send(anna.user, group=group)
    reply = await world.ask(bert, ask)
    assert (seqs(reply.messages), reply.void, reply.pending) == ([1], [0], [])


async def test_fetch_of_more_than_fits(world: World, pair: tuple[Session, Session]) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=20, text="x" * 60_000)
    reply = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=list(range(21))))
    assert seqs(reply.messages) == list(range(16))
    assert (reply.void, reply.pending) == ([20], [16, 17, 18, 19])


async def test_many_at_once_share_snapshots(world: World, pair: tuple[Session, Session]) -> None:
    import trio

    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=5)
    before = world.database.calls
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(world.sync, bert, f"u{bert.user}")
    assert world.database.calls - before < 40
