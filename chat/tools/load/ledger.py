"""The account of every message: sent, accepted, shown by each device that has to show it. Pure.

A **track** is one stream in one conversation. Its seqs begin at 0 in this run, so all that is to know of it are a few
numbers: `sent`, `accepted` (all below are), and per device the next seq to show. Devices are numbered by slots, slot 0
being the sender's own, which gets its copy like everyone.

    lost          accepted, but not shown by a device that has to
    doubled       shown by the chain twice (two positions), though its sender never sent it again
    again         the same, after its sender had to send it again: allowed in the log, dropped by the sequence
    disordered    came before one with a lower seq
    misdelivered  came to a device that it is not for, or with a sender that its stream does not have
    late          came only because the device asked once more at the end: nothing had told it to
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chat.tools.load.histogram import Histogram
from chat.tools.load.wire import Delivery, SendTemplate, stamp_of


class Track:
    __slots__ = ("accepted", "early", "held_until", "holds", "resent", "sender", "sent", "shown", "slots", "stamps",
                 "template", "written")  # fmt: skip

    def __init__(self, sender: int, slots: Mapping[int, int], template: SendTemplate) -> None:
        self.sender = sender
        self.slots = slots  # user → slot
        self.template = template
        self.sent = 0  # messages of the plan so far: the next seq
        self.written = 0  # below it all are on the wire of the present connection, or accepted
        self.accepted = 0
        self.resent: list[tuple[int, int]] = []  # first, behind the last: these may be in the log twice
        self.stamps: deque[int] = deque()  # intended times of accepted .. sent − 1: the outbox
        self.shown = array("q", bytes(8 * len(slots)))
        self.early: dict[int, set[int]] = {}  # slot → seqs that came before a lower one
        self.held_until = 0.0  # refused for now: nothing is written before
        self.holds = 0

    def add(self, stamp: int) -> None:
        self.stamps.append(stamp)
        self.sent += 1

    def frames(self) -> Iterator[bytes]:
        """What is to be written now; it counts as written."""
        stamps, base = self.stamps, self.accepted
        while self.written < self.sent:
            seq = self.written
            self.written += 1
            yield self.template.frame(seq, stamps[seq - base])

    def reconnected(self) -> None:
        """All that is not accepted is sent again, in order."""
        if self.written > self.accepted:
            self.resent.append((self.accepted, self.written))
        self.written = self.accepted
        self.held_until, self.holds = 0.0, 0

    def refused(self, seq: int, until: float) -> None:
        """`seq` was not taken: the same again from it on, after a pause."""
        self.written = max(self.accepted, min(self.written, seq))
        self.held_until = max(self.held_until, until)
        self.holds += 1


@dataclass
class Counts:
    sent: int = 0
    accepted: int = 0
    shown: int = 0
    expected: int = 0  # deliveries that all messages sent have to make
    lost: int = 0
    doubled: int = 0
    again: int = 0
    disordered: int = 0
    misdelivered: int = 0
    late: int = 0
    wire_duplicates: int = 0
    older: int = 0  # of other runs
    shed: int = 0  # were due while too much was outstanding, and never sent
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.disordered or self.misdelivered or self.late)


class Ledger:
    """All tracks of a run. Streams are `base`, base + 1, …, one per track."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.tracks: list[Track] = []
        self.counts = Counts()
        self.delivery = Histogram()  # intended send → shown by another's device
        self.acceptance = Histogram()  # intended send → accepted
        self.window = Histogram()  # `delivery` since the last look, for the progress line
        self.measure_from = 0  # µs: messages meant to be sent before are counted, not measured
        self.rescue = False
        self.last_shown = 0  # µs

    def open(self, sender: int, others: list[int], *, to: int | None, group: int | None, size: int) -> Track:
        """A new track; `others` are the users, besides the sender, whose devices have to show its messages."""
        slots = {user: slot for slot, user in enumerate([sender, *others])}
        stream = self.base + len(self.tracks)
        track = Track(sender, slots, SendTemplate(to=to, group=group, stream=stream, size=size))
        self.tracks.append(track)
        return track

    def stream_track(self, stream: int) -> Track | None:
        at = stream - self.base
        return self.tracks[at] if 0 <= at < len(self.tracks) else None

    def add(self, track: Track, stamp: int) -> None:
        """A message is due: numbered and in the outbox."""
        track.add(stamp)
        self.counts.sent += 1
        self.counts.expected += len(track.slots)

    def accepted(self, stream: int, seq: int, now: int) -> Track | None:
        """`accepted` up to `seq` came. Raises ValueError where it was never sent."""
        track = self.stream_track(stream)
        if track is None:
            return None
        if seq >= track.sent:
            raise ValueError(f"seq {seq} is accepted, only those below {track.sent} were sent")
        measured, stamps = self.measure_from, track.stamps
        while track.accepted <= seq:
            stamp = stamps.popleft()
            track.accepted += 1
            self.counts.accepted += 1
            if stamp >= measured:
                self.acceptance.add(now - stamp)
        track.written = max(track.written, track.accepted)
        track.holds = 0
        return track

    def took(self, user: int, delivery: Delivery, now: int) -> None:
        """The chain of one of the user's timelines took it: the sequence decides."""
        if delivery.stream < 0:
            return  # a notice
        track = self.stream_track(delivery.stream)
        if track is None:
            self.counts.older += 1
            return
        slot = track.slots.get(user)
        if slot is None or delivery.sender != track.sender or delivery.seq >= track.sent:
            self.counts.misdelivered += 1
            return
        seq, expected = delivery.seq, track.shown[slot]
        if seq == expected:
            track.shown[slot] = expected + 1
            if track.early:
                _fill(track, slot)
        elif seq < expected or seq in track.early.get(slot, ()):
            if any(first <= seq < end for first, end in track.resent):
                self.counts.again += 1
            else:
                self.counts.doubled += 1
            return
        else:
            self.counts.disordered += 1
            track.early.setdefault(slot, set()).add(seq)
        self.counts.shown += 1
        self.last_shown = now
        if self.rescue:
            self.counts.late += 1
        if slot:
            stamp = stamp_of(delivery.text)
            if stamp >= self.measure_from:
                self.delivery.add(now - stamp)
                self.window.add(now - stamp)

    @property
    def settled(self) -> bool:
        """Everything sent is accepted and shown everywhere."""
        counts = self.counts
        return counts.accepted == counts.sent and counts.shown >= counts.expected

    @property
    def outstanding(self) -> int:
        """Messages that are not accepted."""
        return self.counts.sent - self.counts.accepted

    def missing(self) -> dict[int, int]:
        """user → how many accepted messages his device has not shown."""
        found: dict[int, int] = {}
        for track in self.tracks:
            for user, slot in track.slots.items():
                gap = track.accepted - track.shown[slot]
                if gap > 0:
                    gap -= sum(1 for seq in track.early.get(slot, ()) if seq < track.accepted)
                if gap > 0:
                    found[user] = found.get(user, 0) + gap
        return found

    def close(self) -> Counts:
        """The account at the end."""
        self.counts.lost = sum(self.missing().values())
        return self.counts


def _fill(track: Track, slot: int) -> None:
    early = track.early.get(slot)
    while early and track.shown[slot] in early:
        early.discard(track.shown[slot])
        track.shown[slot] += 1
    if early is not None and not early:
        del track.early[slot]
