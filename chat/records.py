"""Topics, keys and record layouts. Pure.

What lies in which topic:

    <ns>.messages    key timeline, value the JSON frame of a `message` without `prev` and `pos`; timestamp = sent_at
    <ns>.receipts    key user, value a Receipts as JSON
    <ns>.presence    key user, value a PresenceEvent as JSON; also what edges must hear of each other's users
    <ns>.edge.<e>    no key, value a DeliveryBatch in msgpack; one partition
    <ns>.dead        key as found, value as found, headers say where and why

`ns` is the namespace, `chat` unless several clusters share one Kafka. Headers of a message record: `k` its kind where
that is not `text`; `r` (empty) where the sender asked for a receipt; `e` the edge where a text came in, on the sender's own
record of it (a group's only one). Header of a batch of deliveries: `by`, see `Routed`. Both serve `chat trace` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple
from zlib import crc32

import msgpack
import msgspec
from msgspec import UNSET, Struct, UnsetType

from chat.protocol import Extra, Message, encode

KIND_HEADER: Final = "k"
RECEIPT_HEADER: Final = "r"
EDGE_HEADER: Final = "e"
ROUTED_HEADER: Final = "by"
Headers = tuple[tuple[str, bytes], ...]


class Topics:
    """The names of the topics of one namespace."""

    def __init__(self, namespace: str = "chat") -> None:
        self.namespace = namespace
        self.messages = f"{namespace}.messages"  # of generation 0
        self.receipts = f"{namespace}.receipts"
        self.presence = f"{namespace}.presence"
        self.dead = f"{namespace}.dead"
        self.edge_prefix = f"{namespace}.edge."

    def edge(self, edge: str) -> str:
        return self.edge_prefix + edge

    def generation_topic(self, generation: int) -> str:
        """The topic of the messages of a generation."""
        return f"{self.messages}.{generation}" if generation else self.messages

    def generation_of(self, topic: str) -> int | None:
        """The generation of a topic of messages; None: it is none."""
        if topic == self.messages:
            return 0
        number = topic.removeprefix(f"{self.messages}.")
        return int(number) if number != topic and number.isascii() and number.isdigit() and number[0] != "0" else None


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Record(NamedTuple):
    """What is produced. `timestamp` in milliseconds."""

    key: bytes | None
    value: bytes
    timestamp: int
    headers: Headers = ()


class Consumed(NamedTuple):
    """What is read back."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: Headers


#: Upper bounds of what the record format adds to a batch, to a record, and to a header.
BATCH_OVERHEAD: Final = 61
RECORD_OVERHEAD: Final = 36
HEADER_OVERHEAD: Final = 10


def size_of(record: Record) -> int:
    """At most this many bytes in a batch."""
    size = RECORD_OVERHEAD + len(record.value) + (len(record.key) if record.key else 0)
    for name, value in record.headers:
        size += HEADER_OVERHEAD + 4 * len(name) + len(value)
    return size


def cut(records: Sequence[Record], max_batch_bytes: int) -> list[Sequence[Record]]:
    """Pieces, in order, each of which fits a batch. A record that is too large for any has a piece to itself."""
    pieces: list[Sequence[Record]] = []
    start, size = 0, BATCH_OVERHEAD
    for index, record in enumerate(records):
        more = size_of(record)
        if index > start and size + more > max_batch_bytes:
            pieces.append(records[start:index])
            start, size = index, BATCH_OVERHEAD
        size += more
    if start < len(records):
        pieces.append(records[start:])
    return pieces


def user_timeline(user: int) -> str:
    return f"u{user}"


def group_timeline(group: int) -> str:
    return f"g{group}"


def partition_of(timeline: str, partitions: int) -> int:
    """CRC-32 of the timeline, modulo. Fixed for a generation: the number of partitions never changes within one."""
    return crc32(timeline.encode()) % partitions


class TimelineRecord(NamedTuple):
    """A record on its way into a timeline."""

    timeline: str
    record: Record


def message_records(message: Message, timelines: Iterable[str], *, receipt: bool = False) -> list[TimelineRecord]:
    """One record of `message` (encoded once) for each of `timelines`."""
    value = encode(message)
    headers: Headers = () if message.kind == "text" else ((KIND_HEADER, message.kind.encode()),)
    if receipt:
        headers += ((RECEIPT_HEADER, b""),)
    return [TimelineRecord(t, Record(t.encode(), value, message.sent_at, headers)) for t in timelines]


def notice(
    kind: str, *, sender: int, sent_at: int, to: int | None = None, group: int | None = None,
    text: str | UnsetType = UNSET, extra: Extra | UnsetType = UNSET,
) -> Message:  # fmt: skip
    """A message of a kind other than text: no stream, no seq."""
    return Message(sender=sender, to=to, group=group, sent_at=sent_at, kind=kind, text=text, extra=extra)


