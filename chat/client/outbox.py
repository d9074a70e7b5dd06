"""The sender's side of a client: what was composed and is not accepted yet. Pure; `now` is seconds on any steady clock.

Every entry is numbered, stored, and only then sent; it stays until `accepted` covers it. After a reconnect all are sent
again in order. A client run numbers on a stream of its own; what an earlier run left is only drained.

    changes = outbox.add("u34", "hello", created=ms)      store changes, then outbox.stored(changes)
    for entry in outbox.sends(now): write(entry.request())
    changes = outbox.accepted("u34", stream, seq, now)    or refused(error, now): store, stored(…), sends(now) again

**A seq never gets a second body once it may have been taken.** A send refused for good gives its seq free only where no
earlier connection sent it (its outcome there is unknown): then those behind it are numbered anew. Else it is given up as
uncertain together with all behind it that were sent, and the rest goes on with a new stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from chat.client.lane import NOTHING, RETRY_FIRST, RETRY_MAX, Changes, Entry, Failed, Lane
from chat.protocol import MAX_FRAME, Error, Extra, encode

__all__ = ["NOTHING", "Changes", "Entry", "Failed", "Outbox", "OutboxFull", "TooLarge"]

#: Refusals after which the same send cannot succeed. It was not stored.
FOR_GOOD: Final = frozenset({"blocked", "forbidden", "not_found", "bad_request"})
#: Milliseconds after which a stream is not gone on with: below the days after which a server leaves it out of the heads. A
#: device that begins from these would take the next seq for the end of a gap, and what fills it for new.
REST: Final = 25 * 86_400_000
STALLED: Final = 15.0  # seconds without any answer to what is under way: the connection is of no use


class OutboxFull(Exception):
    """More is waiting than may. Nothing was added; the same again when something was accepted."""


class TooLarge(Exception):
    """The message does not fit a frame. Nothing was added."""


class Outbox:
    """`stream`: the random number of this run. `new_stream` draws another where one cannot go on. `saved`: what an
    earlier run left. `keeps`: entries are on a disk, and none is sent before `stored` was told of its change.
    `under_way`: how many may be sent and not answered. `jitter` from 0 to 1 spreads retries over ±25 %.

    Raises ValueError where `saved` cannot be what an outbox left: changes were not stored in one go.
    """

    def __init__(
        self, stream: int, new_stream: Callable[[], int], saved: Iterable[Entry] = (), *, keeps: bool = False,
        entries: int = 10_000, size: int = 16 << 20, under_way: int = 256, max_frame: int = MAX_FRAME, jitter: float = 0.5,
    ) -> None:  # fmt: skip
        self._stream, self._new_stream, self._keeps = stream, new_stream, keeps
        self._limit, self._size_limit, self._room, self._max_frame = entries, size, under_way, max_frame
        self._spread = 0.75 + jitter / 2
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._unsent: dict[tuple[str, int], Lane] = {}  # lanes that have something to send
        self._streams: dict[str, int] = {}  # conversation → stream, where it is not the run's
        self._unstored: dict[int, Entry] = {}
        self._count = self._size = self._under_way = self._last_id = 0
        self._connected = self._stuck = False
        self._not_before = 0.0  # for all lanes: rates are the user's
        self._answered_at = 0.0
        for entry in sorted(saved, key=lambda e: e.id):
            self._load(entry)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All entries in the order of composition."""
        return iter(sorted(e for lane in self._lanes.values() for e in lane.entries))

    # ------------------------------------------------------------------ composing

    def add(
        self, conversation: str, text: str, *, created: int, extra: Extra | None = None, seen: int | None = None,
        receipt: bool = False,
    ) -> Changes:  # fmt: skip
        """Number a new message. Raises OutboxFull, TooLarge."""
        if self._count >= self._limit or self._size + len(text) > self._size_limit:
            raise OutboxFull(f"{self._count} messages wait to be accepted")
        lane = self._current(conversation, created)
        entry = Entry(self._last_id + 1, conversation, lane.stream, lane.head, text, created, extra, seen, receipt)
        length = len(encode(entry.request()))
        if length > self._max_frame:
            raise TooLarge(f"a frame of {length} bytes; {self._max_frame} are allowed")
        self._last_id = entry.id
        self._append(lane, entry)
        return Changes(put=(entry,))

    def stored(self, changes: Changes) -> None:
        """`changes` are on the disk: what they `put` may be sent."""
        for entry in changes.put:
            if self._unstored.get(entry.id) is entry:
                del self._unstored[entry.id]

    def cancel(self, entry_id: int) -> Changes | None:
        """Give up an entry that was never sent. None where it was (it may be accepted yet), or is not here."""
        for lane in self._lanes.values():
            for entry in lane.entries:
                if entry.id == entry_id:
                    if entry.seq < max(lane.uncertain, lane.next):
                        return None
                    return self._drop(lane, {entry.seq: "cancelled"})
        return None

    def expire(self, before: int) -> Changes:
        """Give up entries created before this time, where none of their stream is under way. Call it now and then, with
        the number of days after which the server forgets a stream, less a margin."""
        found = NOTHING
        for lane in list(self._lanes.values()):
            if lane.entries and lane.entries[0].created < before and not lane.under_way and lane.barrier is None:
                old = {e.seq: "expired" for e in lane.entries if e.created < before}
                found = _joined(found, self._give_up(lane, old))
        return found

    # ------------------------------------------------------------------ connection

    def connected(self, now: float) -> None:
        """After each log-in: everything is sent again, in order."""
        self._connected, self._stuck = True, False
        self._under_way, self._not_before, self._answered_at = 0, 0.0, now
        for lane in self._lanes.values():
            lane.rewind()
            lane.not_before, lane.delay = 0.0, RETRY_FIRST
            self._note(lane)

    def disconnected(self) -> Changes:
        """What was under way may have been taken or not."""
        changes = NOTHING
        self._connected, self._under_way = False, 0
        for lane in list(self._lanes.values()):
            sent = [s for s in lane.under_way if lane.barrier is None or s < lane.barrier]
            lane.uncertain = max(lane.uncertain, max(sent, default=-1) + 1)
            lane.rewind()
            if lane.refused:
                changes = _joined(changes, self._give_up(lane, lane.refused))
        return changes

    # ------------------------------------------------------------------ sending

    def sends(self, now: float) -> list[Entry]:
        """What is to be written to the connection now, in this order. It counts as sent."""
        room = self._room - self._under_way
        if not self._connected or room <= 0 or not self._unsent or now < self._not_before:
            return []
        found: list[Entry] = []
        for lane in self._unsent.values():
            if lane.barrier is None and lane.not_before <= now:
                self._gather(lane, room, found)
        if len(self._unsent) > 1:
            found.sort()
            del found[room:]
        if found and not self._under_way:
            self._answered_at = now
        for entry in found:
            lane = self._lanes[entry.conversation, entry.stream]
            lane.under_way.add(entry.seq)
            lane.next = entry.seq + 1
            if lane.next == lane.head:
                del self._unsent[entry.conversation, entry.stream]
        self._under_way += len(found)
        return found

    def accepted(self, conversation: str, stream: int, seq: int, now: float) -> Changes:
        """An `accepted` frame: cumulative."""
        lane = self._lanes.get((conversation, stream))
        if lane is None or not self._connected:
            return NOTHING
        before = len(lane.under_way)
        done = lane.accept(seq)
        if not done:
            return NOTHING
        self._under_way -= before - len(lane.under_way)
        self._answered_at, lane.delay = now, RETRY_FIRST
        self._removed(done)
        changes = Changes(accepted=tuple(done))
        if lane.barrier is not None and not lane.under_way:
            changes = _joined(changes, self._settle(lane))
        self._tidy(lane)
        return changes

    def refused(self, error: Error, now: float) -> Changes:
        """An `error` frame that names a send. Others, and those of a send that is not under way, change nothing."""
        seq, number = error.seq, error.to if error.group is None else error.group
        if error.stream is None or not isinstance(seq, int) or number is None or not self._connected:
            return NOTHING
        lane = self._lanes.get((f"{'u' if error.group is None else 'g'}{number}", error.stream))
        if lane is None or seq not in lane.under_way:
            return NOTHING
        lane.under_way.remove(seq)
        self._under_way -= 1
        self._answered_at = now
        if error.code in FOR_GOOD:
            lane.refused[seq] = error.code
        elif error.code != "sequence_gap" or lane.barrier is None:
            wait = max(lane.delay * self._spread, (error.retry_after_ms or 0) / 1000)
            lane.not_before = max(lane.not_before, now + wait)
            lane.delay = min(lane.delay * 2, RETRY_MAX)
            if error.code == "rate_limited":
                self._not_before = max(self._not_before, lane.not_before)
        if isinstance(error.expected, int) and error.expected < lane.first:
            self._stuck = True  # the edge waits for what was accepted long ago; a new connection does not
        lane.barrier = seq if lane.barrier is None else min(lane.barrier, seq)
        return NOTHING if lane.under_way else self._settle(lane)

    def stalled(self, now: float) -> bool:
        """What is under way has had no answer for long, or the edge asks for what cannot be given: reconnect."""
        return self._connected and (self._stuck or (self._under_way > 0 and now - self._answered_at >= STALLED))

    @property
    def next_tick(self) -> float | None:
        """When to call `sends` and `stalled` again, if nothing happens before; None: never."""
        if not self._connected:
            return None
        times = []
        if self._under_way:
            times.append(self._answered_at + STALLED)
        if self._under_way < self._room:
            paused = (max(lane.not_before, self._not_before) for lane in self._unsent.values() if lane.barrier is None)
            times += [t for t in paused if t]
        return min(times, default=None)

    # ------------------------------------------------------------------ lanes

    def _lane(self, conversation: str, stream: int) -> Lane:
        lane = self._lanes.get((conversation, stream))
        if lane is None:
            lane = self._lanes[conversation, stream] = Lane(conversation, stream)
        return lane

    def _current(self, conversation: str, now: int) -> Lane:
        """What is numbered on."""
        lane = self._lane(conversation, self._streams.get(conversation, self._stream))
        if lane.head and not lane.entries and now - lane.written >= REST:
            self._streams[conversation] = self._new_stream()
            self._tidy(lane)
            lane = self._lane(conversation, self._streams[conversation])
        return lane

    def _append(self, lane: Lane, entry: Entry) -> None:
        lane.entries.append(entry)
        lane.head, lane.written = entry.seq + 1, entry.created
        self._count += 1
        self._size += len(entry.text)
        if self._keeps:
            self._unstored[entry.id] = entry
        self._note(lane)

    def _load(self, entry: Entry) -> None:
        if entry.stream == self._stream:
            raise ValueError("a run may not number on the stream of an earlier one")
        lane = self._lane(entry.conversation, entry.stream)
        if not lane.entries:
            lane.head = lane.next = entry.seq
        elif entry.seq != lane.head:
            raise ValueError(f"{entry.conversation} {entry.stream}: {entry.seq} is stored behind {lane.head - 1}")
        self._append(lane, entry)
        self._unstored.pop(entry.id, None)
        lane.uncertain = lane.head
        self._last_id = entry.id

    def _note(self, lane: Lane) -> None:
        if lane.next < lane.head:
            self._unsent[lane.conversation, lane.stream] = lane
        else:
            self._unsent.pop((lane.conversation, lane.stream), None)

    def _gather(self, lane: Lane, room: int, found: list[Entry]) -> None:
        lane.not_before = 0.0
        begin = lane.next - lane.first
        for entry in islice(lane.entries, begin, begin + room):
            if entry.id in self._unstored:
                return
            found.append(entry)

    def _tidy(self, lane: Lane) -> None:
        """A lane that is drained and will not be numbered on is forgotten."""
        if not lane.entries and lane.stream != self._streams.get(lane.conversation, self._stream):
            self._lanes.pop((lane.conversation, lane.stream), None)
            self._unsent.pop((lane.conversation, lane.stream), None)

    def _removed(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._count -= 1
            self._size -= len(entry.text)
            self._unstored.pop(entry.id, None)

    # ------------------------------------------------------------------ refusals

    def _settle(self, lane: Lane) -> Changes:
        """Something was refused, and by now all is answered: what is left begins again."""
        lane.rewind()
        changes = self._give_up(lane, lane.refused) if lane.refused else NOTHING
        self._note(lane)
        return changes

    def _give_up(self, lane: Lane, codes: dict[int, str]) -> Changes:
        """Take out the entries with these seqs; nothing of the lane is under way."""
        lane.refused = {}
        changes = self._drop(lane, codes) if min(codes) >= lane.uncertain else self._abandon(lane, codes)
        lane.next = lane.first
        self._note(lane)
        self._tidy(lane)
        return changes

    def _drop(self, lane: Lane, codes: dict[int, str]) -> Changes:
        changed, dropped = lane.drop(codes)
        if self._keeps:
            self._unstored.update((e.id, e) for e in changed)
        self._removed(f.entry for f in dropped)
        self._note(lane)
        return Changes(put=tuple(changed), failed=tuple(dropped))

    def _abandon(self, lane: Lane, codes: dict[int, str]) -> Changes:
        """The lowest of these seqs may be in the log, or not: nothing can follow it on this stream."""
        cut = min(codes)
        behind = [e for e in lane.entries if e.seq >= cut]
        while lane.entries and lane.entries[-1].seq >= cut:
            lane.entries.pop()
        lane.head = cut
        if lane.stream == self._streams.get(lane.conversation, self._stream):
            self._streams[lane.conversation] = self._new_stream()
        failed: list[Failed] = []
        moved: list[Entry] = []
        self._removed(behind)
        target = self._lane(lane.conversation, self._streams.get(lane.conversation, self._stream))
        for entry in behind:
            certain = entry.seq >= lane.uncertain
            if entry.seq in codes or not certain:
                failed.append(Failed(entry, codes.get(entry.seq, "behind"), certain))
            else:
                moved.append(entry._replace(stream=target.stream, seq=target.head))
                self._append(target, moved[-1])
        return Changes(put=tuple(moved), failed=tuple(failed))


def _joined(a: Changes, b: Changes) -> Changes:
    return Changes(a.put + b.put, a.accepted + b.accepted, a.failed + b.failed)
