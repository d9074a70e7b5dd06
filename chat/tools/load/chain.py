"""The recipient's rules for one timeline, in the smallest form. Pure; time is not needed here.

    pos ≤ known            a copy that was already had: dropped (the protocol allows them)
    prev ≤ known < pos     taken, known = pos
    anything else          kept, and the timeline is synced

One sync at a time; on its answer first its messages, then known = upto − 1, then what chains from those kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from chat.tools.load.wire import Delivery, Synced, ack_frame

KEPT: Final = 512  # deliveries kept while a sync is under way; more are left to the sync


class Offer(Enum):
    TAKEN = "taken"
    DROPPED = "dropped"
    WAITING = "waiting"  # a sync is needed, or under way


class Chain:
    __slots__ = ("_kept", "_seen", "acknowledged", "asked", "idle_answers", "known", "synced", "timeline", "wanted")

    def __init__(self, timeline: str, known: int) -> None:
        self.timeline = timeline
        self.known = known
        self.acknowledged = known  # what the edge was told
        self.asked = False  # a sync is under way
        self.wanted = True  # a sync is needed when none is under way
        self.synced = False  # since the last log-in one was answered whole
        self.idle_answers = 0  # incomplete ones that brought nothing, in a row
        self._seen = known
        self._kept: dict[int, Delivery] = {}

    def disconnected(self) -> None:
        self.asked, self.synced, self.wanted, self.idle_answers = False, False, True, 0
        self._seen = self.known
        self._kept.clear()

    def pass_over(self, pos: int) -> None:
        """What lies up to there is not to be read."""
        self.known = max(self.known, pos)
        self._seen = max(self._seen, pos)

    def offer(self, delivery: Delivery) -> Offer:
        pos, prev = delivery.pos, delivery.prev
        if pos <= self.known:
            return Offer.DROPPED
        if type(prev) is int and prev <= self.known:
            self.known = pos
            return Offer.TAKEN
        self._seen = max(self._seen, pos)
        if len(self._kept) < KEPT:
            self._kept[pos] = delivery
        if not self.asked:  # else `_seen` says after the answer whether another one is needed
            self.wanted = True
        return Offer.WAITING

    def hint(self) -> None:
        """`resync`: sync again, even if a sync is under way."""
        self.wanted = True

    def ask(self) -> int | None:
        """A sync may be asked for now, after this position; None: not needed, or one is under way."""
        if self.asked or not self.wanted:
            return None
        self.asked, self.wanted = True, False
        return self.known

    def acknowledge(self) -> bytes:
        """The `ack` frame for all that is known."""
        self.acknowledged = self.known
        return ack_frame(self.timeline, self.known)

    def failed(self) -> None:
        """The sync was answered by an error: it is needed still."""
        self.asked, self.wanted = False, True
        self.idle_answers += 1

    def answer(self, synced: Synced) -> Sequence[Delivery]:
        """The messages that are now taken, in order. `wanted` says whether another sync has to follow."""
        self.asked = False
        taken = [m for m in synced.messages if m.pos > self.known]
        before = self.known
        if taken:
            self.known = taken[-1].pos
        self.known = max(self.known, synced.upto - 1)
        for pos in sorted(self._kept):
            kept = self._kept.pop(pos)
            if pos > self.known:
                if type(kept.prev) is not int or kept.prev > self.known:
                    self._kept[pos] = kept
                    break
                self.known = pos
                taken.append(kept)
        self.synced = self.synced or synced.complete
        if not synced.complete or self._seen > self.known:
            self.wanted = True
        self.idle_answers = 0 if synced.complete or self.known > before else self.idle_answers + 1
        return taken

    @property
    def settled(self) -> bool:
        """Nothing is asked for, and nothing needs to be."""
        return self.synced and not self.asked and not self.wanted

    @property
    def pause(self) -> float:
        """Seconds before the next sync may be asked for: 50 ms doubling to 1 s after answers that brought nothing."""
        return min(0.05 * 2 ** (self.idle_answers - 1), 1.0) if self.idle_answers else 0.0
