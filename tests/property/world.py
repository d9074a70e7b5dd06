"""A chat cluster in memory, small enough to break at every point: an edge with its producer, the log, a router, persist.

The pure classes are the real ones (Window, splice, record and frame encoding). Every method is one atomic step; who calls
them chooses the order and the faults. Two users: 1 with devices "a" and "b", 2 with device "c"; timelines u1, u2 and g7.

    device ──requests──> edge ──pending──> flight ──> log ──> router ──> loose deliveries ──> frames ──> device
                                                        └───> persist ──> rows, heads ──> sync, fetch ──^
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import UNSET

from chat.ordering import Again, Gap, Taken, Window
from chat.positions import position
from chat.protocol import (
    Accepted,
    Ack,
    AnyEvent,
    AnyRequest,
    Error,
    Fetch,
    Fetched,
    Head,
    Message,
    Send,
    Sync,
    Synced,
    decode_event,
    decode_message,
)
from chat.records import message_records, splice, splice_pos

PAGE = 3  # rows in one answer
TOO_OLD = 9  # rows behind
PLACES = {"u1": 0, "u2": 1, "g7": 0}  # timeline → partition
PARTITIONS = (0, 1)
USERS = {"a": 1, "b": 1, "c": 2}  # device → user
StreamId = tuple[int, int | None, int | None, int]  # sender, to, group, stream


def stream_of(message: Message) -> StreamId:
    assert isinstance(message.stream, int)
    return (message.sender, message.to, message.group, message.stream)


def timelines_of(user: int) -> tuple[str, str]:
    return (f"u{user}", "g7")


class Parcel(NamedTuple):
    """One record under way in the producer."""

    connection: Connection
    conversation: str
    stream: int
    seq: int
    timeline: str
    value: bytes


class Row(NamedTuple):
    pos: int
    value: bytes
    message: Message


class PendingSync(NamedTuple):
    request: Sync
    end: int  # E


class Connection:
    """What lies between a device and the edge. `loose`: deliveries whose order and number nobody promises."""

    def __init__(self, device: str, user: int) -> None:
        self.device, self.user, self.alive = device, user, True
        self.requests: deque[AnyRequest] = deque()
        self.frames: deque[AnyEvent] = deque()
        self.loose: list[bytes] = []
        self.lost = False  # some of them never came
        self.window = Window()
        self.waiting: dict[tuple[str, int, int], int] = {}  # message → records not acknowledged
        self.syncs: list[PendingSync] = []


class World:
    def __init__(self) -> None:
        self.log: dict[int, list[tuple[str, bytes]]] = {p: [] for p in PARTITIONS}
        self.connections: dict[str, Connection] = {}
        self.pending: dict[int, list[Parcel]] = {p: [] for p in PARTITIONS}
        self.flight: dict[int, tuple[list[Parcel], bool] | None] = dict.fromkeys(PARTITIONS)  # batch, is it in the log
        self.ghosts: list[tuple[int, list[Parcel]]] = []  # batches of an ended producer that may come yet
        self.routed = dict.fromkeys(PARTITIONS, 0)
        self.memory: dict[str, int] = {}  # timeline → position of its last record read without a gap
        self.persisted = dict.fromkeys(PARTITIONS, 0)
        self.rows: dict[str, list[Row]] = {t: [] for t in PLACES}
        self.heads: dict[tuple[str, StreamId], int] = {}
        self.cursors: dict[tuple[str, str], int] = {}  # device, timeline
        self.stays: list[list[int | None]] = [[0, None]]  # of user 2 in the group: positions from, to
        self.first: dict[str, dict[tuple[StreamId, int], int]] = {t: {} for t in PLACES}  # message → its first position
        self.too_old = False  # may a sync say so
        self.clock = 0
        self.streams = 0
        self.zombies: list[Connection] = []  # the device has left; the edge has not noticed

    # ------------------------------------------------------------------ connections

    def connect(self, device: str) -> Connection:
        self.disconnect(device)
        made = self.connections[device] = Connection(device, USERS[device])
        return made

    def disconnect(self, device: str) -> None:
        if device in self.connections:
            connection = self.connections.pop(device)
            connection.alive = False
            if connection.requests:
                self.zombies = [*self.zombies[-2:], connection]

    def new_stream(self) -> int:
        self.streams += 1
        return self.streams

    # ------------------------------------------------------------------ the edge

    def serve(self, connection: Connection, refusal: str | None = None) -> None:
        """The edge handles the next request; `refusal`: a code for it, where it is a send that would be the next."""
        request = connection.requests.popleft()
        if isinstance(request, Send):
            self._send(connection, request, refusal)
        elif isinstance(request, Ack):
            key = (connection.device, request.timeline)
            self.cursors[key] = max(self.cursors.get(key, 0), request.pos)
        elif isinstance(request, Sync):
            end = position(0, len(self.log[PLACES[request.timeline]]))
            connection.syncs.append(PendingSync(request, end))
        elif isinstance(request, Fetch):
            connection.frames.append(self._fetch(connection.user, request))

    def _send(self, connection: Connection, send: Send, refusal: str | None) -> None:
        conversation = f"g{send.group}" if send.to is None else f"u{send.to}"
        window, key = connection.window, (conversation, send.stream, send.seq)
        if window.expected(conversation, send.stream) in (None, send.seq):
            if send.group is not None and connection.user == 2 and not self.is_member:
                refusal = "forbidden"
            if refusal is not None:
                window.refuse(*key)
                self._error(connection, send, refusal)
                return
        match window.offer(*key):
            case Taken():
                timelines = ["g7"] if send.to is None else list(dict.fromkeys((f"u{send.to}", f"u{connection.user}")))
                connection.waiting[key] = len(timelines)
                self.clock += 1
                message = Message(
                    sender=connection.user, to=send.to, group=send.group, stream=send.stream, seq=send.seq,
                    sent_at=self.clock, kind="text", text=send.text,
                )  # fmt: skip
                for timeline, record in message_records(message, timelines):
                    self.pending[PLACES[timeline]].append(Parcel(connection, *key, timeline, record.value))
            case Again(acknowledged):
                if acknowledged is not None:
                    self._accept(connection, conversation, send.stream, acknowledged)
            case Gap(expected):
                self._error(connection, send, "sequence_gap", expected=expected)

    def _error(self, connection: Connection, send: Send, code: str, **more: int) -> None:
        connection.frames.append(
            Error(
                code=code,
                message="",
                retriable=code in ("rate_limited", "unavailable", "sequence_gap"),
                to=send.to,
                group=send.group,
                stream=send.stream,
                seq=send.seq,
                **more,
            )
        )

    def _accept(self, connection: Connection, conversation: str, stream: int, seq: int) -> None:
        number, direct = int(conversation[1:]), conversation[0] == "u"
        connection.frames.append(
            Accepted(to=number if direct else None, group=None if direct else number, stream=stream, seq=seq)
        )

    # ------------------------------------------------------------------ the producer and the log

    def flush(self, p: int, count: int) -> None:
        self.flight[p] = (self.pending[p][:count], False)
        del self.pending[p][:count]

    def append(self, p: int) -> None:
        flight = self.flight[p]
        assert flight is not None
        self._write(p, flight[0])
        self.flight[p] = (flight[0], True)

    def acknowledge(self, p: int) -> None:
        flight = self.flight[p]
        assert flight is not None
        self.flight[p] = None
        for parcel in flight[0]:
            connection, key = parcel.connection, (parcel.conversation, parcel.stream, parcel.seq)
            connection.waiting[key] -= 1
            if connection.waiting[key] == 0 and connection.alive:
                upto = connection.window.acknowledge(*key)
                if upto is not None:
                    self._accept(connection, parcel.conversation, parcel.stream, upto)

    def fail(self, *, ghosts: bool) -> None:
        """The producer ends with what it had under way unknown; every connection is closed."""
        for p in PARTITIONS:
            flight = self.flight[p]
            if flight is not None and not flight[1] and ghosts:
                self.ghosts.append((p, flight[0]))
            self.flight[p], self.pending[p] = None, []
        for device in list(self.connections):
            self.disconnect(device)
        self.zombies.clear()

    def haunt(self, index: int) -> None:
        self._write(*self.ghosts.pop(index))

    def notify(self, timeline: str) -> None:
        """A record without stream and seq."""
        self.clock += 1
        group = 7 if timeline == "g7" else None
        message = Message(sender=1, to=None if group else 2, group=group, sent_at=self.clock, kind="edited")
        self.log[PLACES[timeline]].append((timeline, message_records(message, [timeline])[0].record.value))

    def _write(self, p: int, batch: list[Parcel]) -> None:
        for parcel in batch:
            message = decode_message(parcel.value)
            assert isinstance(message.seq, int)
            key, first = stream_of(message), self.first[parcel.timeline]
            self.log[p].append((parcel.timeline, parcel.value))
            if (key, message.seq) not in first:
                assert message.seq == 0 or (key, message.seq - 1) in first, f"the log has a hole before {key} {message.seq}"
                first[key, message.seq] = position(0, len(self.log[p]) - 1)
            assert self.text_at(first[key, message.seq], p) == message.text, f"two bodies under {key} {message.seq}"

    def text_at(self, pos: int, p: int) -> object:
        return decode_message(self.log[p][pos - 1][1]).text

    # ------------------------------------------------------------------ the router

    def route(self, p: int) -> None:
        timeline, value = self.log[p][self.routed[p]]
        pos = position(0, self.routed[p])
        frame = splice(value, self.memory.get(timeline), pos)
        self.memory[timeline] = pos
        self.routed[p] += 1
        for connection in self.connections.values():
            if timeline in timelines_of(connection.user) and self.is_visible(connection.user, timeline, pos):
                connection.loose.append(frame)

    def rewind_router(self, p: int, offset: int) -> None:
        """A restart: it reads again from its commit, and remembers nothing."""
        self.routed[p] = min(offset, self.routed[p])
        self.memory = {t: pos for t, pos in self.memory.items() if PLACES[t] != p}

    def deliver(self, connection: Connection, index: int, *, repeat: bool = False) -> None:
        frame = connection.loose[index] if repeat else connection.loose.pop(index)
        connection.frames.append(decode_event(frame))

    # ------------------------------------------------------------------ persist, sync, fetch

    def persist(self, p: int) -> None:
        offset = self.persisted[p]
        timeline, value = self.log[p][offset]
        self.persisted[p] = offset + 1
        message = decode_message(splice_pos(value, position(0, offset)))
        row = Row(position(0, offset), value, message)
        if isinstance(message.seq, int):
            key = (timeline, stream_of(message))
            if message.seq < self.heads.get(key, 0):
                return
            self.heads[key] = message.seq + 1
        self.rows[timeline].append(row)

    def read(self, connection: Connection, index: int) -> None:
        """A sync is answered from one snapshot."""
        sync, end = connection.syncs.pop(index)
        timeline = sync.timeline
        upto = position(0, self.persisted[PLACES[timeline]])
        rows = [r for r in self.rows[timeline] if r.pos > sync.after and self.is_visible(connection.user, timeline, r.pos)]
        old = self.too_old and len(rows) > TOO_OLD
        cut = len(rows) > PAGE and not old
        if cut:
            rows = rows[:PAGE]
            upto = rows[-1].pos + 1
        heads = [
            Head(sender=sender, to=to, group=group, stream=stream, next=n)
            for (t, (sender, to, group, stream)), n in self.heads.items()
            if t == timeline
        ]
        connection.frames.append(
            Synced(
                timeline=timeline,
                messages=[] if old else [r.message for r in rows],
                upto=upto,
                complete=upto >= end,
                heads=heads if old or (sync.fresh and not cut) else UNSET,
                too_old=old,
            )
        )

    def _fetch(self, user: int, fetch: Fetch) -> Fetched:
        timeline = f"u{user}" if fetch.group is None else "g7"
        key = (fetch.sender, fetch.to, fetch.group, fetch.stream)
        found = {
            r.message.seq: r.message
            for r in self.rows[timeline]
            if isinstance(r.message.seq, int) and stream_of(r.message) == key and self.is_visible(user, timeline, r.pos)
        }
        head = self.heads.get((timeline, key), 0)
        return Fetched(
            messages=[found[s] for s in fetch.seqs if s in found],
            void=[s for s in fetch.seqs if s not in found and s < head],
            pending=[s for s in fetch.seqs if s not in found and s >= head],
        )

    # ------------------------------------------------------------------ the group

    @property
    def is_member(self) -> bool:
        return self.stays[-1][1] is None

    def leave(self) -> None:
        self.stays[-1][1] = position(0, len(self.log[PLACES["g7"]]))

    def join(self) -> None:
        self.stays.append([position(0, len(self.log[PLACES["g7"]])), None])

    def is_visible(self, user: int, timeline: str, pos: int) -> bool:
        if timeline != "g7" or user != 2:
            return True
        return any(start is not None and start <= pos and (end is None or pos < end) for start, end in self.stays)

    # ------------------------------------------------------------------ for the checks

    def messages(self, timeline: str, user: int) -> Iterator[tuple[StreamId, int, int]]:
        """(stream, seq, first position) of what the user may see, as far as the log goes."""
        for (key, seq), pos in self.first[timeline].items():
            if self.is_visible(user, timeline, pos):
                yield key, seq, pos
