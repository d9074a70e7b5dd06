"""The readers of a user's timelines at work: their effects become requests, stored messages and acknowledgements.

What one read from the socket brings is offered with `delivery` and ended with `settle`, in which

    1. `sync` and `fetch` are asked;
    2. with a local history, the messages go to its `Journal`, and what follows waits until they are on the disk;
    3. the messages and the readers' new states are stored, in one transaction;
    4. the messages are shown;
    5. `ack` is due (coalesced, `ACK_EVERY` seconds apart).

A group's reader begins when the user's own timeline, the log-in or a `resync` says that he is a member. It ends by the own
timeline alone: the list of the log-in may be older than what is known from there. What was said before he left is still
read, then the reader rests; who comes back begins fresh, from what he knows, since the streams went on without him.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from chat import protocol
from chat.client.connection import Connection, ConnectionLost, RequestTimeout
from chat.client.local.journal import Journal
from chat.client.store import Kept, Store
from chat.errors import ChatError
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
from chat.protocol import Message
from chat.records import conversation_of, group_timeline, user_timeline

ACK_EVERY: Final = 0.1  # seconds
PAGE: Final = 500  # messages in one answer to sync


class Batch(NamedTuple):
    """What one `settle` found: on its way to the disk, then to the screen. `shown`: timelines and messages."""

    shown: Sequence[tuple[str, Message]]
    changes: Mapping[str, ReaderState]
    resets: Mapping[str, ReaderState]
    effects: Sequence[Acknowledge | StartOver]
    connection: Connection | None

    @property
    def items(self) -> list[tuple[str, Message]]:
        """With their conversations."""
        return [
            (conversation_of(t, m.sender, m.to, m.group), m) for t, m in self.shown if m.kind not in protocol.STATE_KINDS
        ]

    @property
    def started_over(self) -> list[str]:
        return [e.timeline for e in self.effects if isinstance(e, StartOver)]


class Timelines:
    """`show` gets what is new, after it is stored; `start_over` the timelines of which too much was missed. `journal`: of
    the local history, whose owner hands to `committed` what it has written."""

    def __init__(
        self, store: Store, me: int, show: Callable[[Sequence[Kept]], None], start_over: Callable[[str], None],
        *, journal: Journal | None = None, mark: Callable[[], str | None] = lambda: None,
    ) -> None:  # fmt: skip
        self.me = me
        self.own = user_timeline(me)
        self._store = store
        self._show = show
        self._start_over = start_over
        self._journal = journal
        self._mark = mark
        self._stored, self._active = store.readers()
        self._readers: dict[str, TimelineReader] = {}
        self._leaving: set[str] = set()  # left, but not yet read to the end
        self._resting: dict[str, ReaderState] = {}  # to be stored: left groups
        self._touched: set[str] = set()
        self._effects: list[Effect] = []
        self._complete: set[str] = set()  # read to their ends since the log-in
        self._acks: dict[str, int] = {}
        self._connection: Connection | None = None
        self._nursery: trio.Nursery | None = None
        self._ack_due = trio.Event()
        self._tick_moved = trio.Event()

    @property
    def groups(self) -> list[int]:
        return [int(t[1:]) for t in self._readers if t[0] == "g"]

    @property
    def caught_up(self) -> bool:
        """Every timeline has been read to its end since the log-in, and all of it was shown."""
        written = self._journal is None or self._journal.idle
        return self._connection is not None and self._readers.keys() <= self._complete and written

    # -------------------------------------------------------------- connection

    def connected(self, connection: Connection, nursery: trio.Nursery, opened: protocol.LoggedIn) -> None:
        """After each log-in. Its requests and the two loops live in `nursery`, which ends with the connection."""
        self._connection, self._nursery = connection, nursery
        now = trio.current_time()
        # the own timeline first; `dict` keeps the order and drops repetitions
        for timeline in dict.fromkeys([self.own, *map(group_timeline, opened.groups), *self._active, *self._readers]):
            self._do(timeline, self._reader(timeline).connected(now, opened.cursors.get(timeline)))
        nursery.start_soon(self._acknowledge)
        nursery.start_soon(self._tick)
        self.settle()

    def disconnected(self) -> None:
        self._connection = self._nursery = None
        self._acks.clear()
        self._complete.clear()
        for reader in self._readers.values():
            reader.disconnected()

    # -------------------------------------------------------------- what comes

    def delivery(self, message: Message) -> None:
        timeline = self.own if message.group is None else group_timeline(message.group)
        reader = self._readers.get(timeline)
        if reader is None:
            self.join(timeline)  # its join notice is still under way: begin, the sync brings this message
        else:
            self._do(timeline, reader.delivery(message, trio.current_time()))

    def resync(self, timelines: Iterable[str] | None) -> None:
        for timeline in self._readers.copy() if timelines is None else timelines:
            if timeline in self._readers:
                self._do(timeline, self._readers[timeline].resync(trio.current_time()))
            else:
                self.join(timeline)

    def join(self, timeline: str) -> None:
        """The user is a member. Nothing happens where its reader is at work."""
        now = trio.current_time()
        if timeline in self._leaving:
            self._leaving.remove(timeline)
            self._do(timeline, self._readers[timeline].begin_again(now))
        elif timeline not in self._readers and self._connection:
            self._do(timeline, self._reader(timeline).connected(now, None))

    def leave(self, timeline: str) -> None:
        """The user is no member any more: its reader rests after one more whole answer."""
        if timeline in self._readers:
            self._leaving.add(timeline)
            self._do(timeline, self._readers[timeline].resync(trio.current_time()))

    def settle(self) -> None:
        """Carry out what has gathered. Showing may bring more (a join): so until nothing is left."""
        while self._effects or self._touched or self._resting:
            effects, self._effects = self._effects, []
            shown = [(self._timeline(e.message), e.message) for e in effects if isinstance(e, Show)]
            changes = {t: self._readers[t].changes() for t in self._touched if t in self._readers}
            self._touched.clear()
            resting, self._resting = self._resting, {}
            later = [e for e in effects if isinstance(e, Acknowledge | StartOver)]
            batch = Batch(shown, changes, resting, later, self._connection)
            for effect in effects:
                self._ask(effect)
            if self._journal is None:
                self._commit(batch)
            else:
                self._journal.put(batch)
        self._tick_moved.set()

    def committed(self, batches: Sequence[Batch]) -> None:
        """These are in the local history."""
        for batch in batches:
            self._commit(batch)
        self.settle()

    def _commit(self, batch: Batch) -> None:
        self._show(self._store.record(batch.shown, batch.changes, batch.resets, self._mark()))
        for effect in batch.effects:
            if isinstance(effect, StartOver):
                self._start_over(effect.timeline)
            elif batch.connection is self._connection:
                self._acks[effect.timeline] = effect.pos
                self._ack_due.set()

    def _ask(self, effect: Effect) -> None:
        if isinstance(effect, Reconnect) and self._connection:
            self._connection.abort(effect.reason)
        elif isinstance(effect, AskSync) and self._nursery and self._connection:
            self._nursery.start_soon(self._sync, effect, self._connection, self._readers.get(effect.timeline))
        elif isinstance(effect, AskFetch) and self._nursery and self._connection:
            self._nursery.start_soon(self._fetch, effect, self._connection, self._readers.get(effect.timeline))

    def _do(self, timeline: str, effects: list[Effect]) -> None:
        self._effects += effects
        self._touched.add(timeline)

    # -------------------------------------------------------------- readers

    def _reader(self, timeline: str) -> TimelineReader:
        if timeline not in self._readers:
            state = self._stored.get(timeline)
            self._readers[timeline] = TimelineReader(timeline, self.me, state, jitter=random.random())
        return self._readers[timeline]

    def _rest(self, timeline: str) -> None:
        state = self._readers.pop(timeline).state()
        self._leaving.discard(timeline)
        self._active.discard(timeline)
        self._stored[timeline] = self._resting[timeline] = ReaderState(state.known, state.expected, fresh=True)

    def _timeline(self, message: Message) -> str:
        return self.own if message.group is None else group_timeline(message.group)

    # -------------------------------------------------------------- tasks

    async def _sync(self, ask: AskSync, connection: Connection, reader: TimelineReader | None) -> None:
        request = protocol.Sync(timeline=ask.timeline, after=ask.after, limit=PAGE, fresh=ask.fresh)
        retry_after, last = 0.0, ask.timeline in self._leaving
        answer: protocol.Synced | None = None
        try:
            answer = await connection.ask(request, protocol.Synced)
        except ChatError as error:
            retry_after = error.fields.get("retry_after_ms", 0) / 1000
            if error.code in ("forbidden", "not_found") and ask.timeline in self._readers and ask.timeline != self.own:
                self._rest(ask.timeline)  # never was a member; a join notice begins it again
        except RequestTimeout:
            pass
        except ConnectionLost:
            return
        if answer and answer.complete:
            self._complete.add(ask.timeline)
        if reader is not None and self._current(reader, connection):
            now = trio.current_time()
            self._do(ask.timeline, reader.synced(answer, now) if answer else reader.sync_failed(now, retry_after))
            self.settle()
            if last and answer and answer.complete and ask.timeline in self._leaving:
                self._rest(ask.timeline)
        self.settle()

    async def _fetch(self, ask: AskFetch, connection: Connection, reader: TimelineReader | None) -> None:
        request = protocol.Fetch(
            sender=ask.sender, to=ask.to, group=ask.group, stream=ask.stream, seqs=list(ask.seqs)
        )  # fmt: skip
        answer: protocol.Fetched | None = None
        try:
            answer = await connection.ask(request, protocol.Fetched)
        except (ChatError, RequestTimeout):
            pass
        except ConnectionLost:
            return
        if reader is not None and self._current(reader, connection):
            now, key = trio.current_time(), (ask.sender, ask.conversation, ask.stream)
            self._do(ask.timeline, reader.fetched(*key, answer, now) if answer else reader.fetch_failed(*key, now))
        self.settle()

    def _current(self, reader: TimelineReader, connection: Connection) -> bool:
        """What comes late, for an earlier connection or a reader that has been put to rest, is nobody's answer."""
        return connection is self._connection and self._readers.get(reader.timeline) is reader

    async def _acknowledge(self) -> None:
        while True:
            await self._ack_due.wait()
            self._ack_due = trio.Event()
            self.acknowledge()
            await trio.sleep(ACK_EVERY)

    def acknowledge(self) -> None:
        """Send now what is to be acknowledged."""
        acks, self._acks = self._acks, {}
        try:
            for timeline, pos in acks.items():
                if self._connection and timeline in self._readers:
                    self._connection.post(protocol.Ack(timeline=timeline, pos=pos))
        except ConnectionLost:
            return  # the next log-in's cursor is older: nothing rests on it

    async def _tick(self) -> None:
        while True:
            due = min((at for r in self._readers.values() if (at := r.next_tick) is not None), default=float("inf"))
            self._tick_moved = trio.Event()
            with trio.move_on_at(due):
                await self._tick_moved.wait()
            now = trio.current_time()
            for timeline, reader in list(self._readers.items()):
                if (at := reader.next_tick) is not None and at <= now:
                    self._do(timeline, reader.tick(now))
            self.settle()
