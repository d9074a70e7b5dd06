"""Was everything that `replay-irc` said shown once, in order, to everyone, and is it kept once?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from chat.bridge.loop import open_bridge
from chat.bridge.mysql import open_database
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.sdk import Client
from chat.config import MysqlConfig
from chat.errors import ChatError, SetupError
from chat.ports import Statement
from chat.protocol import LIMIT_MAX
from chat.tools.replay_run import Person, Replayed, Shown

QUIET: Final = 15.0  # seconds without anything new before what is missing counts as lost
MISSING_TOLD: Final = 10
HISTORY_AT_ONCE: Final = 8
KEPT_WITHIN: Final = 30.0  # seconds until what was accepted must be in the history


async def check(replayed: Replayed) -> dict[str, object]:
    """The report: counts, and `ok`."""
    lines, directs = _expected(replayed)
    await _all_shown(replayed, lines, directs)
    counts: Counter[str] = Counter(lost=0, doubled=0, disordered=0, unexpected=0)
    missing: list[str] = []
    for number, person in enumerate(replayed.people):
        for what, wanted, shown in (("line", lines[number], person.lines), ("direct", directs[number], person.direct)):
            lost = _compare(counts, wanted, shown)
            missing += [f"{what} {line} at {person.name} on {person.client.edge}" for line in lost]
    history = await _history(replayed, directs)
    failed = Counter(why for p in replayed.people for why in p.failed)
    edges = Counter(p.client.edge for p in replayed.people)
    return {
        "ok": not failed and not any(counts.values()) and not history["history_lost"] and not history["history_doubled"],
        "connections": len(replayed.people),
        "edges": dict(sorted(edges.items())),
        "lines": len(replayed.lines),
        "direct": sum(line.to is not None for line in replayed.lines),
        "joins": replayed.joins,
        "leaves": replayed.leaves,
        "to_show": sum(map(len, lines.values())) + sum(map(len, directs.values())),
        "shown": sum(len(p.lines) + len(p.direct) for p in replayed.people),
        "failed": dict(failed),
        **counts,
        **history,
        "missing": missing[:MISSING_TOLD],
        "seconds": round(replayed.seconds, 1),
    }


def _expected(replayed: Replayed) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Person → the lines he must show, of the channel and of direct messages (what he wrote himself, too)."""
    lines: dict[int, list[int]] = defaultdict(list)
    directs: dict[int, list[int]] = defaultdict(list)
    for line in replayed.lines:
        for person in line.members:
            lines[person].append(line.number)
        if line.to is not None:
            directs[line.to].append(line.number)
            directs[line.sender].append(line.number)
    return lines, directs


async def _all_shown(replayed: Replayed, lines: dict[int, list[int]], directs: dict[int, list[int]]) -> None:
    """Until everyone has shown as much as he must, or nothing new has come for long."""
    for number, person in enumerate(replayed.people):
        while not _has_all(person, len(lines[number]), len(directs[number])):
            before = len(person.lines) + len(person.direct)
            with trio.move_on_after(QUIET):
                await person.client.wait_until(lambda p=person, b=before: len(p.lines) + len(p.direct) > b)  # type: ignore[misc]
            if len(person.lines) + len(person.direct) == before:
                return


def _has_all(person: Person, lines: int, directs: int) -> bool:
    return len(person.lines) >= lines and len(person.direct) >= directs


def _compare(counts: Counter[str], expected: Sequence[int], shown: Sequence[Shown]) -> list[int]:
    """Adds to the counts; returns the lines that are missing."""
    wanted, times = set(expected), Counter(s.line for s in shown)
    lost = [line for line in expected if line not in times]
    counts["lost"] += len(lost)
    counts["doubled"] += sum(n - 1 for n in times.values())
    counts["unexpected"] += sum(line not in wanted for line in times)
    newest: dict[int, int] = {}
    for one in shown:  # one sender's lines keep their order
        counts["disordered"] += one.line < newest.get(one.sender, -1)
        newest[one.sender] = max(one.line, newest.get(one.sender, -1))
    return lost


# ------------------------------------------------------------------ history


