"""A device with a local history that ends itself with SIGKILL in the middle of its work.

    python -m tests.harness.keeper ADDRESS NAME FOLDER POINT TIMES

It dies at the TIMES-th time that it comes to POINT: `torn` (half of what goes into a file is written), `written` (it is,
the index is not), `indexed` (the history has it, the reader's state does not), `recorded` (the state has it, nothing is
acknowledged). POINT `never`: it ends when TIMES messages of text are in its history, and prints them as JSON, with what was
said of the history.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from chat.client import events as ev
from chat.client.local.files import Appender
from chat.client.local.history import LocalHistory
from chat.client.local.keys import Cost
from chat.client.sdk import Client
from chat.client.store import Store

PASSWORD = "correct horse"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(point: str, times: int) -> None:
    left = times

    def dying(before: Callable[..., Any] | None, function: Callable[..., Any], *args: Any) -> Any:
        nonlocal left
        work = any(args[1:2])  # not for what has no messages
        left -= work
        if before is not None and not left:
            before(*args)
            die()
        done = function(*args)
        if not left and work:
            die()
        return done

    def half(self: Appender, name: Any, offset: int, data: bytes) -> None:
        write(self, name, offset, data[: len(data) // 2])

    write = Appender.write
    if point == "torn":
        Appender.write = lambda *args: dying(half, write, *args)  # type: ignore[method-assign]
    elif point == "written":
        Appender.sync = partial_method(Appender.sync, dying)  # type: ignore[method-assign]
    elif point == "indexed":
        LocalHistory.append = partial_method(LocalHistory.append, dying)  # type: ignore[method-assign]
    elif point == "recorded":
        Store.record = partial_method(Store.record, dying)  # type: ignore[method-assign]


def partial_method(function: Callable[..., Any], dying: Callable[..., Any]) -> Any:
    return lambda *args: dying(None, function, *args)


async def texts(client: Client) -> list[str]:
    """All of the history, each conversation in the order of display."""
    found: list[str] = []
    for conversation in await client.local_conversations():
        newest_first: list[str] = []
        before = None
        while True:
            page = await client.local(conversation, 1_000, before)
            newest_first += [m.text for m in page.messages if isinstance(m.text, str)]
            before = page.next
            if before is None:
                break
        found += reversed(newest_first)
    return found


async def keep(address: str, name: str, folder: Path, point: str, times: int) -> None:
    history = LocalHistory.open(folder / "history", PASSWORD, limit=20_000, cost=Cost(1, 64, 1))
    at(point, times)
    events: list[ev.Event] = []
    store = Store(folder / "store.sqlite")
    client = Client([address], name, store, password=PASSWORD, register=True, listener=events.append, history=history)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_until(lambda: client.caught_up)
        print("ready", flush=True)
        if point != "never":
            await trio.sleep_forever()
        while len(found := await texts(client)) < times:
            with trio.move_on_after(0.05):
                await client.wait_until(lambda: False)
        said = [event.text for event in events if isinstance(event, ev.LocalHistorySaid)]
        print(json.dumps({"texts": found, "said": said}), flush=True)
        await client.leave()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    where, who, folder, point, times = sys.argv[1:]
    trio.run(partial(keep, where, who, Path(folder), point, int(times)))
