"""A device that is killed at any moment, on any byte: its history has each message once, and none is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from chat.client.local.history import INDEX, LocalHistory
from chat.client.local.keys import Cost
from chat.client.store import Store
from chat.ordering import ReaderState
from chat.protocol import Message

CHEAP = Cost(1, 64, 1)
DAY = 86_400_000
ME = "u1"


def message(pos: int) -> Message:
    """Of three conversations and two days, with long and short texts."""
    sender = 2 + pos % 3
    return Message(
        sender=sender, to=1, stream=7, seq=pos, kind="text", sent_at=1_700_000_000_000 + DAY * (pos % 2) + pos, pos=pos,
        text=f"{pos} " + "x" * (pos * 37 % 200),
    )  # fmt: skip


@contextmanager
def device(folder: Path) -> Iterator[tuple[LocalHistory, Store]]:
    history = LocalHistory.open(folder / "history", "password", limit=1_500, cost=CHEAP)
    store = Store(folder / "store.sqlite")
    store.keep_sealed(history.box("store"))
    try:
        yield history, store
    finally:
        history.close()
        store.close()


def known(store: Store) -> int:
    states, _ = store.readers()
    return states[ME].known if ME in states else 0


def items(batch: list[int]) -> list[tuple[str, Message]]:
    return [(f"u{message(pos).sender}", message(pos)) for pos in batch]


def sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*.chat")}


def tear(draw: st.DataObject, folder: Path, before: dict[Path, int], index: bytes | None) -> None:
    """As a crash leaves it: of what was written since `before` any part, and the index as it was."""
    for path, size in sizes(folder).items():
        end = draw.draw(st.integers(before.get(path, 0), size))
        with path.open("r+b") as file:
            file.truncate(end)
            if end < size and draw.draw(st.booleans()):
                file.truncate(size)  # the length was written, the bytes were not: zeros
    if index is not None:
        (folder / INDEX).write_bytes(index)
    else:
        (folder / INDEX).unlink()


def shown(history: LocalHistory) -> list[int]:
    found: list[int] = []
    for conversation in history.conversations():
        page = history.page(conversation, 1_000)
        assert page.next is None
        order = [(m.sent_at, m.pos) for m in page.messages]
        assert order == sorted(order, reverse=True)
        assert all(m == message(m.pos) for m in page.messages)
        found += [m.pos for m in page.messages]
    return sorted(found)


def record(history: LocalHistory, store: Store, batch: list[int]) -> list[int]:
    """As the client does; returns what is shown."""
    history.append(items(batch))
    states = {ME: ReaderState(batch[-1], {})} if batch else {}
    kept = store.record([(ME, message(pos)) for pos in batch], states, {}, history.mark)
    return [k.message.pos for k in kept]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_killed_at_any_moment(data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp())
    emitted: list[int] = []  # what the program was shown, in any run
    end = 0
    try:
        for _ in range(data.draw(st.integers(1, 5), label="runs")):
            end += data.draw(st.integers(0, 12), label="sent meanwhile")
            with device(folder) as (history, store):
                assert known(store) <= max(shown(history), default=0), "the reader is never ahead of the history"
                assert all("renamed" in said.text for said in history.said if said.loss)
                while known(store) < end:
                    first = known(store) + 1
                    batch = range(first, min(first + data.draw(st.integers(1, 5)), end + 1))
                    emitted += record(history, store, list(batch))
            more = list(range(end + 1, end + 1 + data.draw(st.integers(0, 4), label="under way at the crash")))
            end += len(more)
            before, index = sizes(folder / "history"), (folder / "history" / INDEX).read_bytes()
            with device(folder) as (history, _):
                history.append(items(more))  # killed before the reader's state
            match data.draw(st.sampled_from(["written", "torn", "torn, and the index lost"]), label="crash"):
                case "torn":
                    tear(data, folder / "history", before, index)
                case "torn, and the index lost":
                    tear(data, folder / "history", before, None)
        with device(folder) as (history, store):
            emitted += record(history, store, list(range(known(store) + 1, end + 1)))
            assert shown(history) == list(range(1, end + 1))
            assert emitted == list(range(1, end + 1))
            assert history.covers(store.get("history"))
    finally:
        shutil.rmtree(folder)
