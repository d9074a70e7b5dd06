"""The list of conversations as the program sees it: unread counts, marks, the last message. Pure.

Filled by `conversations` at each log-in, kept up by what is shown. Bounded: the newest `KEPT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from chat import protocol
from chat.protocol import Message

KEPT: Final = 1_000


@dataclass
class Summary:
    """`mine`: how far I have read. `newest`: the latest `sent_at` seen, which sends repeat as `seen`."""

    conversation: str
    unread: int = 0
    last: Message | None = None
    mine: int = 0
    newest: int = 0


class Conversations:
    def __init__(self, me: int) -> None:
        self._me = me
        self._all: dict[str, Summary] = {}

    def __iter__(self) -> Iterator[Summary]:
        """Newest first."""
        return iter(sorted(self._all.values(), key=lambda s: -s.newest))

    def get(self, conversation: str) -> Summary:
        if conversation not in self._all:
            self._all[conversation] = Summary(conversation)
            if len(self._all) > KEPT:
                oldest = min((s for s in self._all.values() if s.conversation != conversation), key=lambda s: s.newest)
                del self._all[oldest.conversation]
        return self._all[conversation]

    def shown(self, conversation: str, message: Message) -> None:
        """A new message of kind text."""
        summary = self.get(conversation)
        if message.sender != self._me and message.sent_at > summary.mine:
            summary.unread += 1
        if message.sent_at >= summary.newest:
            summary.newest, summary.last = message.sent_at, message

    def read(self, conversation: str, sent_at: int) -> bool:
        """I have read up to there, here or on another device. True if that is new."""
        summary = self.get(conversation)
        if sent_at <= summary.mine:
            return False
        summary.mine = sent_at
        if sent_at >= summary.newest:
            summary.unread = 0
        return True

    def told(self, rows: Iterable[protocol.Conversation]) -> None:
        """A `conversations` answer. It may be older than what was shown meanwhile: then the unread count stays."""
        for row in rows:
            name = f"u{row.to}" if row.group is None else f"g{row.group}"
            summary = self.get(name)
            mine = row.mine if isinstance(row.mine, int) else row.read if row.group and isinstance(row.read, int) else 0
            summary.mine = max(summary.mine, mine)
            last = row.last
            if last is not UNSET and last.sent_at >= summary.newest:
                summary.newest, summary.last, summary.unread = last.sent_at, last, row.unread
                if summary.mine >= summary.newest:
                    summary.unread = 0
