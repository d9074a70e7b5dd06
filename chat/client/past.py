"""What was said before: on this device, and on the server. A part of `Client`.

    page = await client.local("u34", 50)             what is on the disk, at once, also off line
    page = await client.past("u34", 50)              the same, with what the server has and this device lacks
    async for hit in client.find("tea"): …           search on the disk, newest first
    reply = await client.history("u34", 50)          a page of the server's; it is kept too

Without a local history `local` and `find` find nothing, and `past` is a page of the server's.
"""

from __future__ import annotations

import random
import sqlite3
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar

import trio

from chat import protocol
from chat.client import events as ev
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.local.history import LocalHistory, Page
from chat.client.local.index import At, Floor
from chat.client.local.journal import RETRY_FIRST, RETRY_MAX, Journal, Shelf
from chat.client.local.search import Hit, step
from chat.client.requests import LoggedOut, Requests
from chat.client.store import Store
from chat.errors import ChatError
from chat.protocol import Message
from chat.records import conversation_of

ADOPT: Final = 500  # messages of the store moved at once
FILL: Final = 200  # messages asked for at once
FILLS: Final = 20  # requests for one page, at most
WRITE_WAIT: Final = 5.0  # seconds that the end of a connection waits for the disk, at most
NOTHING: Final = Page([], None, whole=False)

T = TypeVar("T")


