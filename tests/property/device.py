"""A client on one device: the real outbox and readers, a disk, a shaky power supply; and what it must never do."""

from __future__ import annotations

from collections.abc import Sequence

from chat.client.outbox import Changes, Entry, Outbox
from chat.ordering import (
    Acknowledge,
    AskFetch,
    AskSync,
    Effect,
    ReaderState,
    Reconnect,
    Show,
    StartOver,
    TimelineReader,
)
from chat.protocol import Accepted, Ack, AnyEvent, Error, Fetch, Fetched, Message, Sync, Synced
from tests.property.world import USERS, Connection, StreamId, World, stream_of, timelines_of


class Life:
    """What a device did with one timeline since it last lost its state."""

    def __init__(self, before: set[tuple[StreamId, int]], base: int) -> None:
        self.before, self.base = before, base  # shown in an earlier life; the cursor it began from
        self.shown: dict[tuple[StreamId, int], None] = {}
        self.notices: set[int] = set()
        self.excused: set[tuple[StreamId, int]] = set()  # to be read as history

    def has(self, message: tuple[StreamId, int], pos: int) -> bool:
        return message in self.shown or message in self.excused or (pos <= self.base and message in self.before)


class Device:
    """`buffer` and `waiting` are small, so that they overflow."""

    def __init__(self, world: World, name: str, *, buffer: int = 2, waiting: int = 2) -> None:
        self.world, self.name, self.user = world, name, USERS[name]
        self._sizes = (buffer, waiting)
        self.connection: Connection | None = None
        self.disk: dict[str, ReaderState] = {}
        self.saved: dict[int, Entry] = {}
        self.lives = {t: Life(set(), 0) for t in timelines_of(self.user)}
        self.accepted: list[Entry] = []
        self.certainly_not: set[str] = set()  # texts that may never come into the log
        self.composed = 0
        self.fetches: list[AskFetch] = []  # under way, answered in order
        self.boot()

    # ------------------------------------------------------------------ life and death

    def boot(self) -> None:
        """The process is killed and starts anew: what it has is on the disk."""
        self.world.disconnect(self.name)
        self.connection = None
        self.fetches.clear()
        buffer, waiting = self._sizes
        self.readers = {
            t: TimelineReader(t, self.user, self.disk.get(t), buffer=buffer, waiting=waiting) for t in self.lives
        }
        self.outbox = Outbox(
            self.world.new_stream(), self.world.new_stream, self.saved.values(), keeps=True, under_way=4
        )  # fmt: skip

    def lose_disk(self) -> None:
        self.disk, self.saved = {}, {}
        for timeline, life in self.lives.items():
            cursor = self.world.cursors.get((self.name, timeline), 0)
            self.lives[timeline] = Life(life.before | life.shown.keys() | life.excused, cursor)
        self.boot()

    def connect(self, now: float) -> None:
        self.drop()
        self.connection = self.world.connect(self.name)
        self.outbox.connected(now)
        for timeline, reader in self.readers.items():
            life = self.lives[timeline]
            cursor = self.world.cursors.get((self.name, timeline), 0)
            if reader.fresh and reader.known == 0:
                life.base = cursor
            self.carry_out(timeline, reader.connected(now, cursor))
        self.send(now)

    def drop(self) -> None:
        if self.connection is not None:
            self.world.disconnect(self.name)
            self.connection = None
            self.fetches.clear()
            for timeline, reader in self.readers.items():
                reader.disconnected()
                self.store(timeline)
            self.keep(self.outbox.disconnected())

    # ------------------------------------------------------------------ sending

    def compose(self, conversation: str, now: float) -> None:
        self.composed += 1
        text = f"{self.name}{self.composed}"
        self.keep(self.outbox.add(conversation, text, created=0))
        self.send(now)

    def send(self, now: float) -> None:
        if self.connection is not None:
            self.connection.requests.extend(e.request() for e in self.outbox.sends(now))

    def keep(self, changes: Changes) -> None:
        for entry in changes.put:
            self.saved[entry.id] = entry
        for entry_id in changes.gone:
            del self.saved[entry_id]
        self.accepted += changes.accepted
        for failed in changes.failed:
            if failed.certain:
                self.certainly_not.add(failed.entry.text)
        self.outbox.stored(changes)

    # ------------------------------------------------------------------ receiving

    def receive(self, now: float) -> None:
        assert self.connection is not None
        self.handle(self.connection.frames.popleft(), now)
        self.send(now)

    def handle(self, event: AnyEvent, now: float) -> None:
        match event:
            case Message():
                timeline = f"u{self.user}" if event.group is None else "g7"
                self.carry_out(timeline, self.readers[timeline].delivery(event, now))
            case Synced(timeline=timeline):
                self.carry_out(timeline, self.readers[timeline].synced(event, now))
            case Fetched():
                ask = self.fetches.pop(0)
                key = (ask.sender, ask.conversation, ask.stream)
                self.carry_out(ask.timeline, self.readers[ask.timeline].fetched(*key, event, now))
            case Accepted():
                conversation = f"g{event.group}" if event.to is None else f"u{event.to}"
                self.keep(self.outbox.accepted(conversation, event.stream, event.seq, now))
            case Error():
                self.keep(self.outbox.refused(event, now))
            case _:
                raise AssertionError(event)

    def tick(self, now: float) -> None:
        for timeline, reader in self.readers.items():
            self.carry_out(timeline, reader.tick(now))
        if self.outbox.stalled(now):
            self.drop()
        self.send(now)

    def next_tick(self) -> float | None:
        """Of what must still happen; a backstop need not."""
        times = [r.next_tick for r in self.readers.values()] + [self.outbox.next_tick]
        return min((t for t in times if t is not None), default=None)

    def resync(self, timeline: str, now: float) -> None:
        self.carry_out(timeline, self.readers[timeline].resync(now))

    def begin_again(self, timeline: str, now: float) -> None:
        self.carry_out(timeline, self.readers[timeline].begin_again(now))

    def carry_out(self, timeline: str, effects: Sequence[Effect]) -> None:
        """Show and store in one go, then the rest."""
        for effect in effects:
            if isinstance(effect, Show):
                self.show(timeline, effect.message)
            elif isinstance(effect, StartOver):
                self.start_over(timeline, effect.upto)
        self.store(timeline)
        for effect in effects:
            if isinstance(effect, Reconnect):
                self.drop()
            elif self.connection is None:
                return
            elif isinstance(effect, AskSync):
                assert not any(s.request.timeline == timeline for s in self.connection.syncs), "two syncs at a time"
                self.connection.requests.append(effect_request(effect))
            elif isinstance(effect, AskFetch):
                self.fetches.append(effect)
                self.connection.requests.append(effect_request(effect))
            elif isinstance(effect, Acknowledge):
                self.check_cursor(timeline, effect.pos)
                self.connection.requests.append(Ack(timeline=timeline, pos=effect.pos))

    def store(self, timeline: str) -> None:
        reader = self.readers[timeline]
        before, changes = self.disk.get(timeline, ReaderState(0, {}, fresh=True)), reader.changes()
        self.disk[timeline] = ReaderState(changes.known, {**before.expected, **changes.expected}, changes.fresh)
        full = reader.state()
        assert (full.known, full.fresh) == (self.disk[timeline].known, self.disk[timeline].fresh)
        assert full.expected == self.disk[timeline].expected

    # ------------------------------------------------------------------ what it must never do

    def show(self, timeline: str, message: Message) -> None:
        life, pos = self.lives[timeline], message.pos
        assert isinstance(pos, int)
        if not isinstance(message.seq, int):
            life.notices.add(pos)
            return
        key, seq = stream_of(message), message.seq
        assert (key, seq) not in life.shown, f"{self.name} shows {key} {seq} twice"
        first = self.world.first[timeline][key, seq]
        assert first > life.base or (key, seq) not in life.before, (
            f"{self.name} shows {key} {seq} again, begun at {life.base}"
        )
        for other, lower, at in self.world.messages(timeline, self.user):
            if other == key and lower < seq:
                assert life.has((key, lower), at) or at <= life.base, f"{self.name} shows {key} {seq} before {lower}"
            if other == key and lower > seq:
                assert (key, lower) not in life.shown, f"{self.name} shows {key} {seq} behind {lower}"
        life.shown[key, seq] = None

    def start_over(self, timeline: str, upto: int) -> None:
        life = self.lives[timeline]
        for key, seq, pos in self.world.messages(timeline, self.user):
            if pos < upto and (key, seq) not in life.shown:
                life.excused.add((key, seq))

    def check_cursor(self, timeline: str, cursor: int) -> None:
        life = self.lives[timeline]
        for key, seq, pos in self.world.messages(timeline, self.user):
            if pos <= cursor:
                assert life.has((key, seq), pos), f"{self.name}: {timeline} acknowledged to {cursor}, {key} {seq} unseen"

    def check_everything_shown(self) -> None:
        for timeline, life in self.lives.items():
            for key, seq, pos in self.world.messages(timeline, self.user):
                assert life.has((key, seq), pos), f"{self.name}: {key} {seq} at {pos} of {timeline} not shown"


def effect_request(effect: AskSync | AskFetch) -> Sync | Fetch:
    if isinstance(effect, AskSync):
        return Sync(timeline=effect.timeline, after=effect.after, fresh=effect.fresh)
    return Fetch(sender=effect.sender, to=effect.to, group=effect.group, stream=effect.stream, seqs=list(effect.seqs))
