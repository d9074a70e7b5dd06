"""Each record that a pass comes by, looked at: is it about the message? Fills the facts. Pure.

`forward` is called for every record of every topic from the message's time on, so what most of them fail comes first: a
search for bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from chat.message_id import MessageId, id_of
from chat.positions import position
from chat.protocol import decode_message
from chat.records import (
    EDGE_HEADER,
    Consumed,
    PresenceEvent,
    TopicPartition,
    Topics,
    decode_presence,
    decode_receipts,
    routed_by,
    unpack_deliveries,
)
from chat.tools.trace.facts import Ack, Copy, Dead, Facts, Handed


class Look:
    """`about`: the message's id, or, for a kind without one, None and then the first record's position counts."""

    def __init__(self, facts: Facts, topics: Topics, readers_known: bool) -> None:
        self._facts = facts
        self._topics = topics
        self._ways = {way.timeline: way for way in facts.ways}
        self._keys = {way.timeline.encode(): way for way in facts.ways}
        self._users = {f"u{user}".encode() for way in facts.ways for user in way.readers} if readers_known else None
        self.events: dict[int, PresenceEvent] = {}  # by offset
        about = facts.id
        if about is not None:
            self._needle = needle(about)
        else:
            self._needle = b'"pos":%d}' % next((way.pos or 0 for way in facts.ways), 0)

    def __call__(self, where: TopicPartition, record: Consumed) -> None:
        topic = where.topic
        if topic.startswith(self._topics.edge_prefix):
            if self._needle in record.value:
                self._delivery(topic.removeprefix(self._topics.edge_prefix), record)
        elif topic == self._topics.receipts:
            if self._users is None or record.key in self._users:
                self._receipt(record)
        elif topic == self._topics.presence:
            self.presence(record)
        elif topic == self._topics.dead:
            self.dead(record)
        elif self.is_message(where, record):
            self.message(where, record)

    def is_message(self, where: TopicPartition, record: Consumed) -> bool:
        """Nearly sure, and quick."""
        return record.key in self._keys and self._needle in record.value

    @staticmethod
    def sender(record: Consumed) -> int:
        """0: not to be read."""
        try:
            return decode_message(record.value).sender
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0

    # ------------------------------------------------------------------ each topic

    def message(self, where: TopicPartition, record: Consumed) -> bool:
        """True: it is a record of the message; it is noted once."""
        way = self._keys.get(record.key or b"")
        generation = self._topics.generation_of(where.topic)
        if way is None or generation is None:
            return False
        if self._facts.id is not None and id_of_value(record.value) != self._facts.id:
            return False
        pos = position(generation, record.offset)
        if all(copy.pos != pos for copy in way.copies):
            edge = next((v.decode(errors="replace") for k, v in record.headers if k == EDGE_HEADER), None)
            way.copies.append(Copy(pos, record.timestamp, edge, f"{where.topic}/{where.partition}"))
            way.copies.sort()
        return True

    def _delivery(self, edge: str, record: Consumed) -> None:
        try:
            batch = unpack_deliveries(record.value)
        except msgspec.DecodeError:
            return  # the edge has told it
        by = routed_by(record.headers)
        for one in batch.deliveries:
            way = self._ways.get(one.timeline)
            if way is None or self._needle not in one.payload:
                continue
            if self._facts.id is not None and id_of_value(one.payload) != self._facts.id:
                continue
            router, how, fetched = by if by else (None, None, None)
            way.handed.append(Handed(one.timeline, one.pos, edge, batch.incarnation, record.timestamp, router, how, fetched))

    def _receipt(self, record: Consumed) -> None:
        try:
            said = decode_receipts(record.value)
        except msgspec.DecodeError:
            return  # persist tells it
        for timeline, pos in said.acks.items():
            way = self._ways.get(timeline)
            if way is None or way.pos is None or pos < way.pos:
                continue
            key = (timeline, said.user, said.device)
            before = self._facts.acks.get(key)
            if before is None or before.at is None:
                self._facts.acks[key] = Ack(pos, record.timestamp)
            if self._users is None and said.user not in way.readers:
                way.readers.append(said.user)

    def presence(self, record: Consumed) -> None:
        try:
            event = decode_presence(record.value)
        except msgspec.DecodeError:
            return  # edges tell it
        if event.event in ("login", "logout"):
            self.events[record.offset] = event

    def dead(self, record: Consumed) -> None:
        """Its last headers say where it was found."""
        said = dict(record.headers[-4:])
        topic, partition, offset = said.get("topic", b"").decode(), said.get("partition", b""), said.get("offset", b"")
        generation = self._topics.generation_of(topic)
        if generation is None or not (partition.isdigit() and offset.isdigit()):
            return
        way = self._keys.get(record.key or b"")
        pos = position(generation, int(offset))
        if way is None or not (self._needle in record.value or way.pos == pos):
            return
        why = said.get("why", b"").decode(errors="replace")
        if all(dead.number != record.offset for dead in self._facts.dead):
            self._facts.dead.append(Dead(record.offset, way.timeline, pos, why))


def needle(message: MessageId) -> bytes:
    """What every record of it has in its value, and hardly another."""
    return b'"stream":%d,"seq":%d,' % (message.stream, message.seq)


def id_of_value(value: bytes) -> MessageId | None:
    """Of a record of a text, or of a delivery's payload."""
    try:
        return id_of(decode_message(value))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def newest(
    records: Iterable[tuple[TopicPartition, Consumed]], sender: int, conversations: Collection[str]
) -> MessageId | None:
    """The last text of a sender among records in order; `conversations`: as he names them; empty: any."""
    found: tuple[int, MessageId] | None = None
    for _, record in records:
        message = id_of_value(record.value)
        if message is None or message.sender != sender or (conversations and message.conversation not in conversations):
            continue
        if found is None or record.timestamp >= found[0]:
            found = (record.timestamp, message)
    return None if found is None else found[1]
