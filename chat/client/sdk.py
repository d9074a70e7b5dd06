"""The client library: a user's device that stays connected.

    store = Store(path)                            # or ":memory:"
    client = Client(["127.0.0.1:7000"], "alice", store, password="…")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_connected()
        bob = await client.find_user("bob")
        client.send_text(f"u{bob}", "hello")
        async for event in client.events(): …      # MessageShown, EntryChanged, …

With `history=LocalHistory.open(folder, password)` all that is received and sent is kept sealed on the disk, before it is
acknowledged; `past.py` has what reads it.

It reconnects by itself, with jittered back-off, and goes on where it was: what was composed is sent again, what was missed
is read, and every message is shown once and in order. A conversation is `u34` (a user) or `g7` (a group).

The requests about people and groups are in `requests.py`.

Bounded: the outbox, the events that nobody has taken (above `MAX_EVENTS` nothing more is read from the socket until some
are: so do not wait for a request in the loop that takes them), the requests under way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import trio
from msgspec import UNSET

from chat import protocol
from chat.client import events as ev
from chat.client.connection import Connection, ConnectionLost, Ended, RequestTimeout
from chat.client.conversations import Conversations
from chat.client.local.history import LocalHistory
from chat.client.login import LogIn, Refused
from chat.client.marks import Own
from chat.client.outbox import Entry
from chat.client.past import Past, ends
from chat.client.requests import LoggedOut
from chat.client.sending import Sending
from chat.client.store import Kept, Store
from chat.client.timelines import Batch, Timelines
from chat.errors import ChatError
from chat.protocol import AnyEvent, Extra, Message
from chat.records import conversation_of, group_timeline

__all__ = ["Client", "LoggedOut"]

MAX_EVENTS: Final = 10_000
BACKOFF_FIRST: Final = 0.25  # seconds, at most, before the first try
BACKOFF_GROWTH: Final = 1.35  # each time: who waits for an edge that is started again waits about as long again at most
BACKOFF_MAX: Final = 5.0
STABLE: Final = 5.0  # a log-in that held as long begins the back-off anew
#: Seconds for `welcome`, by how many tries have failed in a row. A frozen edge takes connections and says nothing, so the
#: first tries are short; an edge in a storm of log-ins is slow and gets its time by the third.
WELCOME_WITHIN: Final = (2.5, 5.0, 10.0)
LOG_OUT_WAIT: Final = 10.0  # seconds that a log-out waits for what is not accepted
MAX_PAGES: Final = 20  # of `conversations` at a log-in


class Client(Past):
    """One device of one user. `servers` are tried in turn. `listener`: gets every event at once instead of `events()`; it
    must not wait. `register`: make the account first, if it does not exist. `history`: the caller's, open as long as the
    client runs, and closed by him."""

    def __init__(
        self, servers: Sequence[str], name: str, store: Store, *, password: str | None = None, register: bool = False,
        label: str = "", listener: Callable[[ev.Event], None] | None = None,
        history: LocalHistory | None = None,
    ) -> None:  # fmt: skip
        super().__init__(store, history)
        self.name = name
        self.user = int(store.get("user") or 0)
        if self.user:
            self.names[f"u{self.user}"] = name
        self.edge = ""
        self.online: dict[int, bool] = {}
        self.conversations = Conversations(self.user)
        self.sending = Sending(store, self._own_moved)
        self.finished: Ended | None = None
        self.logged_out = False  # by `log_out`
        self._servers = list(servers)
        self._log_in = LogIn(store, name, password, register, label)
        self._listener = listener
        self._events: deque[ev.Event] = deque()
        self._event_came, self._event_taken = trio.Event(), trio.Event()
        self._waits_for_events = False
        self._timelines: Timelines | None = None
        self._changed = trio.Event()
        self._watched: list[int] = []
        self._logged_in = float("inf")  # when, on this connection

    # -------------------------------------------------------------- life

    async def run(self) -> Ended:
        """Stay connected until the edge says not to come back, the log-in is refused, or it is cancelled."""
        await self._ready()
        if self._journal is None:
            return await self._stay()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._journal.run)
            try:
                ended = await self._stay()
                nursery.cancel_scope.cancel()
            finally:
                if not self._journal.idle:  # what was read and is not on the disk is asked for again
                    self._timelines, self._journal = None, self._new_journal()
        return ended

    async def _stay(self) -> Ended:
        tries = at = 0
        while True:
            self._logged_in = float("inf")
            server, within = self._servers[at % len(self._servers)], WELCOME_WITHIN[min(tries, len(WELCOME_WITHIN) - 1)]
            ended, final = await self._once(server, within)
            if final or ended.stay_away:
                await self._written()
                self.finished = ended
                self._emit(ev.Disconnected(ended, None))
                self._notify()
                return ended
            at += 1  # whatever ended it: another one first
            tries = 0 if trio.current_time() - self._logged_in > STABLE else tries + 1
            pause = max(ended.retry_after, 0.0) + random.random() * min(BACKOFF_FIRST * BACKOFF_GROWTH**tries, BACKOFF_MAX)
            self._emit(ev.Disconnected(ended, pause))
            await trio.sleep(pause)

    async def _once(self, server: str, within: float) -> tuple[Ended, bool]:
        """One connection, from its opening to its end. True: it is the last."""
        ended, final = Ended(None, "cancelled"), False
        async with trio.open_nursery() as nursery:
            try:
                connection = await Connection.open(server, self._take, nursery, gate=self._gate, within=within)
                opened = await self._log_in.perform(connection)
                self._logged_in = trio.current_time()
                self._opened(connection, opened, nursery)
                ended = await connection.wait_ended()
            except ConnectionLost as lost:
                ended = lost.ended
            except RequestTimeout as error:
                ended = Ended(None, str(error))
            except ChatError as error:
                ended = Ended(None, str(error), error.fields.get("retry_after_ms", 0) / 1000)
            except Refused as refused:
                ended, final = Ended(None, str(refused)), True
            finally:
                self._closed()
                nursery.cancel_scope.cancel()
        return ended, final

    def _opened(self, connection: Connection, opened: protocol.LoggedIn, nursery: trio.Nursery) -> None:
        again = self._timelines is not None
        if self._timelines is None:
            self.user = opened.user
            self.conversations = Conversations(opened.user)
            self._timelines = Timelines(
                self.store, opened.user, self._show, self._started_over, journal=self._journal, mark=self._mark
            )
        self.names[f"u{opened.user}"] = self.name
        self.edge = connection.welcome.edge
        self._connection = connection
        self._timelines.connected(connection, nursery, opened)
        self.sending.connected(connection, nursery)
        nursery.start_soon(self._refresh, connection)
        self._emit(ev.Connected(self.edge, opened.user, again))
        self._notify()

    def _closed(self) -> None:
        if self._connection is not None:
            self._connection = None
            if self._timelines:
                self._timelines.disconnected()
            self.sending.disconnected()
            self._notify()

    async def leave(self) -> None:
        """Acknowledge what was shown and say goodbye: `run` returns. The token stays, the outbox too."""
        await self._written()
        if self._connection and self._timelines:
            self._timelines.acknowledge()
            await self._connection.leave()

    async def log_out(self, wait: float = LOG_OUT_WAIT) -> bool:
        """End this device's log-in: `run` returns, and the next start needs the password. First what was composed is
        accepted, and what was received is on the disk, for `wait` seconds at most. False: not all was accepted; the rest
        stays in the outbox, and is sent after the next log-in. Raises what `ask` raises. Cancelling is safe."""
        with trio.move_on_after(wait):
            await self.wait_until(lambda: len(self.sending) == 0)
        await self._written()
        if self._timelines is not None:
            self._timelines.acknowledge()
        done = len(self.sending) == 0
        self.logged_out = True
        await self.do(protocol.Logout())
        self.store.put("token", None)
        return done

    def _committed(self, batches: Sequence[Batch]) -> None:
        self.tell()
        if self._timelines is not None:
            self._timelines.committed(batches)
        self._notify()

    # -------------------------------------------------------------- waiting

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def caught_up(self) -> bool:
        """Everything missed has been read since the last log-in."""
        return self._timelines is not None and self._timelines.caught_up

    def all_taken(self) -> bool:
        """Whoever takes `events()` has come back for more, and there is none."""
        return not self._events and self._waits_for_events

    @property
    def my_groups(self) -> list[int]:
        """The groups whose messages are being read."""
        return self._timelines.groups if self._timelines else []

    async def wait_connected(self) -> None:
        """Raises LoggedOut when it cannot be any more."""
        await self.wait_until(lambda: self.connected)

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Until a condition on this client holds; looked at whenever something came. Raises LoggedOut."""
        while not true():
            if self.finished:
                raise LoggedOut(self.finished)
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -------------------------------------------------------------- events

    async def events(self) -> AsyncIterator[ev.Event]:
        """What happens, until `run` has ended and all is taken. For one consumer."""
        while True:
            while self._events:
                event = self._events.popleft()
                self._event_taken.set()
                yield event
            if self.finished:
                return
            self._event_came = trio.Event()
            self._waits_for_events = True
            self._notify()
            await self._event_came.wait()
            self._waits_for_events = False

    def _emit(self, event: ev.Event) -> None:
        if self._listener:
            self._listener(event)
        else:
            self._events.append(event)
            self._event_came.set()

    async def _gate(self) -> None:
        while len(self._events) > MAX_EVENTS:
            self._event_taken = trio.Event()
            await self._event_taken.wait()
        if self._journal is not None:
            await self._journal.wait_room()

    # -------------------------------------------------------------- what comes

    def _take(self, frames: Sequence[AnyEvent]) -> None:
        timelines = self._timelines
        if timelines is None:
            return  # nothing is taken before the first log-in is known; its syncs cover what came with it
        for frame in frames:
            if isinstance(frame, Message):
                timelines.delivery(frame)
            elif isinstance(frame, protocol.Accepted):
                self.sending.accepted(frame)
            elif isinstance(frame, protocol.Error) and frame.stream is not None:
                self.sending.refused(frame)
            elif isinstance(frame, protocol.Resync):
                timelines.resync(frame.timelines)
            elif isinstance(frame, protocol.Presence):
                self._presence(frame)
        timelines.settle()
        self.sending.pump()
        self._notify()

    def _show(self, kept: Sequence[Kept]) -> None:
        for number, timeline, message in kept:
            conversation = conversation_of(timeline, message.sender, message.to, message.group)
            if message.kind in protocol.STATE_KINDS:
                self._state(conversation, message)
                continue
            own: Own | None = None
            if message.kind == "text":
                self.conversations.shown(conversation, message)
                if message.sender == self.user and isinstance(message.stream, int) and isinstance(message.seq, int):
                    own = self.sending.marks.find(conversation, message.stream, message.seq)
            elif message.kind in protocol.MEMBERSHIP_KINDS:
                self._membership(timeline, message)
            self._emit(ev.MessageShown(conversation, message, timeline, number, own.entry if own else None))
            if own:
                self._own_moved(self.sending.marks.shown(own, message.sent_at))
        self._notify()

    def _state(self, conversation: str, message: Message) -> None:
        """`read` and `delivered`."""
        extra = message.extra if isinstance(message.extra, dict) else {}
        group, sent_at = extra.get("group"), extra.get("sent_at")
        if message.kind == "read" and isinstance(sent_at, int):
            if message.sender != self.user:
                self._own_moved(self.sending.marks.read(conversation, sent_at))
                return
            name = group_timeline(group) if isinstance(group, int) else conversation
            if self.conversations.read(name, sent_at):
                self._emit(ev.ConversationChanged(name))
        elif message.kind == "delivered":
            to, stream, seq = (extra.get(k) for k in ("to", "stream", "seq"))
            if isinstance(to, int) and isinstance(stream, int) and isinstance(seq, int) and message.to == self.user:
                self._own_moved(self.sending.marks.delivered(f"u{message.sender}", stream, seq))

    def _membership(self, timeline: str, message: Message) -> None:
        extra = message.extra if isinstance(message.extra, dict) else {}
        group, user, name = extra.get("group"), extra.get("user"), extra.get("name")
        if not isinstance(group, int) or not isinstance(user, int) or self._timelines is None:
            return
        joined = message.kind == "group_joined"
        if timeline[0] == "g":
            if isinstance(name, str):
                self._name({f"u{user}": name})
        elif user == self.user:
            if joined:
                self._timelines.join(group_timeline(group))
            else:
                self._timelines.leave(group_timeline(group))
            self._emit(ev.GroupsChanged(group, self.name_of(group_timeline(group)), joined))

    def _presence(self, frame: protocol.Presence) -> None:
        changed = {u.user: u.online for u in frame.users if self.online.get(u.user) is not u.online}
        self.online |= changed
        if changed:
            self._emit(ev.PresenceChanged(changed))

    def _own_moved(self, moved: Sequence[Own]) -> None:
        for own in moved:
            self._emit(ev.EntryChanged(own.entry, own.state, own.why))

    def _started_over(self, timeline: str) -> None:
        self._epoch += 1
        self._emit(ev.StartedOver(timeline))

    # -------------------------------------------------------------- messages

    def send_text(self, conversation: str, text: str, *, extra: Extra | None = None, receipt: bool = True) -> Entry:
        """Compose a message; it is stored, and sent when it can be. Raises OutboxFull, TooLarge."""
        seen = self.conversations.get(conversation).newest or None
        return self.sending.add(conversation, text, extra, seen, receipt and conversation[0] == "u")

    def mark_read(self, conversation: str) -> None:
        """The user has seen all that is shown of it."""
        summary = self.conversations.get(conversation)
        if self._connection and self.conversations.read(conversation, summary.newest):
            try:
                self._connection.post(protocol.Read(sent_at=summary.newest, **ends(conversation)))
            except ConnectionLost:
                return  # the next message that is read says more
            self._emit(ev.ConversationChanged(conversation))

    async def watch(self, users: Sequence[int]) -> dict[int, bool]:
        """Follow who of these is on line, also after a reconnect."""
        self._watched = list(users)
        answer = await self.ask(protocol.Watch(users=self._watched), protocol.Presence)
        self._presence(answer)
        return {u.user: u.online for u in answer.users}

    # -------------------------------------------------------------- after each log-in

    async def _refresh(self, connection: Connection) -> None:
        """After each log-in: what is kept as state, and the names that are needed to show it."""
        try:
            before: str | None = None
            for _ in range(MAX_PAGES):
                request = protocol.Conversations(before=before)
                page = await connection.ask(request, protocol.ConversationsReply)
                self.conversations.told(page.conversations)
                for row in page.conversations:
                    self._told(row)
                before = page.next
                if before is None:
                    break
            await self.groups()
            await self.friends()
            if self._watched:
                await self.watch(self._watched)
        except (ChatError, RequestTimeout, ConnectionLost):
            return  # MySQL may be away: live chat goes on; the next log-in tries again
        finally:
            self._notify()

    def _told(self, row: protocol.Conversation) -> None:
        conversation = f"u{row.to}" if row.group is None else f"g{row.group}"
        if row.group is None and isinstance(row.read, int):
            self._own_moved(self.sending.marks.read(conversation, row.read))
        if row.delivered is not UNSET:
            moved = self.sending.marks.delivered(conversation, row.delivered.stream, row.delivered.seq)
            self._own_moved(moved)
        self._emit(ev.ConversationChanged(conversation))
