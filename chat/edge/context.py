"""What the parts of an edge ask of each other: sessions, the hub, the publisher, the store, and the handler table's form.

A handler is `async (context, session, request) -> reply | None`. A reply is a Frame, or bytes that are already JSON; the
dispatch sets `rid` on a Frame; who returns bytes writes it. A ChatError becomes an error frame, a PartError `unavailable`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any, NamedTuple, Protocol

from chat.config import EdgeConfig
from chat.errors import Goodbye
from chat.ports import Database, LogAdmin, Memory
from chat.protocol import Frame
from chat.records import PresenceEvent, TimelineRecord, TopicPartition


class Order(Enum):
    """How a request stands to others of its connection."""

    FAST = "fast"  # done at once in the reactor, never waits
    READ = "read"  # a task of its own; a few at a time per connection; others may overtake it
    CHANGE = "change"  # in the order sent: what comes behind it on the connection waits, `send` too
    OPENING = "opening"  # log-in: all that comes behind it waits


class Session(Protocol):
    """One connection, as handlers see it."""

    user: int  # 0 until logged in
    name: str
    device: str
    session: str  # a random id of this session
    address: str  # of the client: from the PROXY header where there is one
    token_hash: bytes  # of the token it was opened with; b"" before

    def send(self, frame: Frame | bytes) -> None:
        """Queue a frame; never blocks. A full outbox closes the connection with 2003."""
        ...

    def close(self, code: Goodbye, reason: str, retry_after_ms: int | None = None) -> None:
        """Say goodbye and close when what is queued is written (bounded time)."""
        ...

    def note_receipts(self, timeline: str, entries: Sequence[tuple[int, int, int, int]]) -> None:
        """Messages now on their way to this device whose sender asked for a receipt: (pos, sender, stream, seq). When the
        device's `ack` passes them, `delivered` goes to the senders."""
        ...


class Opened(NamedTuple):
    """What a log-in found; the hub takes the session over with it."""

    user: int
    name: str
    device: str
    session: str
    token_hash: bytes
    groups: frozenset[int]
    blocked_by: frozenset[int]  # these refuse what the user sends
    cursors: Mapping[str, int]
    asked_at: float = inf  # trio's time before all this was read: what was heard since is newer


class Hub(Protocol):
    """Who is on line here: user → sessions, group → sessions; the registrations in Redis follow it."""

    async def open(self, session: Session, opened: Opened) -> None:
        """Make the session known: local tables, location and groups in Redis (waits for the write, up to a bound; when it
        comes late the session gets `resync`), and the `login` event for the other edges, by which an older session of the
        same device is replaced. From its return on deliveries are routed here, or a resync will come. Raises Unavailable
        where the user's sessions were ended since `asked_at`: what was found then may be so no longer."""
        ...

    def groups_of(self, user: int) -> frozenset[int]:
        """The groups of a user who is on line here, as far as this edge knows."""
        ...

    def changes_of(self, user: int) -> int:
        """A number that moves with every change of his groups here."""
        ...

    async def join(self, user: int, group: int, *, tell: bool = True) -> None:
        """The user is in the group now: register it. `tell`: his sessions get `resync` for its timeline. Idempotent."""
        ...

    async def leave(self, user: int, group: int) -> None: ...

    def sessions_of(self, user: int) -> Collection[Session]: ...

    def blocked_by(self, user: int) -> frozenset[int]: ...

    async def heeded(self, event: PresenceEvent, since: float) -> None:
        """A `blocked` or `unblocked` that is in the log has taken effect here, behind all that were before it in the log.
        `since`: trio's time before it was told."""
        ...


class Publisher(Protocol):
    """Produces by batches: one request in flight over all partitions."""

    async def publish(self, records: Sequence[TimelineRecord]) -> list[int]:
        """Notices (kinds other than text): their positions when Kafka has acknowledged all. Raises Unavailable when it is
        not known or did not happen in a bounded time; notices are idempotent, so the client may ask again."""
        ...

    async def tell(self, events: Sequence[PresenceEvent]) -> None:
        """Events for all edges; returns when Kafka has them. Raises Unavailable when that is not known in a bounded time;
        events are idempotent."""
        ...

    def partition(self, timeline: str) -> TopicPartition:
        """Where the timeline lies now."""
        ...

    generation: int


class Clock(Protocol):
    """The hybrid logical clock of this edge."""

    def now(self) -> int:
        """Wall clock, ms."""
        ...

    def sent_at(self, user: int, seen: int | None = None) -> int:
        """For a record that `user` sends now: not behind the wall clock nor what he was shown or has sent here, and above
        what he says he has `seen` (cut to `seen_ahead_ms`)."""
        ...


class Progress(Protocol):
    """How far the log and persist are. One request per tick serves everyone that waited before it was sent."""

    async def end(self, timelines: Collection[str]) -> Mapping[str, int]:
        """E of each timeline: position(generation, end offset of its partition), asked for after this call was made."""
        ...

    async def reached(self, positions: Mapping[str, int], seconds: float) -> bool:
        """Wait until persist's upto is at or beyond each timeline's position; False when `seconds` ran out or MySQL is
        away."""
        ...

    async def caught_up(self, seconds: float) -> bool:
        """Wait until persist has stored all that was in the log when this was called; False when `seconds` ran out. Raises
        PartError."""
        ...


@dataclass(frozen=True)
class Context:
    """The ports of an edge; handlers get it first."""

    config: EdgeConfig
    hub: Hub
    publisher: Publisher
    clock: Clock
    progress: Progress
    database: Database
    memory: Memory
    log: LogAdmin
    #: Services of the business handlers by their type (built in `edge/services.py`): accounts, syncs, watches …
    services: Any
    #: What takes `send`, `ack` and `read` (sends.Intake).
    intake: Any = None


class Handler(NamedTuple):
    #: async; of FAST ones a plain function
    run: Callable[[Context, Any, Any], Awaitable[Frame | bytes | None] | Frame | bytes | None]
    order: Order
    before_login: bool = False


#: type → handler
Handlers = Mapping[type[Frame], Handler]
