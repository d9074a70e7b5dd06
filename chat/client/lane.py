"""What lies in an outbox, and one lane of it: the entries of one (conversation, stream). Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from chat.protocol import Extra, Send

RETRY_FIRST = 0.05  # seconds; doubled each time a lane is refused without progress
RETRY_MAX = 5.0


class Entry(NamedTuple):
    """A message that is not accepted yet. `id` is the key on the device's disk; it grows in the order of composition.
    `conversation` is "u34" or "g7"; `created` in milliseconds, for `Outbox.expire`."""

    id: int
    conversation: str
    stream: int
    seq: int
    text: str
    created: int
    extra: Extra | None = None
    seen: int | None = None
    receipt: bool = False

    def request(self) -> Send:
        number = int(self.conversation[1:])
        direct = self.conversation[0] == "u"
        return Send(
            to=number if direct else None,
            group=None if direct else number,
            stream=self.stream,
            seq=self.seq,
            text=self.text,
            extra=self.extra,
            seen=self.seen,
            receipt=self.receipt,
        )


class Failed(NamedTuple):
    """An entry that was given up. `code` of the refusal, or `expired`, `cancelled`, `behind` (a lower seq was given up).
    `certain`: it is not stored anywhere. Else an earlier attempt may have been: to compose it again may double it."""

    entry: Entry
    code: str
    certain: bool


class Changes(NamedTuple):
    """What changed, to be stored in one go: write `put` (by id; new, or with another stream or seq) and remove what is
    `accepted` or `failed`."""

    put: tuple[Entry, ...] = ()
    accepted: tuple[Entry, ...] = ()
    failed: tuple[Failed, ...] = ()

    @property
    def gone(self) -> list[int]:
        """The ids to remove."""
        return [e.id for e in self.accepted] + [f.entry.id for f in self.failed]


NOTHING = Changes()


class Lane:
    """The unaccepted entries of one (conversation, stream), contiguous in seq.

    On one connection they are sent in order, once. The first refusal of one is a **barrier**: the edge takes nothing
    behind it until it is sent again, and that happens only when every other one under way was answered. So what lies
    behind the barrier was certainly not taken on this connection.
    """

    __slots__ = (
        "barrier", "conversation", "delay", "entries", "head", "next", "not_before", "refused", "stream", "uncertain",
        "under_way", "written",
    )  # fmt: skip

    def __init__(self, conversation: str, stream: int) -> None:
        self.conversation, self.stream = conversation, stream
        self.entries: deque[Entry] = deque()
        self.head = 0  # the seq of the next entry to be composed
        self.written = 0  # when its last entry was composed, in milliseconds
        self.next = 0  # the seq to be sent next on this connection
        self.uncertain = 0  # entries below it may have been taken on an earlier connection
        self.under_way: set[int] = set()  # sent on this connection and not answered
        self.barrier: int | None = None  # the lowest seq refused since the last time that all were answered
        self.refused: dict[int, str] = {}  # for good: seq → code
        self.not_before, self.delay = 0.0, RETRY_FIRST

    @property
    def first(self) -> int:
        """The lowest seq that is not accepted."""
        return self.entries[0].seq if self.entries else self.head

    def rewind(self) -> None:
        """Begin again at the first entry; nothing is under way."""
        self.next, self.barrier = self.first, None
        self.under_way.clear()

    def accept(self, seq: int) -> list[Entry]:
        """Take out what is accepted: everything up to `seq` that was sent on this connection."""
        done: list[Entry] = []
        while self.entries and self.entries[0].seq <= seq and self.entries[0].seq < self.next:
            entry = self.entries.popleft()
            self.under_way.discard(entry.seq)
            self.refused.pop(entry.seq, None)
            done.append(entry)
        return done

    def drop(self, codes: dict[int, str]) -> tuple[list[Entry], list[Failed]]:
        """Take out entries that were certainly not taken, and number those behind them anew: (changed, dropped). Nothing
        behind the lowest of them may have been taken."""
        seq = min(codes)
        dropped: list[Failed] = []
        changed: list[Entry] = []
        kept: deque[Entry] = deque()
        for entry in self.entries:
            if entry.seq < seq:
                kept.append(entry)
            elif entry.seq in codes:
                dropped.append(Failed(entry, codes[entry.seq], certain=True))
            else:
                renumbered = entry._replace(seq=seq + len(changed))
                changed.append(renumbered)
                kept.append(renumbered)
        self.entries, self.head = kept, seq + len(changed)
        return changed, dropped
