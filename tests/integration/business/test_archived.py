"""Whatever is archived, in whichever slices: `sync`, `fetch`, `conversations`, `history` and `search` answer the same."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chat import protocol as p
from chat.bridge.mysql import MysqlDatabase
from chat.config import ArchiveConfig, EdgeConfig, MysqlConfig
from chat.edge import reading
from chat.edge.receipts import LOOKUP_ROWS
from chat.errors import PartAway
from chat.persist import browse
from chat.persist.archive import scan, slices
from chat.persist.history import Passed
from chat.persist.migrate import load
from tests.fakes.redis import FakeRedis
from tests.harness.archived import archive_rows, keys_of
from tests.integration.business.test_groups import create
from tests.integration.business.world import Session, World

pytestmark = pytest.mark.servers

WORDS = (
    "needle",
    "Straße",
    "STRASSE",
    "今天天气",
    "天气",
    "🎉",
    'say "hi"',
    "a\\b",
    "two\nlines",
    "Kelvin",
    "ﬁne",
    "hay",
    "ſs",
)
NEEDLES = ("needle", "strasse", "天气", "🎉", '"hi"', "\\", "\n", "k", "fi", "e", "absent")


@pytest.fixture
async def world(mysql_config: MysqlConfig, tmp_path: Path) -> AsyncIterator[World]:
    database = MysqlDatabase(mysql_config)
    await database.script([s for migration in load() for s in migration.statements])
    config = EdgeConfig(sync_wait_ms=50, too_old_messages=400)
    made = World(database, config, FakeRedis(), ArchiveConfig(url=str(tmp_path), cache_mb=4))
    await made.set_up()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.services.run)
        yield made
        nursery.cancel_scope.cancel()
    await database.close()


# ------------------------------------------------------------------ what a user can see of it


async def pages(world: World, session: Session, request: Any) -> list[list[p.Message]]:
    found = []
    for _ in range(500):
        reply = await world.ask(session, request)
        found.append(reply.messages)
        if reply.next is None:
            return found
        request.before = reply.next
    raise AssertionError(f"no end: {request}")


async def synced(world: World, session: Session, timeline: str, after: int, **more: Any) -> list[p.Synced]:
    found = []
    for _ in range(500):
        answer = await world.sync(session, timeline, after, **more)
        found.append(answer)
        if answer.complete:
            return found
        after = max(after, answer.upto - 1)
    raise AssertionError("no end")


Question = tuple[str, Callable[[], Awaitable[Any]]]


def questions(world: World, session: Session, others: list[int], groups: list[int]) -> list[Question]:
    """What may be asked, each with its name."""
    every: list[Question] = [("conversations", partial(world.ask, session, p.Conversations()))]
    for timeline in (f"u{session.user}", *(f"g{g}" for g in groups)):
        for after, limit in product((0, 10, 40), (3, 50)):
            ask = partial(synced, world, session, timeline, after, limit=limit, fresh=limit == 50)
            every.append((f"sync {timeline} {after} {limit}", ask))
    ends: list[dict[str, int]] = [{"to": o} for o in others] + [{"group": g} for g in groups]
    for end in ends:
        for limit in (1, 7, 50):
            every.append((f"history {end} {limit}", partial(history, world, session, limit=limit, **end)))
        for stream, sender in product((1, 2, 3), (session.user, *others)):
            fetch = p.Fetch(sender=sender, stream=stream, seqs=[0, 2, 3, 7, 11, 500], **_fetched(end, sender, session))
            every.append((f"fetch {end} {sender} {stream}", partial(world.ask, session, fetch)))
    for needle, end, limit in product(NEEDLES, ({}, *ends), (2, 50)):
        every.append((f"search {needle!r} {end} {limit}", partial(searched, world, session, needle, limit, end)))
    return every


async def history(world: World, session: Session, **asked: Any) -> list[list[p.Message]]:
    return await pages(world, session, p.History(**asked))


async def searched(world: World, session: Session, needle: str, limit: int, end: dict[str, Any]) -> list[p.Message]:
    """All that is found; pages may be cut elsewhere where the archive is looked through."""
    found = await pages(world, session, p.Search(text=needle, limit=limit, **end))
    return [message for page in found for message in page]


def _fetched(end: dict[str, int], sender: int, session: Session) -> dict[str, int]:
    return end if "group" in end or sender == session.user else {"to": session.user}


async def talk(world: World, rng: random.Random, sessions: list[Session], count: int) -> list[int]:
    """A while of talk: direct, in two groups, people come and go; times go back a little now and then."""
    users = [s.user for s in sessions]
    groups = [await create(world, sessions[0], *sessions[1:]), await create(world, sessions[1], is_open=True)]
    for _ in range(count):
        sender = rng.choice(sessions)
        drift = rng.choice((0, 0, 0, 1, -3, -40))
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 3)))
        target: dict[str, int] = {"to": rng.choice(users)}
        if rng.random() < 0.4:
            group = rng.choice(groups)
            inside = group in world.hub.groups_of(sender.user)
            if group == groups[1] and rng.random() < 0.3:
                await world.ask(sender, p.GroupLeave(group=group) if inside else p.GroupJoin(group=group))
                continue
            if not inside:
                continue
            target = {"group": group}
        sent_at = world.clock.sent_at(sender.user) + drift
        receipt = "to" in target and rng.random() < 0.3
        await world.send(sender.user, **target, text=text, stream=rng.randint(1, 2), sent_at=sent_at, receipt=receipt)
    return groups


async def split(world: World, rng: random.Random, folder: Path, share: float) -> int:
    """Archive a random share of the rows in a few slices, some by stretches of the table, some any rows; how many."""
    keys = await keys_of(world.real)
    chosen = [key for key in keys if rng.random() < share]
    mixed = [key for key in chosen if rng.random() < 0.3]
    rest = [key for key in chosen if key not in set(mixed)]
    for part in (mixed, rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        if part:
            await archive_rows(world.real, folder, part)
    return len(chosen)


@pytest.mark.parametrize("tight", [False, True])
async def test_any_split_answers_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tight: bool
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(slices, "ROW_GROUP", 9)
    sessions = [await world.online(name) for name in ("anna", "bert", "cleo")]
    groups = await talk(world, rng, sessions, 40 if tight else 120)
    users = [s.user for s in sessions]
    if tight:  # every bound is met
        monkeypatch.setattr(scan, "SEARCH_ROWS", 11)
        monkeypatch.setattr(reading, "SCAN_ROWS", 13)
        monkeypatch.setattr(reading, "CHUNK_ROWS", 4)
        monkeypatch.setattr(browse, "MOST_INDEX", 4)
    asked = []
    for session in sessions:
        his = [g for g in groups if await world.sql(MEMBER, g, session.user)]
        asked += [(session, *question) for question in rng.sample(questions(world, session, users, his), 20)]
    before = [msgspec.to_builtins(await ask()) for _, _, ask in asked]
    for share in (0.4, 1.0):
        assert await split(world, rng, tmp_path, share)
        for (session, name, ask), answer in zip(asked, before, strict=True):
            assert msgspec.to_builtins(await ask()) == answer, f"user {session.user}: {name}"
    assert not await keys_of(world.real)


MEMBER = "SELECT 1 FROM members WHERE chat_group = %s AND user = %s"


# ------------------------------------------------------------------ one at a time


@pytest.fixture
async def pair(world: World) -> tuple[Session, Session]:
    return await world.online("anna"), await world.online("bert")


async def test_rows_that_are_archived_between_the_two_reads_of_a_request(
    world: World, pair: tuple[Session, Session], tmp_path: Path
) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=30, text="needle")
    found = world.services.browse
    real = found.rows

    async def rows(keys: Any) -> Any:
        """The bodies are read when another half of the table is gone."""
        hot = await keys_of(world.real)
        if hot:
            await archive_rows(world.real, tmp_path, hot[len(hot) // 2 :])
        return await real(keys)

    found.rows = rows  # type: ignore[method-assign]
    for request in (p.History(to=anna.user, limit=7), p.Search(text="NEEDLE", limit=7), p.Search(text="n", to=anna.user)):
        got = [m.seq for page in await pages(world, bert, request) for m in page]
        assert got == list(range(29, -1, -1))


async def test_too_old_counts_what_is_archived(world: World, pair: tuple[Session, Session], tmp_path: Path) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=410)
    timeline = f"u{bert.user}"
    keys = await keys_of(world.real, "timeline = %s", timeline)
    afters = [0, keys[8][1], keys[9][1], keys[200][1]]
    before = [await world.sync(bert, timeline, after) for after in afters]
    assert [answer.too_old for answer in before] == [True, True, False, False]
    await archive_rows(world.real, tmp_path, keys[:100])
    assert [await world.sync(bert, timeline, after) for after in afters] == before


async def test_receipts_of_archived_messages(world: World, pair: tuple[Session, Session], tmp_path: Path) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=5, receipt=True)
    await world.send(anna.user, to=bert.user, count=5, stream=2)
    keys = await keys_of(world.real, "timeline = %s", f"u{bert.user}")
    history, passed = world.services.history, [Passed(bert.user, 0, keys[6][1]), Passed(bert.user, keys[8][1], keys[9][1])]
    assert await history.receipts(passed, LOOKUP_ROWS) == [[(anna.user, 1, 4)], []]
    await archive_rows(world.real, tmp_path, keys[3:6])
    assert await history.receipts(passed, LOOKUP_ROWS) == [None, []]
    assert await history.receipts_whole(passed[0], LOOKUP_ROWS) == [(anna.user, 1, 4)]


@pytest.mark.parametrize("damage", ["missing", "cut", "altered", "no url"])
async def test_a_file_that_cannot_be_read_is_said(
    world: World, pair: tuple[Session, Session], tmp_path: Path, damage: str
) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=200, text="needle")
    hot = await world.send(anna.user, to=bert.user, count=20, text="hot")
    keys = await keys_of(world.real, "position < %s", hot[0] - 10)
    file = tmp_path / await archive_rows(world.real, tmp_path, keys)
    data = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "altered":
            middle = len(data) // 3
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case _:
            world.services.cold._url = ""
    for request in (p.History(to=anna.user, limit=500), p.Search(text="needle"), p.Search(text="needle", to=anna.user)):
        with pytest.raises(PartAway) as caught:
            await world.ask(bert, request)
        assert caught.value.part == "archive"
        assert damage == "no url" or file.name in caught.value.message
    answer = await world.sync(bert, f"u{bert.user}")
    assert (answer.messages, answer.upto, answer.complete) == ([], 1, False)
    got = await world.ask(bert, p.Fetch(sender=anna.user, to=bert.user, stream=1, seqs=[3, 219]))
    assert (got.messages, got.void, got.pending) == ([], [], [3, 219])
    # What does not need the file is served.
    assert len((await world.ask(bert, p.History(to=anna.user, limit=10))).messages) == 10
    assert (await world.sync(bert, f"u{bert.user}", hot[3])).complete


async def test_what_needs_nothing_archived_asks_nothing_more(
    world: World, pair: tuple[Session, Session], tmp_path: Path
) -> None:
    anna, bert = pair
    await world.send(anna.user, to=bert.user, count=100)
    keys = await keys_of(world.real)
    await archive_rows(world.real, tmp_path, keys[:40] + keys[100:140])

    async def calls(request: Any) -> int:
        before = world.database.calls
        await world.ask(bert, request)
        return world.database.calls - before

    last = keys[-1][1] if keys[-1][0] == f"u{bert.user}" else keys[99][1]
    assert await calls(p.History(to=anna.user, limit=10)) == 2
    assert await calls(p.Sync(timeline=f"u{bert.user}", after=last - 5)) == 1
    await world.sql("INSERT INTO read_marks VALUES (%s, %s, %s)", bert.user, f"u{anna.user}", world.clock.now() - 50)
    assert await calls(p.Conversations()) == 3
    assert len(world.services.cold.cache) == 0