def conversation_of(timeline: str, sender: int, to: int | None, group: int | None) -> str:
    """The conversation of a message as the owner of `timeline` names it: `u<other>` or `g<group>`. Joined notices that
    lie in a user's own timeline without `group` count as a conversation with their sender."""
    if group is not None:
        return f"g{group}"
    own = int(timeline[1:])
    if to is None or (to == own and timeline[0] == "u"):
        return f"u{sender}"
    return f"u{to}"


# ------------------------------------------------------------------ deliveries


class Delivery(NamedTuple):
    """One message for one timeline, on its way to an edge. `payload` is the whole frame, `prev` and `pos` included.
    `kind` is None for text. `receipt`: the sender asked to be told of the delivery."""

    timeline: str
    pos: int
    sent_at: int
    kind: str | None
    receipt: bool
    payload: bytes


class DeliveryBatch(NamedTuple):
    """`incarnation` is the run of the edge that is meant; None: whoever reads it picks out its own (Redis was away). One
    without deliveries says that some were passed over: all sessions are to sync."""

    incarnation: int | None
    deliveries: Sequence[Delivery]


class Routed(NamedTuple):
    """Who made a batch of deliveries. `how`: `redis` (locations were looked up), `all` (Redis was away: to every edge).
    `fetched`: when the router had the records, in milliseconds by its clock; the batch's timestamp: when it had decided."""

    router: str
    how: str
    fetched: int


def routed_headers(routed: Routed) -> Headers:
    return ((ROUTED_HEADER, f"{routed.router} {routed.how} {routed.fetched}".encode()),)


def routed_by(headers: Headers) -> Routed | None:
    """None: a router that does not say, or said nothing that is understood."""
    for name, value in headers:
        if name == ROUTED_HEADER:
            words = value.decode(errors="replace").split(" ")
            if len(words) == 3 and words[2].isascii() and words[2].isdigit():
                return Routed(words[0], words[1], int(words[2]))
    return None


#: In the set of `missed_key`: too many to be named.
EVERY_TIMELINE: Final = "*"


def missed_key(prefix: str, edge: str) -> str:
    """In Redis, a set: timelines whose deliveries to this edge were passed over, since its topic could not be written."""
    return f"{prefix}missed:{edge}"


def splice(value: bytes, prev: int | None, pos: int) -> bytes:
    """The frame that recipients get: the record's value with `prev` and `pos` written onto its end."""
    return b'%b,"prev":%b,"pos":%d}' % (value[:-1], b"null" if prev is None else b"%d" % prev, pos)


def splice_pos(value: bytes, pos: int) -> bytes:
    """The frame as it appears in answers: without `prev`."""
    return b'%b,"pos":%d}' % (value[:-1], pos)


_pack: Callable[[DeliveryBatch], bytes] = msgpack.Packer(use_bin_type=True).pack
_unpack = msgspec.msgpack.Decoder(DeliveryBatch).decode


def pack_deliveries(batch: DeliveryBatch) -> bytes:
    return _pack(batch)


def unpack_deliveries(value: bytes) -> DeliveryBatch:
    """Raises msgspec.DecodeError."""
    return _unpack(value)


# ------------------------------------------------------------------ receipts, presence


class Receipts(Struct, omit_defaults=True):
    """What a device has acknowledged: timeline → position. Cumulative: only the highest counts."""

    user: int
    device: str
    acks: dict[str, int]


class PresenceEvent(Struct, omit_defaults=True, kw_only=True):
    """Something about a user that all edges hear.

    login, logout    a session began, ended; a later login of the same device replaces an earlier session
    end_sessions     close the user's sessions, but not `session` (a password was changed, a ban)
    blocked, unblocked   `user`'s sends to `by` are refused, are not
    drain            (`user` 0) the edge with this incarnation is to drain and end
    """

    event: Literal["login", "logout", "end_sessions", "blocked", "unblocked", "drain"]
    user: int
    at: int
    edge: str = ""
    incarnation: int = 0
    session: str = ""
    device: str = ""
    by: int = 0
    code: int = 0


_receipts = msgspec.json.Decoder(Receipts).decode
_presence = msgspec.json.Decoder(PresenceEvent).decode


def receipts_record(receipts: Receipts, now: int) -> Record:
    return Record(user_timeline(receipts.user).encode(), encode(receipts), now)


def decode_receipts(value: bytes) -> Receipts:
    """Raises msgspec.DecodeError."""
    return _receipts(value)


def presence_record(event: PresenceEvent) -> Record:
    return Record(user_timeline(event.user).encode(), encode(event), event.at)


def decode_presence(value: bytes) -> PresenceEvent:
    """Raises msgspec.DecodeError."""
    return _presence(value)


def dead_headers(topic: str, partition: int, offset: int, why: str, **more: Any) -> Headers:
    """Where a dead record was found and why it is dead."""
    said = {"topic": topic, "partition": partition, "offset": offset, "why": why, **more}
    return tuple((k, str(v).encode()) for k, v in said.items())
