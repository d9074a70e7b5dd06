"""`send`, `ack` and `read`: what clients put into the log. All three run in the reactor and never wait for a server.

The order of a send's checks: a resend or a gap is answered by the window alone. A new one is checked for what refuses it
for good, then for what refuses it for now; a refusal pins the stream's start in the window and takes no seq. Then it is
taken, and from here on it is either accepted, or the connection ends with 2001.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from chat import protocol
from chat.config import EdgeConfig
from chat.edge.clock import EdgeClock
from chat.edge.connection import Connection
from chat.edge.context import Context, Progress
from chat.edge.directory import Directory
from chat.edge.dispatch import Dispatch, Later
from chat.edge.hub import EdgeHub
from chat.edge.publisher import EdgePublisher, MessageParcel, NoticeParcel, accepted
from chat.edge.receipts import ReceiptsLog
from chat.edge.streams import Streams
from chat.errors import ChatError, Goodbye, PartError, Unavailable
from chat.ordering import TAKEN, Again, Full, Gap, Window
from chat.ports import Database, Statement
from chat.protocol import Message, encode
from chat.records import EDGE_HEADER, RECEIPT_HEADER, Headers, message_records, notice

LANES: Final = 4_000  # (conversation, stream) pairs of a connection
GROWTH: Final = 512  # a message may be longer than the frame that brought it: who sent it, and when
MEMBER_S: Final = 1.0  # that persist is waited for
_MEMBER: Final = "SELECT 1 FROM members WHERE chat_group = %s AND user = %s AND to_position IS NULL"
_ASKED_FOR: Final[Headers] = ((RECEIPT_HEADER, b""),)


class Intake:
    """The edge's side of what clients send."""

    def __init__(
        self,
        config: EdgeConfig,
        *,
        hub: EdgeHub,
        publisher: EdgePublisher,
        clock: EdgeClock,
        directory: Directory,
        receipts: ReceiptsLog,
        progress: Progress,
        database: Database,
    ) -> None:
        self._config = config
        self._own: Headers = ((EDGE_HEADER, config.name.encode()),)  # one for all records: it costs next to nothing
        self._hub = hub
        self._publisher = publisher
        self._clock = clock
        self._directory = directory
        self._receipts = receipts
        self._progress = progress
        self._database = database
        self.streams = Streams(config, database, clock.now)

    # ------------------------------------------------------------------ send

    def send(self, conn: Connection, request: protocol.Send) -> None:
        """Raises ChatError, and Later where the recipient or the stream must be looked up first."""
        to, group, stream, seq = request.to, request.group, request.stream, request.seq
        if (to is None) == (group is None):
            raise ChatError("bad_request", "send: either `to` or `group`")
        conversation = f"g{group}" if to is None else f"u{to}"
        window = conn.window
        if window is None:
            window = conn.window = Window(LANES)
        now = conn.reactor.now()
        try:
            if window.expected(conversation, stream) in (None, seq):
                try:
                    if not window.begun(conversation, stream):
                        self.streams.admit(conn.user, conversation, stream, seq, now)
                    self._check(conn, to, group, now)
                    sent_at, value = self._value(conn.user, request)
                except ChatError:
                    window.refuse(conversation, stream, seq)
                    raise
                except Later as later:
                    raise Later(partial(self._pinned, later.wait, window, (conversation, stream, seq))) from None
            taken = window.offer(conversation, stream, seq)
        except Full:
            conn.close(Goodbye.MOVED, "too many conversations and streams on one connection")
            return
        if taken is TAKEN:
            conn.unacknowledged += 1
            user = conn.user
            single = to is None or to == user
            parcel = MessageParcel(1 if single else 2, conn, conversation, stream, seq, now)
            if not single:
                headers = _ASKED_FOR if request.receipt else ()
                self._publisher.offer_text(conversation, value, sent_at, headers, parcel)
            self._publisher.offer_text(conversation if single else f"u{user}", value, sent_at, self._own, parcel)
        elif isinstance(taken, Again):
            if taken.acknowledged is not None:
                conn.send(accepted(conversation, stream, taken.acknowledged))
        elif isinstance(taken, Gap):
            raise ChatError("sequence_gap", f"expected {taken.expected}", expected=taken.expected)

    @staticmethod
    def pin(conn: Connection, fields: Mapping[str, Any]) -> None:
        """A `send` that could not be decoded was refused; `fields` are what could be read of it. Its seq stays the expected
        one, so that what is pipelined behind it leaves no hole."""
        to, group, stream = fields.get("to"), fields.get("group"), fields.get("stream")
        if (to is None) == (group is None) or stream is None:
            return
        if conn.window is None:
            conn.window = Window(LANES)
        try:
            conn.window.refuse(f"g{group}" if to is None else f"u{to}", stream, fields["seq"])
        except Full:
            conn.close(Goodbye.MOVED, "too many conversations and streams on one connection")

    @staticmethod
    async def _pinned(wait: Callable[[], Awaitable[None]], window: Window, of: tuple[str, int, int]) -> None:
        """Refused after all: the stream's start is pinned as for any other refusal."""
        try:
            await wait()
        except ChatError:
            try:
                window.refuse(*of)
            except Full:
                raise ChatError("unavailable", "too many conversations and streams", part="edge") from None
            raise

    def _check(self, conn: Connection, to: int | None, group: int | None, now: float) -> None:
        user = conn.user
        wait = self._hub.take_token(user, now)
        if wait:
            raise ChatError("rate_limited", "too many messages", retry_after_ms=int(wait * 1_000) + 1)
        if to is not None:
            self._may_write(user, to, now)
        elif group is not None and group not in self._hub.groups_of(user):
            raise Later(partial(self._find_member, user, group))
        self._publisher.check(now)

    async def _find_member(self, user: int, group: int) -> None:
        """This edge may not have heard of his join, and a send is refused for good only where that is sure. Raises
        `forbidden`, Unavailable."""
        timeline = f"g{group}"
        try:
            sure = await self._progress.reached(await self._progress.end([timeline]), MEMBER_S)
            (found,) = await self._database.read([Statement(_MEMBER, (group, user))])
        except PartError as error:
            raise Unavailable(error.part) from None
        if found.rows:
            await self._hub.join(user, group)
        elif sure:
            raise ChatError("forbidden", "you are not in this group")
        else:
            raise Unavailable("mysql", "it is not known yet whether you are in this group; try again")

    def _may_write(self, user: int, to: int, now: float) -> None:
        if to in self._hub.blocked_by(user):
            raise ChatError("blocked", "this user has blocked you")
        if to == user:
            return
        directory = self._directory
        if not directory.known(to):
            raise Later(partial(directory.find, to))
        if not directory.strangers and not directory.friends(user, to, now):
            raise Later(partial(directory.find_friends, user, to))

    def _value(self, user: int, request: protocol.Send) -> tuple[int, bytes]:
        """sent_at, and the JSON of the message."""
        sent_at = self._clock.sent_at(user, request.seen)
        extra = UNSET if request.extra is None else request.extra
        message = Message(
            sender=user, to=request.to, group=request.group, stream=request.stream, seq=request.seq, sent_at=sent_at,
            kind="text", text=request.text, extra=extra,
        )  # fmt: skip
        try:
            value = encode(message)
        except (OverflowError, TypeError, ValueError, RecursionError) as error:
            raise ChatError("bad_request", f"send: extra: {error}") from None
        if len(value) > self._config.max_frame + GROWTH:  # 1e15 is written as 1000000000000000.0
            raise ChatError("bad_request", "send: extra: numbers that are longer when written out")
        return sent_at, value

    # ------------------------------------------------------------------ ack, read

    def ack(self, conn: Connection, request: protocol.Ack) -> None:
        """Raises ChatError `forbidden`. A position beyond the end is found out when receipts are written."""
        timeline = request.timeline
        own = timeline[0] == "u"
        number = int(timeline[1:])
        if (own and number != conn.user) or (not own and number not in self._hub.groups_of(conn.user)):
            raise ChatError("forbidden", "not a timeline of yours", **_rid(request))
        self._receipts.ack(conn, request)

    def read(self, conn: Connection, request: protocol.Read) -> None:
        """Raises ChatError, and Later."""
        to, group, user = request.to, request.group, conn.user
        if (to is None) == (group is None):
            raise ChatError("bad_request", "read: either `to` or `group`")
        now = conn.reactor.now()
        extra: dict[str, Any] = {"sent_at": request.sent_at}
        timelines = [f"u{user}"]
        if to is not None:
            if to != user and to not in self._hub.blocked_by(user):
                if not self._directory.known(to):
                    raise Later(partial(self._directory.find, to))
                timelines.append(f"u{to}")
        elif group in self._hub.groups_of(user):
            extra["group"] = group
        else:
            raise ChatError("forbidden", "you are not in this group")
        self._publisher.check(now)
        message = notice("read", sender=user, to=user if to is None else to, sent_at=self._clock.sent_at(user), extra=extra)

        def failed(error: ChatError) -> None:
            refusal = Dispatch.error_frame(error)
            refusal.rid = request.rid
            conn.send(refusal)

        self._publisher.offer(message_records(message, timelines), NoticeParcel(len(timelines), failed))


def _rid(request: protocol.Request) -> dict[str, Any]:
    return {} if request.rid is None else {"rid": request.rid}


# ---------------------------------------------------------------------- handlers


def send(context: Context, session: Connection, request: protocol.Send) -> None:
    context.intake.send(session, request)


def ack(context: Context, session: Connection, request: protocol.Ack) -> None:
    context.intake.ack(session, request)


def read(context: Context, session: Connection, request: protocol.Read) -> None:
    context.intake.read(session, request)
