"""People who join a group and leave it, again and again, while one of its members counts aloud in it.

The rule: what is accepted while somebody is in for sure (from the answer to his join until he asks to leave) is in his
history. Of what his screen shows of one stay nothing is missing in between, of the last stay nothing at all. Nothing is
shown twice or out of order. What was said while he was out for sure is nowhere.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Final

import trio

from chat import protocol
from chat.client import events as ev
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.sdk import Client
from chat.client.store import Store
from chat.errors import ChatError
from chat.tools.check.history import persistently

_EVERY_S: Final = 0.2  # the writer counts
_STAY_S: Final = (0.5, 6.0)
#: A request whose outcome is unknown may be carried out as late as this: by an edge that was frozen.
_UNKNOWN_S: Final = 15.0
_SETTLE_S: Final = 90.0
_LOOK_S: Final = 0.1


@dataclass
class Said:
    composed: float
    accepted: float | None = None


@dataclass
class Stay:
    """Moments of one clock; `asked` ≤ the record of the join ≤ `joined`, `leaves` ≤ that of the leaving ≤ `left`."""

    asked: float
    joined: float = float("inf")
    leaves: float = float("inf")
    left: float = float("inf")


@dataclass
class Comer:
    client: Client
    shown: list[int] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)


class Comers:
    """`run` it in a nursery beside the storm, then `settle`, which asserts."""

    def __init__(self, servers: list[str], count: int, random: Random) -> None:
        self._servers, self._random = servers, random
        self._said: list[Said] = []
        self._writer = self._client("writer", self._heard)
        self._comers = [Comer(self._client("comer", lambda event, at=at: self._seen(at, event))) for at in range(count)]
        self._group = 0
        self._going = True

    def _client(self, name: str, listener: object) -> Client:
        return Client(
            self._servers, f"{name}-{secrets.token_hex(6)}", Store(":memory:"), password=secrets.token_urlsafe(12),
            register=True, listener=listener,  # type: ignore[arg-type]
        )  # fmt: skip

    def _heard(self, event: ev.Event) -> None:
        if isinstance(event, ev.EntryChanged) and event.state not in ("sending", "failed"):
            said = self._said[int(event.entry.text)]
            said.accepted = trio.current_time() if said.accepted is None else said.accepted

    def _seen(self, at: int, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown) and event.message.kind == "text":
            self._comers[at].shown.append(int(str(event.message.text)))

    # ---- what they do

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Started when the group is there."""
        async with trio.open_nursery() as nursery:
            for client in (self._writer, *(comer.client for comer in self._comers)):
                nursery.start_soon(client.run)
            await self._writer.wait_connected()
            request = protocol.GroupCreate(name="open to all", open=True)
            self._group = (await persistently(self._writer, request, protocol.GroupReply)).group
            task_status.started()
            for comer in self._comers:
                nursery.start_soon(self._come_and_go, comer)
            while self._going:
                self._said.append(Said(trio.current_time()))
                self._writer.send_text(f"g{self._group}", str(len(self._said) - 1))
                await trio.sleep(_EVERY_S)

    async def _come_and_go(self, comer: Comer) -> None:
        while True:
            comer.stays.append(Stay(trio.current_time()))
            await self._until_ok(comer.client, protocol.GroupJoin(group=self._group), "exists")
            comer.stays[-1].joined = trio.current_time()
            await trio.sleep(self._random.uniform(*_STAY_S))
            if not self._going:
                return
            await self._stored(comer.client, True)  # from here on `forbidden` says that he has left
            comer.stays[-1].leaves = trio.current_time()
            await self._until_ok(comer.client, protocol.GroupLeave(group=self._group), "forbidden")
            comer.stays[-1].left = trio.current_time()
            await self._stored(comer.client, False)  # from here on `exists` says that he has joined
            await trio.sleep(self._random.uniform(*_STAY_S))

    async def _stored(self, client: Client, inside: bool) -> None:
        """Persist has heard of it."""
        while True:
            answer = await persistently(client, protocol.Groups(), protocol.GroupsReply)
            if any(group.group == self._group for group in answer.groups) is inside:
                return
            await trio.sleep(_LOOK_S)

    async def _until_ok(self, client: Client, request: protocol.AnyRequest, done: str) -> None:
        """`done`: the code that says that an earlier try has done it. What is refused otherwise is asked again."""
        while True:
            pause = 0.5
            try:
                await client.ask(request, protocol.Ok)
                return
            except ChatError as error:
                if error.code == done:
                    return
                if not error.retriable and error.code != "forbidden":
                    raise
            except (ConnectionLost, RequestTimeout):
                pause = _UNKNOWN_S
            await trio.sleep(pause)

    # ---- what must be so

    async def settle(self) -> None:
        """The last ones stay; everything comes; the verdict."""
        self._going = False
        with trio.move_on_after(_SETTLE_S):
            while not self._settled():  # noqa: ASYNC110 - many things make it so
                await trio.sleep(_LOOK_S)
        wrong = [f"not accepted: {at}" for at, said in enumerate(self._said) if said.accepted is None]
        for at, comer in enumerate(self._comers):
            wrong += [f"comer {at}: {finding}" for finding in self._on_screen(comer)]
            with trio.fail_after(_SETTLE_S):
                history = await self._history(comer)
            wrong += [f"comer {at}: {finding}" for finding in self._in_history(comer, history)]
        assert not wrong, "\n".join([*wrong[:20], *(str(comer.stays) for comer in self._comers)])

    def _settled(self) -> bool:
        last = (comer.stays[-1].joined < float("inf") and comer.stays[-1].leaves == float("inf") for comer in self._comers)
        return all(said.accepted is not None for said in self._said) and all(
            here and set(self._in_for_sure(comer.stays[-1])) <= set(comer.shown)
            for here, comer in zip(last, self._comers, strict=True)
        )

    def _in_for_sure(self, stay: Stay) -> list[int]:
        return [
            at
            for at, said in enumerate(self._said)
            if stay.joined <= said.composed and said.accepted is not None and said.accepted <= stay.leaves
        ]

    def _out_for_sure(self, stays: list[Stay]) -> set[int]:
        """Said before the first join, or between a leaving and the next join."""
        gaps = zip(
            [float("-inf"), *(stay.left for stay in stays)], [*(stay.asked for stay in stays), float("inf")], strict=True
        )
        return {
            at
            for left, asked in gaps
            for at, said in enumerate(self._said)
            if left < said.composed and said.accepted is not None and said.accepted < asked
        }

    def _on_screen(self, comer: Comer) -> list[str]:
        shown, seen = comer.shown, set(comer.shown)
        found = [f"{b} shown after {a}" for a, b in pairwise(shown) if b <= a]
        for stay in comer.stays:
            due = self._in_for_sure(stay)
            last = stay is comer.stays[-1]
            newest = max((at for at in due if at in seen), default=-1)
            found += [f"{at} is not shown" for at in due if at not in seen and (last or at < newest)]
        return found + [f"{at} is shown" for at in sorted(seen & self._out_for_sure(comer.stays))]

    def _in_history(self, comer: Comer, history: list[int]) -> list[str]:
        there = set(history)
        found = [f"{b} stored after {a}" for a, b in pairwise(history) if b <= a]
        for stay in comer.stays:
            found += [f"{at} is not in the history" for at in self._in_for_sure(stay) if at not in there]
        return found + [f"{at} is in the history" for at in sorted(there & self._out_for_sure(comer.stays))]

    async def _history(self, comer: Comer) -> list[int]:
        """Oldest first; read again while something accepted is missing."""
        due = set(self._in_for_sure(comer.stays[-1]))
        while True:
            rows: list[int] = []
            before: str | None = None
            while True:
                request = protocol.History(group=self._group, limit=200, before=before)
                try:
                    page = await persistently(comer.client, request, protocol.HistoryReply)
                except ChatError:  # his last join is not stored yet
                    break
                rows += [int(str(message.text)) for message in page.messages if message.kind == "text"]
                before = page.next
                if before is None:
                    break
            if due <= set(rows):
                return rows[::-1]
            await trio.sleep(_LOOK_S)
