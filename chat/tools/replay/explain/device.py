"""A device at work on its timelines, by the clients' own ordering (`chat.ordering`), with every step told. Pure.

The owner says what comes (a record in log order, a delivery of an edge, a log-in); what the readers ask for is answered at
once from the tracks, as far as the log was then. Time is the records' own, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from chat.message_id import id_of
from chat.ordering import Acknowledge, AskFetch, AskSync, Effect, ReaderState, Reconnect, Show, StartOver, TimelineReader
from chat.protocol import MEMBERSHIP_KINDS, Message
from chat.records import conversation_of, group_timeline, user_timeline
from chat.tools.replay.explain.track import Arrived, StreamKey, Track

#: Seconds between two syncs that nothing asked for: never. When they come is chance.
_NO_BACKSTOP: Final = 1e12
#: Answers to one event, at most: a reader that goes on asking is told, not followed.
_MOST_ROUNDS: Final = 10_000


class Said(NamedTuple):
    """One step. `did`: shown, duplicate, waits, known (dropped: it has it already), remembered (does not chain), dead, sync,
    fetch, void, reconnect, begins, rests, on line, off line, missed. `pos` 0 and `id` empty where it is about no record.
    `by` is how a record came: log, delivery, sync, fetch."""

    time: int
    timeline: str
    pos: int
    id: str
    did: str
    detail: str
    by: str = ""
    message: Message | None = None


class Device:
    """`tracks`: by timeline. `fresh`: it begins without any state, else with all up to each track's begin."""

    def __init__(self, me: int, tracks: Mapping[str, Track], *, fresh: bool = False) -> None:
        self.me = me
        self.own = user_timeline(me)
        self._tracks = tracks
        self._readers: dict[str, TimelineReader] = {}
        self._resting: dict[str, ReaderState] = {}
        self._fresh = fresh
        self._expected: dict[str, dict[StreamKey, int]] = {}
        self._shown: dict[tuple[str, StreamKey, int], int] = {}  # → position at which it was shown
        self._waiting: dict[tuple[str, StreamKey, int], int] = {}  # → position of the copy that waits
        self._offered: set[tuple[str, int]] = set()
        self._said: list[Said] = []
        self._now = 0
        self.on_line = False

    # ---------------------------------------------------------------- what comes

    def log_in(self, time: int, detail: str = "") -> list[Said]:
        """Begin, or come back: every timeline syncs from what it knows."""
        self._until(time)
        self._tell("", "on line", detail)
        self.on_line = True
        for timeline, track in self._tracks.items():
            if timeline == self.own or timeline in self._readers or self._is_member(track, time):
                self._begin(timeline)
        return self._take()

    def log_out(self, time: int, detail: str = "") -> list[Said]:
        self._until(time)
        self._tell("", "off line", detail)
        self.on_line = False
        self._waiting.clear()
        for reader in self._readers.values():
            reader.disconnected()
        return self._take()

    def record(self, timeline: str, arrived: Arrived) -> list[Said]:
        """A record in log order, as a router that has read all before it delivers it."""
        self._until(arrived.time)
        track = self._tracks[timeline]
        if track.sees(arrived.pos):
            if arrived.entry is None:
                self._say(timeline, arrived.pos, None, "dead", arrived.why, "log")
            else:
                self._offer(timeline, track.delivery(arrived, track.before(arrived.pos)), "log")
        return self._take()

    def delivery(self, time: int, timeline: str, message: Message) -> list[Said]:
        """What an edge had for it, as it had it: twice, late, with or without `prev`."""
        self._until(time)
        if self.on_line:
            self._offer(timeline, message, "delivery")
        return self._take()

    def end(self, time: int) -> list[Said]:
        """Let time pass until then, for what still waits."""
        self._until(time)
        for (timeline, key, seq), pos in sorted(self._waiting.items(), key=lambda w: w[1]):
            self._tell(timeline, "waits", f"{pos} still waits for seq {self._next(timeline, key)}, it has {seq}")
        return self._take()

    def missed(self, timeline: str, arrived: Arrived) -> Said | None:
        """A record that has not come in any way; None: it has, or is not for it."""
        if (timeline, arrived.pos) in self._offered or not self._tracks[timeline].sees(arrived.pos):
            return None
        message = None if arrived.entry is None else arrived.entry.message
        detail = "is in the log; no delivery or sync has brought it within the range"
        return Said(arrived.time, timeline, arrived.pos, _id(message), "missed", detail, "", message)

    # ---------------------------------------------------------------- readers

    def _is_member(self, track: Track, time: int) -> bool:
        end = track.end_at(time)
        return any(first < end and (last is None or last >= track.begin) for first, last in track.stays or ())

    def _begin(self, timeline: str) -> None:
        """A reader connects; the first time with the state of the beginning, or without one."""
        track = self._tracks[timeline]
        reader = self._readers.get(timeline)
        cursor: int | None = None
        if reader is None:
            state = self._resting.pop(timeline, None)
            if state is None:
                inside = track.stays is None or any(first <= track.begin for first, _ in track.stays)
                if inside:
                    state = ReaderState(track.begin, track.heads, self._fresh)
                    cursor = track.cursor
                else:  # joins later: nothing is known of it
                    self._tell(timeline, "begins", "as a new member: nothing live before the stream heads")
            if state is not None and state.fresh:
                state = ReaderState(state.known, {}, True)
            reader = TimelineReader(timeline, self.me, state, backstop=_NO_BACKSTOP)
            self._readers[timeline] = reader
            self._expected.setdefault(timeline, {}).update(reader.state().expected)
        self._do(timeline, reader.connected(self._now / 1000, cursor or reader.known))

    def _join(self, timeline: str) -> None:
        if timeline in self._tracks and timeline not in self._readers:
            self._begin(timeline)

    def _leave(self, timeline: str) -> None:
        reader = self._readers.get(timeline)
        if reader is not None:
            self._do(timeline, reader.resync(self._now / 1000))
            state = self._readers.pop(timeline).state()
            self._resting[timeline] = ReaderState(state.known, state.expected, fresh=True)
            self._tell(timeline, "rests", f"left; known {state.known}")

    def _until(self, time: int) -> None:
        """What comes due before `time`: gaps are asked for."""
        while True:
            due = [(at, t) for t, r in self._readers.items() if (at := r.next_tick) is not None and at * 1000 <= time]
            if not due:
                break
            at, timeline = min(due)
            self._now = max(self._now, round(at * 1000))
            self._do(timeline, self._readers[timeline].tick(at))
        self._now = max(self._now, time)

    # ---------------------------------------------------------------- what they do

    def _offer(self, timeline: str, message: Message, by: str) -> None:
        reader = self._readers.get(timeline)
        if reader is None:
            self._begin(timeline)  # its join notice is still under way; what came with it is brought by the sync
            reader = self._readers[timeline]
            if isinstance(message.pos, int) and message.pos <= reader.known:
                return
        known, fresh = reader.known, reader.fresh
        effects = reader.delivery(message, self._now / 1000)
        shown = [e for e in effects if isinstance(e, Show)]
        if not any(e.message.pos == message.pos for e in shown):
            self._judge(timeline, reader, message, known, fresh, by)
        else:
            self._offered.add((timeline, _pos(message)))
        self._do(timeline, effects, by)

    def _do(self, timeline: str, effects: Sequence[Effect], by: str = "log") -> None:
        """Carry effects out, and what comes of them."""
        left = [(effect, by) for effect in effects]
        self._learn(timeline)
        rounds = 0
        while left:
            effect, came = left.pop(0)
            match effect:
                case Show(message):
                    self._show(timeline, message, came)
                case AskSync() | AskFetch() if rounds >= _MOST_ROUNDS:
                    self._tell(timeline, "sync", "asks again and again; not followed any further")
                case AskSync(after=after, fresh=fresh):
                    rounds += 1
                    left += [(e, "sync") for e in self._sync(timeline, after, fresh)]
                case AskFetch():
                    rounds += 1
                    left += [(e, "fetch") for e in self._fetch(timeline, effect)]
                case Reconnect(reason):
                    self._tell(timeline, "reconnect", reason)
                case StartOver(upto=upto):
                    self._tell(timeline, "sync", f"too far behind: begins at {upto}, the rest is history")
                case Acknowledge():
                    pass

    def _sync(self, timeline: str, after: int, fresh: bool) -> list[Effect]:
        track, reader = self._tracks[timeline], self._readers[timeline]
        answer = track.synced(after, fresh, max(track.end_at(self._now), reader.known + 1))
        count = len(answer.messages)
        brought = f"{count} record{'' if count == 1 else 's'}" if count else "nothing"
        heads = f", {len(answer.heads)} stream heads" if isinstance(answer.heads, list) else ""
        self._tell(timeline, "sync", f"after {after}: {brought}, upto {answer.upto}{heads}")
        known, was_fresh = reader.known, reader.fresh
        effects = reader.synced(answer, self._now / 1000)
        self._learn(timeline)
        shown = {e.message.pos for e in effects if isinstance(e, Show)}
        for message in answer.messages:
            if message.pos not in shown:
                self._judge(timeline, reader, message, known, was_fresh, "sync")
            else:
                self._offered.add((timeline, _pos(message)))
        return effects

    def _fetch(self, timeline: str, ask: AskFetch) -> list[Effect]:
        track, reader = self._tracks[timeline], self._readers[timeline]
        key = (ask.sender, ask.conversation, ask.stream)
        answer = track.fetched(key, ask.seqs, max(track.end_at(self._now), reader.known + 1))
        seqs = _ranges(ask.seqs)
        what = f"{ask.sender} {ask.conversation} stream {ask.stream} seq {seqs}: "
        what += f"{len(answer.messages)} in the log"
        self._tell(timeline, "fetch", what)
        if answer.void:
            self._tell(timeline, "void", f"seq {_ranges(answer.void)} of stream {ask.stream} is not in the log: skipped")
        effects = reader.fetched(*key, answer, self._now / 1000)
        self._learn(timeline)
        return effects

    def _show(self, timeline: str, message: Message, by: str) -> None:
        pos = _pos(message)
        self._offered.add((timeline, pos))
        detail = ""
        key, seq = self._stream(timeline, message)
        if key is not None:
            self._shown[timeline, key, seq] = pos
            if self._waiting.pop((timeline, key, seq), None) is not None:
                detail = "it waited"
        self._say(timeline, pos, message, "shown", detail, by)
        if timeline == self.own and message.kind in MEMBERSHIP_KINDS and isinstance(message.extra, dict):
            group, user = message.extra.get("group"), message.extra.get("user")
            if isinstance(group, int) and user == self.me:
                (self._join if message.kind == "group_joined" else self._leave)(group_timeline(group))

    def _judge(  # noqa: PLR0917
        self, timeline: str, reader: TimelineReader, message: Message, known: int, fresh: bool, by: str
    ) -> None:  # fmt: skip
        """Why a record that came was not shown."""
        pos = _pos(message)
        repeated = (timeline, pos) in self._offered
        self._offered.add((timeline, pos))
        self._learn(timeline)
        if pos <= known:
            again = ", it came before" if repeated else ""
            self._say(timeline, pos, message, "known", f"dropped: it has everything up to {known}{again}", by)
            return
        if pos > reader.known:
            if fresh:
                why = "takes nothing live before the stream heads"
            elif not isinstance(message.prev, int):
                why = f"the record before it is not known to the router (known {known})"
            else:
                why = f"comes after {message.prev}, but known is {known}"
            self._say(timeline, pos, message, "remembered", why, by)
            return
        key, seq = self._stream(timeline, message)
        if key is None:
            self._say(timeline, pos, message, "shown", "", by)
            return
        expected = self._next(timeline, key)
        if seq < expected:
            first = self._shown.get((timeline, key, seq)) or self._tracks[timeline].first(key, seq)
            where = f"of {first}" if first is not None and first != pos else "of a copy before the range"
            self._say(timeline, pos, message, "duplicate", f"{where}: seq {seq}, expected {expected}", by)
        elif (timeline, key, seq) in self._waiting:
            self._say(timeline, pos, message, "duplicate", f"of {self._waiting[timeline, key, seq]}, which waits", by)
        else:
            self._waiting[timeline, key, seq] = pos
            self._say(timeline, pos, message, "waits", f"for stream {key[2]} seq {expected}", by)

    # ---------------------------------------------------------------- small things

    def _learn(self, timeline: str) -> None:
        reader = self._readers.get(timeline)
        if reader is not None:
            self._expected.setdefault(timeline, {}).update(reader.changes().expected)

    def _next(self, timeline: str, key: StreamKey) -> int:
        return self._expected.get(timeline, {}).get(key, 0)

    def _stream(self, timeline: str, message: Message) -> tuple[StreamKey | None, int]:
        stream, seq = message.stream, message.seq
        if message.kind != "text" or stream is msgspec.UNSET or seq is msgspec.UNSET:
            return None, 0
        conversation = conversation_of(timeline, message.sender, message.to, message.group)
        return (message.sender, conversation, stream), seq

    def _say(  # noqa: PLR0917
        self, timeline: str, pos: int, message: Message | None, did: str, detail: str, by: str
    ) -> None:  # fmt: skip
        self._said.append(Said(self._now, timeline, pos, _id(message), did, detail, by, message))

    def _tell(self, timeline: str, did: str, detail: str) -> None:
        self._said.append(Said(self._now, timeline, 0, "", did, detail))

    def _take(self) -> list[Said]:
        said, self._said = self._said, []
        return said


def _pos(message: Message) -> int:
    assert isinstance(message.pos, int)
    return message.pos


def _id(message: Message | None) -> str:
    return "" if message is None else str(id_of(message) or "")


def _ranges(seqs: Sequence[int]) -> str:
    """`3, 7–9`."""
    parts: list[list[int]] = []
    for seq in sorted(seqs):
        if parts and seq == parts[-1][1] + 1:
            parts[-1][1] = seq
        else:
            parts.append([seq, seq])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)
