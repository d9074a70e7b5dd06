"""The edge's window of a connection; the client's chain and sequence of a timeline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.data import NOW, TEXT
from benchmarks.measure import Case, Job
from chat.ordering import TAKEN, ReaderState, Show, TimelineReader, Window
from chat.protocol import Message

_MESSAGES: Final = 5_000
_SENDERS: Final = 50


@asynccontextmanager
async def _window() -> AsyncIterator[Job]:
    async def run() -> None:
        window = Window()
        for number in range(_MESSAGES):
            conversation, seq = f"u{number % _SENDERS}", number // _SENDERS
            if window.expected(conversation, 5) not in (None, seq) or window.offer(conversation, 5, seq) is not TAKEN:
                raise AssertionError("not the next one")
            window.acknowledge(conversation, 5, seq)

    yield Job(_MESSAGES, run)


@asynccontextmanager
async def _reader() -> AsyncIterator[Job]:
    streams = {(sender, "u1", 5): 0 for sender in range(2, _SENDERS + 2)}
    messages = [
        Message(
            sender=number % _SENDERS + 2, to=1, stream=5, seq=number // _SENDERS, sent_at=NOW, kind="text", text=TEXT,
            prev=number, pos=number + 1,
        )
        for number in range(_MESSAGES)
    ]  # fmt: skip

    async def run() -> None:
        reader = TimelineReader("u1", 1, ReaderState(known=0, expected=dict(streams), fresh=False))
        reader.connected(0.0, 0)
        shown = 0
        for message in messages:
            shown += sum(isinstance(effect, Show) for effect in reader.delivery(message, 1.0))
        if shown != _MESSAGES:
            raise AssertionError(f"{shown} of {_MESSAGES} were shown")

    yield Job(_MESSAGES, run)


CASES: Final = (
    Case("ordering-window", "offered and acknowledged on a connection of an edge", _window),
    Case("ordering-reader", "a delivery through the client's chain and sequence", _reader),
)
