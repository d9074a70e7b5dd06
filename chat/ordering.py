"""What makes every accepted message appear once and in order. Pure; `now` is seconds on any steady clock.

`Window` (from `window.py`) is the edge's half: which seq of a stream is taken next. `TimelineReader` is the client's: the
**chain** of one timeline here, the **sequence** of its streams in `sequence.py`.

    delivery ──> pos <= known: dropped
                 prev <= known < pos: taken, known = pos ──> sequence ──> Show
                 else: seen = max(seen, pos), kept in a bounded buffer, AskSync
    synced   ──> its messages are taken, known = max(known, upto - 1), then what chains from the buffer; AskSync again
                 while the answer was incomplete, while seen > known, or if a resync came since it was asked

A reader does no I/O: every method returns the effects that its owner has to carry out, in this order. What it relies on:
one AskSync's answer (or failure) is handed back before another comes, and never one of an earlier connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from chat.protocol import Fetched, Head, Message, Synced
from chat.sequence import AskFetch, Reconnect, Sequences, Show, StreamKey
from chat.window import TAKEN, Again, Full, Gap, Taken, Window

__all__ = [
    "TAKEN", "Acknowledge", "Again", "AskFetch", "AskSync", "Effect", "Full", "Gap", "ReaderState", "Reconnect", "Show",
    "StartOver", "StreamKey", "Taken", "TimelineReader", "Window",
]  # fmt: skip

RETRY_FIRST: Final = 0.05  # seconds; doubled each time
RETRY_INCOMPLETE: Final = 1.0  # at most, after an incomplete answer that brought nothing
RETRY_FAILED: Final = 5.0  # at most, after an error or a time-out
BACKSTOP: Final = 300.0  # seconds between two syncs that nothing asked for
BUFFER: Final = 256  # deliveries that do not chain yet
WAITING: Final = 1_000  # messages that wait for a seq


class AskSync(NamedTuple):
    """Send `sync`; its answer goes to `synced`, its error or time-out to `sync_failed`."""

    timeline: str
    after: int
    fresh: bool


class Acknowledge(NamedTuple):
    """Send `ack` (coalesced, if the owner likes) when the effects before it are done: shown, and stored where the device
    keeps its history."""

    timeline: str
    pos: int


class StartOver(NamedTuple):
    """This device was away for too long: what lies below `upto` and was not shown is to be read as history."""

    timeline: str
    upto: int


Effect = Show | AskSync | AskFetch | Reconnect | Acknowledge | StartOver


class ReaderState(NamedTuple):
    """What must be on the device's disk, together with the messages shown. `expected`: the next seq of every stream. A
    stream that was not written for longer than the server keeps streams may be left out by who stores it."""

    known: int
    expected: Mapping[StreamKey, int]
    fresh: bool = False


class TimelineReader:
    """The chain and the sequence of one timeline on one device.

    `timeline`: "u42" or "g7". `me`: the user. `state`: as it was on disk; None for a device without it (new, state lost,
    new in the group), which is **fresh**: it takes nothing live until the stream heads have come. `jitter` from 0 to 1,
    drawn by the owner, spreads retries and backstops over ±25 %. `backstop` in seconds.
    """

    __slots__ = (
        "_acknowledged", "_backstop_at", "_backstop_s", "_buffer", "_buffer_size", "_busy", "_connected", "_delay",
        "_discard", "_not_before", "_seen", "_sequences", "_spread", "_want", "fresh", "known", "me", "timeline",
    )  # fmt: skip

    def __init__(
        self, timeline: str, me: int, state: ReaderState | None, *, jitter: float = 0.5, backstop: float = BACKSTOP,
        buffer: int = BUFFER, waiting: int = WAITING,
    ) -> None:  # fmt: skip
        self.timeline = timeline
        self.me = me
        self.fresh = state is None or state.fresh
        self.known = 0 if state is None else state.known
        self._sequences = Sequences(timeline, {} if state is None else state.expected, waiting)
        self._spread = 0.75 + jitter / 2
        self._backstop_s = backstop
        self._buffer: dict[int, Message] = {}
        self._buffer_size = buffer
        self._acknowledged = 0
        self._connected = self._busy = self._want = self._discard = False
        self._seen = 0
        self._delay, self._not_before, self._backstop_at = RETRY_FIRST, 0.0, 0.0

    # ------------------------------------------------------------------ connection

    def connected(self, now: float, cursor: int | None) -> list[Effect]:
        """After each log-in. `cursor` is the timeline's in `logged_in`; None where it has none (just joined)."""
        self.disconnected()
        if self.fresh and not self.known:
            self.known = cursor or 0
        self._connected = self._want = True
        self._acknowledged = cursor or 0
        effects: list[Effect] = []
        self._finish(now, effects)
        return effects

    def disconnected(self) -> None:
        """Nothing is under way any more. What waited for a seq is read again."""
        self.known = self._shown_up_to()
        self._sequences.forget_waiting()
        self._buffer.clear()
        self._connected = self._busy = self._want = self._discard = False
        self._seen = 0
        self._delay, self._not_before = RETRY_FIRST, 0.0

    # ------------------------------------------------------------------ what comes

    def delivery(self, message: Message, now: float) -> list[Effect]:
        """A live `message` frame of this timeline. Raises ValueError where it has no pos."""
        pos, prev = message.pos, message.prev
        if not isinstance(pos, int):
            raise ValueError("a delivery without pos")
        effects: list[Effect] = []
        if pos <= self.known or not self._connected:
            return effects
        chains = isinstance(prev, int) and prev <= self.known and not self.fresh
        if chains and self._take(message, pos, now, effects):
            if self._buffer:
                self._unbuffer(now, effects)
        else:
            self._seen = max(self._seen, pos)
            if pos in self._buffer:
                if isinstance(prev, int):  # a repeated delivery may know prev where the first did not
                    self._buffer[pos] = message
            elif len(self._buffer) < self._buffer_size:
                self._buffer[pos] = message
        self._finish(now, effects)
        return effects

    def synced(self, answer: Synced, now: float) -> list[Effect]:
        """The answer to the sync under way."""
        effects: list[Effect] = []
        if not self._busy:
            return effects
        self._busy = False
        before = self.known
        if self._discard:  # asked for before `begin_again`, from where nothing is known any more
            self._discard = False
            self._finish(now, effects)
            return effects
        if answer.too_old and isinstance(answer.heads, list) and answer.upto > before:
            self._start_over(answer.upto, answer.heads, effects)
        else:
            self._take_answer(answer, now, effects)
        self._unbuffer(now, effects)
        incomplete = not answer.complete or self.fresh
        self._want |= incomplete
        if incomplete and not (answer.messages and self.known > before):
            self._pause(now, RETRY_INCOMPLETE)
        else:
            self._delay, self._not_before = RETRY_FIRST, 0.0
        self._finish(now, effects)
        return effects

    def sync_failed(self, now: float, retry_after: float = 0.0) -> list[Effect]:
        """The sync under way ended in an error or was not answered in time: asked again, not before `retry_after`
        seconds have passed."""
        effects: list[Effect] = []
        if self._busy:
            self._busy, self._want, self._discard = False, True, False
            self._pause(now, RETRY_FAILED, retry_after)
            self._finish(now, effects)
        return effects

    def fetched(self, sender: int, conversation: str, stream: int, answer: Fetched, now: float) -> list[Effect]:
        """The answer to an AskFetch with these."""
        effects: list[Effect] = []
        self._sequences.fetched((sender, conversation, stream), answer, now, effects)
        self._finish(now, effects)
        return effects

    def fetch_failed(self, sender: int, conversation: str, stream: int, now: float) -> list[Effect]:
        """An AskFetch ended in an error. (One that is not answered at all is noticed by `tick`.)"""
        effects: list[Effect] = []
        self._sequences.failed((sender, conversation, stream), now, effects)
        return effects

    def resync(self, now: float) -> list[Effect]:
        """The edge's hint that a delivery may have been missed."""
        effects: list[Effect] = []
        self._want = self._connected
        self._finish(now, effects)
        return effects

    def begin_again(self, now: float) -> list[Effect]:
        """The user is a member again: the streams went on without him, so the device is fresh, from what it knows. Its
        expected seqs stay: some of what lies above a position that was held back has been shown."""
        self.known = self._shown_up_to()
        self._sequences.forget_waiting()
        self._buffer.clear()
        self.fresh, self._discard = True, self._busy
        return self.resync(now)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> list[Effect]:
        """What has come due. Call it at `next_tick`; earlier or later does no harm."""
        effects: list[Effect] = []
        if not self._connected:
            return effects
        self._sequences.tick(now, effects)
        if now >= self._backstop_at:
            self._want = True
        self._finish(now, effects)
        return effects

    @property
    def next_tick(self) -> float | None:
        """When `tick` has something to do; None: not before something comes."""
        if not self._connected:
            return None
        times = [] if (at := self._sequences.next_tick) is None else [at]
        if not self._busy and not self._sequences.full:
            wants = self._want or self._seen > self.known
            times.append(self._not_before if wants else self._backstop_at)
        return min(times, default=None)

    # ------------------------------------------------------------------ what must be kept

    def state(self) -> ReaderState:
        """All that must be on disk."""
        return ReaderState(self._shown_up_to(), dict(self._sequences.expected), self.fresh)

    def changes(self) -> ReaderState:
        """The same, but only the expected seqs that moved since the last call."""
        changed, self._sequences.changed = self._sequences.changed, set()
        expected = self._sequences.expected
        return ReaderState(self._shown_up_to(), {k: expected[k] for k in changed}, self.fresh)

    # ------------------------------------------------------------------ the rules

    def _take(self, message: Message, pos: int, now: float, effects: list[Effect]) -> bool:
        """The chain takes it: known = pos. False, and nothing is taken, where too much waits for a seq already."""
        stream, seq = message.stream, message.seq
        if message.kind != "text" or not isinstance(stream, int) or not isinstance(seq, int):
            effects.append(Show(message))
        else:
            key = (message.sender, self._conversation(message), stream)
            begin = seq if self.fresh else 0
            if not self._sequences.offer(key, message, begin, now, effects):
                return False
        self.known = pos
        return True

    def _take_answer(self, answer: Synced, now: float, effects: list[Effect]) -> None:
        for message in answer.messages:
            pos = message.pos
            if not isinstance(pos, int):
                raise ValueError("a synced message without pos")
            if pos > self.known and not self._take(message, pos, now, effects):
                self._want = True  # from here on again, when less waits
                return
        if answer.upto > self.known:
            self.known = answer.upto - 1
            if self.fresh and isinstance(answer.heads, list):
                self._sequences.begin_at(self._heads(answer.heads))
                self.fresh = False

    def _start_over(self, upto: int, heads: list[Head], effects: list[Effect]) -> None:
        self._sequences.forget_waiting()
        self._sequences.begin_at(self._heads(heads))
        self.known = upto - 1
        self.fresh = False
        effects.append(StartOver(self.timeline, upto))

    def _unbuffer(self, now: float, effects: list[Effect]) -> None:
        """What chains from the buffer, and drop what is known."""
        if self.fresh or not self._buffer:
            return
        for pos in sorted(self._buffer):
            message = self._buffer[pos]
            if pos > self.known:
                chains = isinstance(message.prev, int) and message.prev <= self.known
                if not chains:
                    break
                if not self._take(message, pos, now, effects):
                    self._want = True
                    break
            del self._buffer[pos]

    def _finish(self, now: float, effects: list[Effect]) -> None:
        """Acknowledge what was taken, and ask for a sync where one is wanted and may go."""
        shown = self._shown_up_to()
        if shown > self._acknowledged:
            self._acknowledged = shown
            effects.append(Acknowledge(self.timeline, shown))
        wanted = self._want or self._seen > self.known
        if wanted and self._connected and not self._busy and now >= self._not_before and not self._sequences.full:
            self._busy, self._want = True, False
            self._seen = self.known  # the end that is asked for lies above all that was seen
            self._backstop_at = now + self._backstop_s * self._spread
            effects.append(AskSync(self.timeline, self.known, self.fresh))

    def _shown_up_to(self) -> int:
        """`known`, but held back by what waits for a seq: that has not been shown."""
        held = self._sequences.held
        return self.known if held is None else min(self.known, held - 1)

    def _pause(self, now: float, longest: float, at_least: float = 0.0) -> None:
        self._not_before = now + max(self._delay * self._spread, at_least)
        self._delay = min(self._delay * 2, longest)

    def _heads(self, heads: list[Head]) -> dict[StreamKey, int]:
        return {(h.sender, self._conversation(h), h.stream): h.next for h in heads}

    def _conversation(self, what: Message | Head) -> str:
        """As the timeline's owner names it."""
        if what.group is not None:
            return f"g{what.group}"
        return f"u{what.sender if what.to is None or what.to == self.me else what.to}"
