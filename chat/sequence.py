"""The sequence: within a stream every message is shown once and in order. Pure; `now` is seconds on any steady clock.

What the chain (`ordering.TimelineReader`) takes comes here. Per (sender, conversation, stream): a seq below the expected
one is a duplicate in the log and dropped, the expected one is shown, then what waited for it; one above waits. A gap that
stays open for a second is asked for by `fetch`. Only a void is skipped; rounds without an answer end in a reconnect.

What waits has not been shown, so it **holds back** the acknowledged position: a cursor never passes an unseen message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from chat.protocol import Fetched, Message

#: (sender, conversation as the timeline's owner names it: "u34" or "g7", stream)
StreamKey = tuple[int, str, int]

GAP_WAIT: Final = 1.0  # seconds that a gap may stay open before it is asked for
FETCH_WAIT: Final = 5.0  # seconds after which a round counts as unanswered
PENDING_MAX: Final = 5.0  # seconds between two rounds, at most, while the answer is `pending`
ROUNDS: Final = 3  # unanswered, then Reconnect
FETCH_SEQS: Final = 200  # in one fetch


class Show(NamedTuple):
    """Show (and store) the message. Each message once, in order."""

    message: Message


class AskFetch(NamedTuple):
    """Send `fetch`; its answer goes to `TimelineReader.fetched`, its failure to `fetch_failed`."""

    timeline: str
    sender: int
    to: int | None
    group: int | None
    stream: int
    seqs: tuple[int, ...]
    conversation: str


class Reconnect(NamedTuple):
    """Close the connection and come back: the server did not answer what it has to."""

    reason: str


#: Where Show, AskFetch and Reconnect are appended; the reader's own effects lie in it too.
Effects = list[Any]


class _Gap:
    __slots__ = ("asked", "at", "delay", "group", "held", "rounds", "to", "void", "waiting")

    def __init__(self, opener: Message, now: float) -> None:
        self.to, self.group = opener.to, opener.group
        self.waiting: dict[int, Message] = {}
        self.held: dict[int, int] = {}  # seq → position, of those that came by the chain
        self.void: set[int] = set()
        self.asked: frozenset[int] = frozenset()  # what the fetch under way asks for
        self.at = now + GAP_WAIT  # of the next round, or when the one under way counts as unanswered
        self.delay = GAP_WAIT
        self.rounds = 0


class Sequences:
    """The streams of one timeline. `limit`: how many messages may wait, over all streams."""

    __slots__ = ("_gaps", "_limit", "_timeline", "_waiting", "changed", "expected")

    def __init__(self, timeline: str, expected: Mapping[StreamKey, int], limit: int) -> None:
        self.expected = dict(expected)
        self.changed: set[StreamKey] = set()  # whose expected seq moved since the owner last cleared this
        self._timeline = timeline
        self._limit = limit
        self._gaps: dict[StreamKey, _Gap] = {}
        self._waiting = 0

    @property
    def full(self) -> bool:
        """As many wait as may: take nothing more that would have to."""
        return self._waiting >= self._limit

    @property
    def held(self) -> int | None:
        """The lowest position that came by the chain and waits; None: none waits."""
        if not self._gaps:
            return None
        return min((min(g.held.values()) for g in self._gaps.values() if g.held), default=None)

    @property
    def next_tick(self) -> float | None:
        return min((g.at for g in self._gaps.values()), default=None)

    def offer(self, key: StreamKey, message: Message, begin: int, now: float, effects: Effects) -> bool:
        """A message with seq and pos that the chain takes. `begin`: the expected seq of a stream that is not known. False:
        it would have to wait and too many wait already; nothing has changed, and it must not be taken."""
        seq: int = message.seq  # type: ignore[assignment]
        pos: int = message.pos  # type: ignore[assignment]
        expected = self.expected.get(key, begin)
        if seq == expected:
            effects.append(Show(message))
            self._move(key, seq + 1)
            if self._gaps and key in self._gaps:
                self._drain(key, effects)
            return True
        if seq < expected:
            return True
        gap = self._gaps.get(key)
        if gap is None:
            if self.full:
                return False
            gap = self._gaps[key] = _Gap(message, now)
        elif seq in gap.waiting:  # by a fetch, or a duplicate in the log: what opened the gap holds back further
            return True
        elif self.full:
            return False
        self._move(key, expected)  # a stream that begins with a hole is known from now on
        gap.waiting[seq] = message
        gap.held[seq] = pos
        self._waiting += 1
        return True

    def fetched(self, key: StreamKey, answer: Fetched, now: float, effects: Effects) -> None:
        """The answer to an AskFetch. One that fits no open gap is passed over."""
        gap = self._gaps.get(key)
        if gap is None or not gap.asked:
            return
        expected = self.expected[key]  # what lies below came by the chain since it was asked for
        asked, gap.asked = {seq for seq in gap.asked if seq >= expected}, frozenset()
        brought = False
        for message in answer.messages:
            seq = message.seq
            if isinstance(seq, int) and message.stream == key[2] and message.sender == key[0] and seq in asked:
                brought = True
                if seq not in gap.waiting:
                    gap.waiting[seq] = message
                    self._waiting += 1
        for seq in answer.void:
            if seq in asked and seq not in gap.waiting:
                brought = True
                gap.void.add(seq)
        self._drain(key, effects)
        if key not in self._gaps:
            return
        if brought:
            gap.rounds, gap.delay, gap.at = 0, GAP_WAIT, now
            self._ask(key, gap, now, effects)
        elif answer.pending:  # persist is behind: it will be known
            gap.rounds = 0
            gap.at = now + gap.delay
            gap.delay = min(gap.delay * 2, PENDING_MAX)
        else:
            self._unanswered(key, gap, now, effects)

    def failed(self, key: StreamKey, now: float, effects: Effects) -> None:
        """A fetch ended in an error or was not answered in time."""
        gap = self._gaps.get(key)
        if gap is not None and gap.asked:
            self._unanswered(key, gap, now, effects)

    def tick(self, now: float, effects: Effects) -> None:
        for key, gap in self._gaps.items():
            if gap.at <= now:
                if gap.asked:
                    self._unanswered(key, gap, now, effects)
                else:
                    self._ask(key, gap, now, effects)

    def forget_waiting(self) -> None:
        """The connection ended. What waited is read again, from before the lowest position that was held."""
        self._gaps.clear()
        self._waiting = 0

    def begin_at(self, heads: Mapping[StreamKey, int]) -> None:
        """The stream heads of a snapshot. None is taken back by one that is older than what was shown since; and a gap that
        is open stays so: what waits there is still to be shown."""
        for key, seq in heads.items():
            if seq > self.expected.get(key, 0) and key not in self._gaps:
                self._move(key, seq)

    def _move(self, key: StreamKey, seq: int) -> None:
        self.expected[key] = seq
        self.changed.add(key)

    def _drain(self, key: StreamKey, effects: Effects) -> None:
        """Show what waits and is next; the gap closes when nothing waits."""
        gap = self._gaps[key]
        seq = self.expected[key]
        while True:
            message = gap.waiting.pop(seq, None)
            if message is not None:
                effects.append(Show(message))
                gap.held.pop(seq, None)
                self._waiting -= 1
            elif seq in gap.void:
                gap.void.remove(seq)
            else:
                break
            seq += 1
        self._move(key, seq)
        if not gap.waiting:
            del self._gaps[key]

    def _ask(self, key: StreamKey, gap: _Gap, now: float, effects: Effects) -> None:
        seqs: list[int] = []
        for seq in range(self.expected[key], max(gap.waiting)):
            if seq not in gap.waiting and seq not in gap.void:
                seqs.append(seq)
                if len(seqs) == FETCH_SEQS:
                    break
        gap.asked = frozenset(seqs)
        gap.at = now + FETCH_WAIT
        sender, conversation, stream = key
        effects.append(AskFetch(self._timeline, sender, gap.to, gap.group, stream, tuple(seqs), conversation))

    def _unanswered(self, key: StreamKey, gap: _Gap, now: float, effects: Effects) -> None:
        gap.asked = frozenset()
        gap.rounds += 1
        if gap.rounds < ROUNDS:
            gap.at = now + gap.delay
            gap.delay = min(gap.delay * 2, PENDING_MAX)
            return
        gap.rounds, gap.at = 0, now + FETCH_WAIT
        sender, conversation, stream = key
        effects.append(Reconnect(f"{ROUNDS} fetches of {sender} {conversation} {stream} were not answered"))