class Past(Requests):
    def __init__(self, store: Store, history: LocalHistory | None) -> None:
        super().__init__(store)
        self.shelf = None if history is None else Shelf(history)
        self._epoch = 0  # grows when something was missed: what was asked before says nothing of it
        self._adopted = history is None
        self._adopting = trio.Lock()
        self._journal = self._new_journal()
        if history is not None:
            store.keep_sealed(history.box("store"))

    @abstractmethod
    def _emit(self, event: ev.Event) -> None: ...

    @abstractmethod
    def _committed(self, batches: Sequence[Any]) -> None:
        """These are on the disk."""

    # -------------------------------------------------------------- reading

    async def history(self, conversation: str, limit: int = 50, before: str | None = None) -> protocol.HistoryReply:
        """A page of the server's, newest first. Raises what `ask` raises."""
        request = protocol.History(limit=limit, before=before, **ends(conversation))
        answer = await self.ask(request, protocol.HistoryReply)
        await self._keep(conversation, answer.messages)
        return answer

    async def local(self, conversation: str, limit: int = 50, before: tuple[int, int] | None = None) -> Page:
        """What is on the disk, newest first; `before` is the `next` of a page. Cancelling is safe."""
        if self.shelf is None:
            return NOTHING
        await self.adopt()
        return await self._call(self.shelf.history.page, conversation, limit, before) or NOTHING

    async def local_conversations(self) -> list[str]:
        """Those that are on the disk, the one with the newest first."""
        if self.shelf is None:
            return []
        await self.adopt()
        return await self._call(self.shelf.history.conversations) or []

    async def past(self, conversation: str, limit: int = 50, before: tuple[int, int] | None = None) -> Page:
        """The page as the server has it. Where it lies on the disk whole, the server is not asked; where the server is not
        reached, it is what is on the disk (`whole` tells). Cancelling is safe."""
        if self.shelf is None:
            messages = (await self.history(conversation, limit)).messages if before is None else []
            return Page(messages, None, whole=True)
        page = await self.local(conversation, limit, before)
        for _ in range(FILLS):
            if page.whole or self._connection is None or not await self._fill(conversation):
                break
            page = await self.local(conversation, limit, before)
        return page

    async def find(self, text: str, conversation: str | None = None) -> AsyncIterator[Hit]:
        """Messages on the disk with `text` in them, in one conversation or all, newest first, as they are found."""
        if self.shelf is None or not text:
            return
        await self.adopt()
        history = self.shelf.history
        if conversation is None:
            await self._call(history.conversations)  # what an earlier run left is looked at
        before: At | None = None
        while True:
            found = await self._call(step, history, text.casefold(), conversation, before)
            hits, before = found or ([], None)
            for hit in hits:
                yield hit
            if before is None:
                return

    async def change_password(self, old: str, new: str) -> None:
        """On the server, which ends the user's other log-ins, then of the local history. Raises what `ask` raises. If the
        second is not come to, the history still opens with `old`."""
        await self.do(protocol.ChangePassword(old=old, new=new))
        if self.shelf is not None:
            await self.shelf.call(self.shelf.history.change_password, old, new)

    # -------------------------------------------------------------- keeping

    async def adopt(self) -> bool:
        """Before anything else: what the store has from runs without a local history goes into it, and is sealed in the
        store. Where the history is older than the reader's state, the server is asked again for what it lacks. False: the
        disk refuses, which is told; the same again."""
        if self.shelf is None:
            return True
        history = self.shelf.history
        async with self._adopting:
            if not self._adopted:
                current = history.covers(self.store.get("history"))
                if not current and await self._call(history.drop_floors) is None:
                    return False
                while kept := self.store.clear(ADOPT):
                    items = [(conversation_of(t, m.sender, m.to, m.group), m) for _, t, m in kept]
                    if await self._call(history.append, items) is None:
                        return False
                    self.store.seal(kept)
                self._adopted = True
        return True

    async def _ready(self) -> None:
        """Adopted, however long the disk refuses: what came then would not be kept either."""
        pause = RETRY_FIRST
        while not await self.adopt():
            await trio.sleep(pause * (0.75 + random.random() / 2))
            pause = min(pause * 2, RETRY_MAX)

    async def _fill(self, conversation: str) -> bool:
        """The next page below the floor. False: it could not be had."""
        assert self.shelf is not None
        history, epoch = self.shelf.history, self._epoch
        floor = await self._call(history.floor, conversation)
        try:
            answer = await self.history(conversation, FILL, floor.cursor if floor else None)
        except ChatError as error:
            if floor is not None and error.code == "bad_request":  # a cursor that is not taken any more
                await self._call(history.drop_floors)
            return False
        except (RequestTimeout, ConnectionLost, LoggedOut):
            return False
        if epoch != self._epoch or not await self._kept(conversation, answer.messages):
            return False
        last = answer.messages[-1] if answer.messages else None
        at = (last.sent_at, last.pos if isinstance(last.pos, int) else 0) if last else floor[:2] if floor else (0, 0)
        await self._call(history.put_floor, conversation, Floor(*at, answer.next))
        return True

    async def _keep(self, conversation: str, messages: Sequence[Message]) -> None:
        if self.shelf is not None and messages:
            await self.adopt()
            await self._call(self.shelf.history.append, [(conversation, message) for message in messages])

    async def _kept(self, conversation: str, messages: Sequence[Message]) -> bool:
        """Is the page on the disk? A full disk is told, and keeps no one from reading it on the server."""
        assert self.shelf is not None
        return not messages or bool(await self._call(self.shelf.history.has, conversation, messages[-1]))

    async def _call(self, function: Callable[..., T], *args: Any) -> T | None:
        """None where the disk refuses, which is told."""
        assert self.shelf is not None
        try:
            return await self.shelf.call(function, *args)
        except (OSError, sqlite3.Error) as error:
            self._emit(ev.LocalHistorySaid(f"{self.shelf.history.folder}: {error}", loss=False))
            return None
        finally:
            self.tell()

    def _new_journal(self) -> Journal | None:
        return None if self.shelf is None else Journal(self.shelf, self._committed, self._disk_trouble)

    def _disk_trouble(self, text: str) -> None:
        self._emit(ev.LocalHistorySaid(text, loss=False))

    def _mark(self) -> str | None:
        return None if self.shelf is None else self.shelf.history.mark

    async def _written(self) -> None:
        """What was read is on the disk, or the disk is given up."""
        if self._journal is not None:
            with trio.move_on_after(WRITE_WAIT):
                await self._journal.wait_idle()

    def tell(self) -> None:
        """What the history has to say."""
        if self.shelf is not None:
            said, self.shelf.history.said = self.shelf.history.said, []
            for text, loss in said:
                self._emit(ev.LocalHistorySaid(text, loss))


def ends(conversation: str) -> dict[str, int]:
    return {"to" if conversation[0] == "u" else "group": int(conversation[1:])}
