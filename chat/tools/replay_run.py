"""Saying an IRC log again: a user and a connection for each person, the steps in their order.

A join or a leave is made when every line before it is accepted, and lines after it wait for its answer: so it is known
which lines a member must show. Between them lines are pipelined.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from chat import protocol
from chat.client import events as ev
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.sdk import Client, LoggedOut
from chat.client.store import Store
from chat.errors import ChatError, SetupError
from chat.tools.irc import Join, Leave, Plan, Say, user_name

OPENING_AT_ONCE: Final = 8  # log-ins; each costs the cluster two password hashes
OPENING_TIMEOUT: Final = 300.0
UNACCEPTED: Final = 200  # lines under way at a time
STEP_TIMEOUT: Final = 60.0
TRIES: Final = 8  # of a join or a leave whose outcome is not known
DONE_ALREADY: Final = frozenset({"exists", "forbidden", "not_found"})  # what another try is told after one that worked


class Person:
    """A user with his connection and what he has shown."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.lines: list[Shown] = []  # of the channel, in the order shown
        self.direct: list[Shown] = []
        self.failed: list[str] = []  # why
        self.client = Client(
            [address], name, Store(":memory:"), password=secrets.token_urlsafe(12), register=True, label="replay-irc",
            listener=self._event,
        )  # fmt: skip

    def _event(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown) and event.message.kind == "text":
            extra = event.message.extra
            line = extra.get("line") if isinstance(extra, dict) else None
            shown = Shown(line if isinstance(line, int) else -1, event.message.sender, event.message.text)
            (self.direct if event.message.group is None else self.lines).append(shown)
        elif isinstance(event, ev.EntryChanged) and event.state == "failed":
            self.failed.append(event.why)


@dataclass(frozen=True)
class Shown:
    line: int
    sender: int
    text: object


@dataclass
class Line:
    """What was said, and who has to show it."""

    number: int
    sender: int  # person
    text: str
    members: frozenset[int]
    to: int | None


@dataclass
class Replayed:
    """What the check needs."""

    people: list[Person]  # the last one watches: he made the group and says nothing
    group: int
    lines: list[Line] = field(default_factory=list)
    joins: int = 0
    leaves: int = 0
    seconds: float = 0.0


async def say_all(  # noqa: PLR0917
    plan: Plan,
    channel: str,
    servers: Sequence[str],
    rate: float | None,
    nursery: trio.Nursery,
    progress: Callable[[str], None],
) -> Replayed:
    """Log everyone in (`servers` are used in turn) and say all that is planned; `rate` in lines per second, None: as fast
    as it goes. The connections stay, in `nursery`. Raises SetupError when the cluster cannot be used."""
    prefix = f"{secrets.token_hex(3)}-"
    names = [user_name(nicks[0], prefix, number) for number, nicks in enumerate(plan.nicks)]
    names.append(user_name("watcher", prefix, len(names)))
    people = [Person(servers[number % len(servers)], name) for number, name in enumerate(names)]
    await _open(people, nursery, progress)
    first = [people[number].client.user for number in plan.first]
    group = await people[-1].client.create_group(channel[:64], first, open=True)
    replayed = Replayed(people, group)
    async with trio.open_nursery() as settling:
        for number in [*plan.first, len(people) - 1]:
            settling.start_soon(_settled, people[number].client, group, True)
    progress(f"{len(people)} connections, group {group}, {len(plan.steps)} steps")
    began = time.monotonic()
    await _perform(plan, replayed, rate)
    replayed.seconds = time.monotonic() - began
    return replayed


async def _open(people: Sequence[Person], nursery: trio.Nursery, progress: Callable[[str], None]) -> None:
    limit = trio.CapacityLimiter(OPENING_AT_ONCE)
    refused: list[str] = []

    async def one(person: Person) -> None:
        async with limit:
            nursery.start_soon(person.client.run)
            try:
                await person.client.wait_until(lambda: person.client.caught_up)
            except LoggedOut as error:
                refused.append(f"{person.name}: {error}")

    with trio.move_on_after(OPENING_TIMEOUT) as scope:
        async with trio.open_nursery() as opening:
            for person in people:
                opening.start_soon(one, person)
    if scope.cancelled_caught or refused:
        there = sum(p.client.connected for p in people)
        raise SetupError(f"{there} of {len(people)} are logged in{': ' if refused else ''}{'; '.join(refused[:3])}")
    edges = Counter(p.client.edge for p in people)
    progress("connections: " + ", ".join(f"{edge} {count}" for edge, count in sorted(edges.items())))


async def _perform(plan: Plan, replayed: Replayed, rate: float | None) -> None:
    people, group = replayed.people, replayed.group
    members = {*plan.first, len(people) - 1}
    due = trio.current_time()
    for step in plan.steps:
        client = people[step.person].client
        if isinstance(step, Say):
            if rate:
                await trio.sleep_until(due)
                due += 1 / rate
            await _accepted(people, UNACCEPTED)
            number = len(replayed.lines)
            to = step.to if step.to != step.person else None
            replayed.lines.append(Line(number, step.person, step.text, frozenset(members), to))
            client.send_text(f"g{group}", step.text, extra={"line": number})
            if to is not None:
                client.send_text(f"u{people[to].client.user}", step.text, extra={"line": number}, receipt=False)
            continue
        await _accepted(people, 0)
        if isinstance(step, Join):
            await _insist(client, protocol.GroupJoin(group=group))
            await _settled(client, group, True)
            members.add(step.person)
            replayed.joins += 1
        elif isinstance(step, Leave):
            await _insist(client, protocol.GroupLeave(group=group))
            await _settled(client, group, False)
            members.discard(step.person)
            replayed.leaves += 1
    await _accepted(people, 0)


async def _settled(client: Client, group: int, member: bool) -> None:
    """Until the membership is stored: then any edge that the client comes to knows it. Raises SetupError."""
    with trio.move_on_after(STEP_TIMEOUT):
        while True:
            try:
                if (group in [g.group for g in await client.groups()]) is member:
                    break
            except (ConnectionLost, RequestTimeout):
                pass  # asked again
            except ChatError as error:
                if not error.retriable:
                    raise SetupError(f"groups: {error}") from None
            await trio.sleep(0.05)
        if member:  # and known to its present edge, or it would refuse
            await client.wait_until(lambda: group in client.my_groups)
        return
    raise SetupError(f"the group of {client.name} was not settled within {STEP_TIMEOUT:g} s")


async def _accepted(people: Sequence[Person], most: int) -> None:
    """Until at most so many lines are not accepted. Raises SetupError."""
    with trio.move_on_after(STEP_TIMEOUT):
        while sum(len(p.client.sending) for p in people) > most:
            waiting = next(p.client for p in people if len(p.client.sending))
            await waiting.wait_until(lambda c=waiting: len(c.sending) == 0)  # type: ignore[misc]
        return
    raise SetupError(f"lines were not accepted within {STEP_TIMEOUT:g} s")


async def _insist(client: Client, request: protocol.AnyRequest) -> None:
    """A change that may be made twice without harm. Raises SetupError."""
    problem = ""
    for attempt in range(TRIES):
        try:
            await client.do(request)
            return
        except ChatError as error:
            if attempt and error.code in DONE_ALREADY:
                return
            if not error.retriable:
                raise SetupError(f"{type(request).__name__}: {error}") from None
            problem = str(error)
        except (ConnectionLost, RequestTimeout) as error:
            problem = str(error)
        await trio.sleep(0.2 * 2**attempt)
    raise SetupError(f"{type(request).__name__}: {problem}")