async def _history(replayed: Replayed, directs: dict[int, list[int]]) -> dict[str, int]:
    """The channel as the watcher finds it, and each direct conversation at both of its ends."""
    counts: Counter[str] = Counter(history=0, history_lost=0, history_doubled=0)
    limit = trio.CapacityLimiter(HISTORY_AT_ONCE)
    people = replayed.people
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for line in replayed.lines:
        if line.to is not None:
            pairs[line.sender, line.to].append(line.number)
            pairs[line.to, line.sender].append(line.number)

    async def one(client: Client, conversation: str, wanted: Sequence[int]) -> None:
        async with limit:
            found = await _kept(client, conversation, len(wanted))
        times = Counter(found)
        counts["history"] += len(found)
        counts["history_lost"] += sum(line not in times for line in wanted)
        counts["history_doubled"] += sum(n - 1 for n in times.values())

    async with trio.open_nursery() as nursery:
        everything = [line.number for line in replayed.lines]
        nursery.start_soon(one, people[-1].client, f"g{replayed.group}", everything)
        for (person, other), wanted in pairs.items():
            nursery.start_soon(one, people[person].client, f"u{people[other].client.user}", wanted)
    return dict(counts)


async def _kept(client: Client, conversation: str, wanted: int) -> list[int]:
    """The lines that history holds, as soon as it holds as many as wanted, at the latest after `KEPT_WITHIN`."""
    found: list[int] = []
    with trio.move_on_after(KEPT_WITHIN):
        while True:
            try:
                found = await _pages(client, conversation)
            except (ConnectionLost, RequestTimeout):
                found = []
            except ChatError as error:
                if not error.retriable:
                    raise SetupError(f"history of {conversation}: {error}") from None
            if len(found) >= wanted:
                break
            await trio.sleep(0.2)
    return found


async def _pages(client: Client, conversation: str) -> list[int]:
    found: list[int] = []
    before: str | None = None
    while True:
        page = await client.history(conversation, LIMIT_MAX, before)
        for message in page.messages:
            if message.kind == "text" and isinstance(message.extra, dict):
                found.append(message.extra["line"])
        before = page.next
        if before is None:
            return found


# ------------------------------------------------------------------ MySQL


async def check_rows(replayed: Replayed, where: str) -> dict[str, object]:
    """Count the rows of kind text in MySQL: the channel's timeline, and the direct messages in each person's own.
    `where`: user:password@host:port/database. Raises SetupError, PartError."""
    expected: Counter[str] = Counter({f"g{replayed.group}": len(replayed.lines)})
    for line in replayed.lines:
        if line.to is not None:
            expected[f"u{replayed.people[line.sender].client.user}"] += 1
            expected[f"u{replayed.people[line.to].client.user}"] += 1
    timelines = [f"g{replayed.group}", *(f"u{p.client.user}" for p in replayed.people)]
    async with open_bridge(), open_database(_config(where)) as database:
        statements = [_count(some) for some in _slices(timelines, 200)]
        rows = [row for result in await database.read(statements) for row in result.rows]
    found = {_text(timeline): (count, distinct) for timeline, count, distinct in rows}
    wrong = [t for t in timelines if found.get(t, (0, 0)) != (expected[t], expected[t])]
    return {"rows": sum(count for count, _ in found.values()), "rows_wrong": len(wrong)}


def _count(timelines: Sequence[str]) -> Statement:
    marks = ", ".join(["%s"] * len(timelines))
    return Statement(
        "SELECT timeline, COUNT(*), COUNT(DISTINCT sender, conversation, stream, seq) FROM messages"
        f" WHERE kind = 'text' AND timeline IN ({marks}) GROUP BY timeline",
        tuple(timelines),
    )


def _slices(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _config(where: str) -> MysqlConfig:
    found = re.fullmatch(r"([^:@]+):([^@]*)@([^:]+):(\d+)/(.+)", where)
    if found is None:
        raise SetupError("--mysql wants user:password@host:port/database")
    user, password, host, port, database = found.groups()
    return MysqlConfig(user=user, password=password, host=host, port=int(port), database=database)
