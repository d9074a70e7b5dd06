"""How far this client's own messages have come: sending, accepted, delivered, read, failed. Pure.

`delivered` names a stream and a seq, `read` a time: the time of an own message is known when its copy has come back in the
user's own timeline. Both may be ahead of it. Bounded: the newest `KEPT` messages are followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from chat.client.outbox import Changes, Entry

State = Literal["sending", "accepted", "delivered", "read", "failed"]
KEPT: Final = 2_000
NEWS_KEPT: Final = 10_000
_RANK: Final = {"sending": 0, "accepted": 1, "delivered": 2, "read": 3, "failed": 4}


@dataclass
class Own:
    """An own message. `sent_at` is 0 until it is known."""

    entry: Entry
    state: State = "sending"
    sent_at: int = 0
    why: str = ""


class Marks:
    def __init__(self) -> None:
        self._by_id: dict[int, Own] = {}
        self._by_seq: dict[tuple[str, int, int], int] = {}
        self._delivered: dict[tuple[str, int], int] = {}  # (conversation, stream) → seq
        self._read: dict[str, int] = {}  # conversation → sent_at

    def __iter__(self) -> Iterator[Own]:
        return iter(self._by_id.values())

    def find(self, conversation: str, stream: int, seq: int) -> Own | None:
        number = self._by_seq.get((conversation, stream, seq))
        return None if number is None else self._by_id.get(number)

    def changed(self, changes: Changes) -> list[Own]:
        """What changed in the outbox; returns what has another state now."""
        moved: list[Own] = []
        for entry in changes.put:
            own = self._by_id.get(entry.id)
            if own is None:
                own = self._by_id[entry.id] = Own(entry)
                moved.append(own)
                self._prune()
            else:
                self._by_seq.pop((own.entry.conversation, own.entry.stream, own.entry.seq), None)
                own.entry = entry
            self._by_seq[entry.conversation, entry.stream, entry.seq] = entry.id
        for entry in changes.accepted:
            moved += self._move(self._by_id.get(entry.id), self._reached(entry.id))
        for failed in changes.failed:
            own = self._by_id.get(failed.entry.id)
            if own:
                own.why = failed.code if failed.certain else f"{failed.code}, it may have been stored"
            moved += self._move(own, "failed")
        return moved

    def shown(self, own: Own, sent_at: int) -> list[Own]:
        """Its copy has come back. (It is accepted when `accepted` says so.)"""
        own.sent_at = sent_at
        return [] if own.state == "sending" else self._move(own, self._reached(own.entry.id))

    def delivered(self, conversation: str, stream: int, seq: int) -> list[Own]:
        """The other end's device has what this stream has up to `seq`."""
        key = (conversation, stream)
        _bound(self._delivered)
        self._delivered[key] = max(self._delivered.get(key, -1), seq)
        return self._sweep(conversation)

    def read(self, conversation: str, sent_at: int) -> list[Own]:
        """The other one has seen the conversation up to there."""
        _bound(self._read)
        self._read[conversation] = max(self._read.get(conversation, 0), sent_at)
        return self._sweep(conversation)

    def _sweep(self, conversation: str) -> list[Own]:
        return [
            moved
            for own in self._by_id.values()
            if own.entry.conversation == conversation and own.state in ("accepted", "delivered")
            for moved in self._move(own, self._reached(own.entry.id))
        ]

    def _reached(self, number: int) -> State:
        own = self._by_id.get(number)
        if own is None:
            return "accepted"
        entry = own.entry
        if 0 < own.sent_at <= self._read.get(entry.conversation, 0):
            return "read"
        return "delivered" if entry.seq <= self._delivered.get((entry.conversation, entry.stream), -1) else "accepted"

    def _move(self, own: Own | None, state: State) -> list[Own]:
        if own is None or _RANK[state] <= _RANK[own.state]:
            return []
        own.state = state
        return [own]

    def _prune(self) -> None:
        if len(self._by_id) > KEPT:
            number = next(iter(self._by_id))
            entry = self._by_id.pop(number).entry
            self._by_seq.pop((entry.conversation, entry.stream, entry.seq), None)


def _bound(news: dict[Any, int]) -> None:
    """Forget the oldest: of a message that is not followed any more, most likely."""
    while len(news) >= NEWS_KEPT:
        del news[next(iter(news))]
