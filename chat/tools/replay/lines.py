"""A line a record. Pure: the same records give the same bytes.

For people: time (UTC), place (partition@offset), position, timeline, kind, who to whom, stream/seq, text. For machines: one
JSON object with everything, its fields in a fixed order.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct

from chat.message_id import id_of
from chat.positions import position
from chat.protocol import Message, decode_message
from chat.records import (
    Consumed,
    Delivery,
    TopicPartition,
    Topics,
    decode_presence,
    decode_receipts,
    routed_by,
    unpack_deliveries,
)
from chat.tools.logmerge import Sourced

_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DIM: Final = "\x1b[2m"
_CYAN: Final = "\x1b[36m"
_YELLOW: Final = "\x1b[33m"
_RED: Final = "\x1b[31m"
_OFF: Final = "\x1b[0m"

#: What is not UTF-8 appears in JSON as {"base64": …}.
Blob = str | dict[str, str]
Names = Mapping[str, str]  # u42, g7 → name


class Line(Struct, omit_defaults=True):
    """A record for machines. `time` in milliseconds, as the record has it."""

    topic: str
    partition: int
    offset: int
    time: int
    key: Blob | None = None
    headers: list[tuple[str, Blob]] = []
    position: int = 0
    id: str = ""
    names: dict[str, str] = {}
    value: Raw | Blob = ""


class DeliveryLine(Struct, omit_defaults=True):
    """A delivery of an edge's topic; `number` counts those of one record."""

    topic: str
    partition: int
    offset: int
    number: int
    time: int
    router: str = ""
    how: str = ""
    fetched: int = 0
    incarnation: int | None = None
    timeline: str = ""
    position: int = 0
    sent_at: int = 0
    kind: str = "text"
    receipt: bool = False
    id: str = ""
    names: dict[str, str] = {}
    payload: Raw | Blob = ""


class Lines:
    """`names`: what is known of them now; it may grow. `width`: characters of a text that are shown, 0: none of it."""

    def __init__(
        self,
        topics: Topics,
        *,
        as_json: bool,
        colours: bool = False,
        width: int = 80,
        names: Names | None = None,
        delivery_wanted: Callable[[Delivery], bool] | None = None,
    ) -> None:
        self._topics = topics
        self._json = as_json
        self._width = width
        self._names = names
        self._delivery_wanted = delivery_wanted
        self._encode = msgspec.json.Encoder().encode_lines
        self._second, self._second_text = -1, ""
        self._kinds: dict[str, Callable[[TopicPartition, Consumed], Iterable[Any]]] = {}
        dim, cyan, yellow, red, off = (_DIM, _CYAN, _YELLOW, _RED, _OFF) if colours else ("",) * 5
        self._dim, self._cyan, self._yellow, self._red, self._off = dim, cyan, yellow, red, off

    def batch(self, records: Sequence[Sourced]) -> bytes:
        """The lines of these records, each with its end."""
        if not self._json and records and self._generation(records[0][0].topic) is not None:
            return self._messages(records)
        lines: list[Any] = []
        for partition, record in records:
            lines += self._of(partition)(partition, record)
        if self._json:
            return self._encode(lines)
        return "".join(lines).encode("utf-8", "backslashreplace")

    # ---------------------------------------------------------------- which kind of topic

    def _generation(self, topic: str) -> int | None:
        return self._topics.generation_of(topic)

    def _of(self, partition: TopicPartition) -> Callable[[TopicPartition, Consumed], Iterable[Any]]:
        found = self._kinds.get(partition.topic)
        if found is None:
            found = self._kinds[partition.topic] = self._choose(partition.topic)
        return found

    def _choose(self, topic: str) -> Callable[[TopicPartition, Consumed], Iterable[Any]]:
        topics = self._topics
        if topic.startswith(topics.edge_prefix):
            return self._delivery_lines if self._json else self._deliveries
        if self._json:
            return self._message_line if topics.generation_of(topic) is not None else self._line
        if topics.generation_of(topic) is not None:
            return lambda p, r: [self._messages([(p, r)]).decode("utf-8", "surrogateescape")]
        return {topics.receipts: self._receipts, topics.presence: self._presence}.get(topic, self._dead)

    # ---------------------------------------------------------------- for people

    def _messages(self, records: Sequence[Sourced]) -> bytes:
        """The hot one: all of a batch in one loop."""
        lines: list[str] = []
        add = lines.append
        decode, width, names = decode_message, self._width, self._names
        dim, cyan, yellow, off = self._dim, self._cyan, self._yellow, self._off
        base: dict[str, int] = {}
        second, second_text = self._second, self._second_text
        for (topic, number), record in records:
            offset, stamp, key, value, _ = record
            first = base.get(topic)
            if first is None:
                first = base[topic] = position(self._generation(topic) or 0, 0)
            whole, ms = divmod(stamp, 1000)
            if whole != second:
                second, second_text = whole, _second(whole)
            place = f"{number}@{offset}"
            timeline = key.decode("ascii", "backslashreplace") if key else "-"
            try:
                message = decode(value)
            except _MALFORMED as error:
                what = f"{self._red}not a message: {error}{off} {_cut(value.decode('utf-8', 'backslashreplace'), width)}"
                add(f"{dim}{second_text}{ms:03}Z{off} {place:<10} {first + offset:>8} {cyan}{timeline:<6}{off} {what}\n")
                continue
            kind = message.kind
            if message.group is not None:
                other = f"g{message.group}"
            elif message.to is not None:
                other = f"u{message.to}"
            else:
                other = "-"
            sender = f"u{message.sender}"
            if names is not None:
                sender, other = names.get(sender, sender), names.get(other, other)
            ids = "-" if message.stream is UNSET else f"{message.stream}/{message.seq}"
            text = message.text
            if text is UNSET:
                said = "" if kind == "text" else _extra(message, width)
            else:
                said = text if len(text) <= width and text.isprintable() else _cut(text, width)
                if message.extra is not UNSET:
                    said = f"{said} {_extra(message, width)}"
            who = f"{sender}→{other}"
            shade = "" if kind == "text" else yellow
            add(
                f"{dim}{second_text}{ms:03}Z{off} {place:<10} {first + offset:>8} {cyan}{timeline:<6}{off} "
                f"{shade}{kind:<4}{off and shade and off} {who:<11} {dim}{ids:<18}{off} {said}\n"
            )
        self._second, self._second_text = second, second_text
        return "".join(lines).encode("utf-8", "backslashreplace")

    def _start(self, partition: TopicPartition, record: Consumed) -> str:
        """Time and place, where topics of one namespace may stand side by side."""
        topic = partition.topic.removeprefix(f"{self._topics.namespace}.")
        return f"{self._dim}{self.time(record.timestamp)}{self._off} {topic}/{partition.partition}@{record.offset}"

    def time(self, ms: int) -> str:
        whole, rest = divmod(ms, 1000)
        return f"{_second(whole)}{rest:03}Z"

    def _key(self, record: Consumed) -> str:
        return "-" if record.key is None else _plain(record.key.decode("utf-8", "backslashreplace"))

    def _receipts(self, partition: TopicPartition, record: Consumed) -> list[str]:
        try:
            receipts = decode_receipts(record.value)
        except _MALFORMED as error:
            return [self._broken(partition, record, f"not a receipt: {error}")]
        acks = " ".join(f"{_plain(timeline)}={pos}" for timeline, pos in receipts.acks.items())
        who = self._name(f"u{receipts.user}")
        return [f"{self._start(partition, record)} {self._cyan}{who}{self._off} {_plain(receipts.device)} has {acks}\n"]

    def _presence(self, partition: TopicPartition, record: Consumed) -> list[str]:
        try:
            event = decode_presence(record.value)
        except _MALFORMED as error:
            return [self._broken(partition, record, f"not a presence event: {error}")]
        fields = msgspec.to_builtins(event)
        rest = " ".join(f"{k}={_plain(str(v))}" for k, v in fields.items() if k not in ("event", "user", "at"))
        who = self._name(f"u{event.user}") if event.user else "-"
        start = self._start(partition, record)
        return [f"{start} {self._yellow}{event.event}{self._off} {self._cyan}{who}{self._off} {rest}".rstrip() + "\n"]

    def _deliveries(self, partition: TopicPartition, record: Consumed) -> list[str]:
        try:
            batch = unpack_deliveries(record.value)
        except msgspec.DecodeError as error:
            return [self._broken(partition, record, f"not deliveries: {error}")]
        routed = routed_by(record.headers)
        by = "by -" if routed is None else f"by {_plain(routed.router)} ({_plain(routed.how)})"
        to = "all" if batch.incarnation is None else str(batch.incarnation)
        start = f"{self._start(partition, record)} {by} to {to}"
        lines = []
        for delivery in batch.deliveries:
            if self._delivery_wanted is None or self._delivery_wanted(delivery):
                lines.append(f"{start} {self.delivery(delivery)}\n")
        return lines

    def delivery(self, delivery: Delivery) -> str:
        """One delivery, without where it was found."""
        place = f"{self._cyan}{_plain(delivery.timeline)}{self._off} {delivery.pos}"
        try:
            message = decode_message(delivery.payload)
        except _MALFORMED as error:
            return f"{place} {self._red}not a message: {error}{self._off}"
        prev = "?" if message.prev is None or message.prev is UNSET else message.prev
        return f"{place} after {prev} {self.said(message)}"

    def said(self, message: Message) -> str:
        """Kind, who to whom, stream/seq, text."""
        other = f"g{message.group}" if message.group is not None else "-" if message.to is None else f"u{message.to}"
        ids = "-" if message.stream is UNSET else f"{message.stream}/{message.seq}"
        text = "" if message.text is UNSET else _cut(message.text, self._width)
        extra = "" if message.extra is UNSET else _extra(message, self._width)
        who = f"{self._name(f'u{message.sender}')}→{self._name(other)}"
        return " ".join(filter(None, (message.kind, who, ids, text, extra)))

    def _dead(self, partition: TopicPartition, record: Consumed) -> list[str]:
        found = {name: _plain(value.decode("utf-8", "backslashreplace")) for name, value in record.headers}
        where = f"{found.get('topic', '?')}/{found.get('partition', '?')}@{found.get('offset', '?')}"
        text = _cut(record.value.decode("utf-8", "backslashreplace"), self._width)
        why = f"{self._red}{found.get('why', '')}{self._off}"
        start = self._start(partition, record)
        return [f"{start} {self._cyan}{self._key(record)}{self._off} from {where}: {why} {text}".rstrip() + "\n"]

    def _broken(self, partition: TopicPartition, record: Consumed, why: str) -> str:
        return f"{self._start(partition, record)} {self._key(record)} {self._red}{_plain(why)}{self._off}\n"

    def _name(self, of: str) -> str:
        return of if self._names is None else self._names.get(of, of)

    # ---------------------------------------------------------------- for machines

    def _line(self, partition: TopicPartition, record: Consumed) -> list[Line]:
        return [_line(partition, record)]

    def _message_line(self, partition: TopicPartition, record: Consumed) -> list[Line]:
        line = _line(partition, record)
        line.position = position(self._generation(partition.topic) or 0, record.offset)
        try:
            message = decode_message(record.value)
        except _MALFORMED:
            return [line]
        line.id = str(id_of(message) or "")
        line.names = self._names_of(message)
        return [line]

    def _delivery_lines(self, partition: TopicPartition, record: Consumed) -> Iterable[Line | DeliveryLine]:
        try:
            batch = unpack_deliveries(record.value)
        except msgspec.DecodeError:
            yield _line(partition, record)
            return
        routed = routed_by(record.headers)
        for number, delivery in enumerate(batch.deliveries):
            if self._delivery_wanted is not None and not self._delivery_wanted(delivery):
                continue
            timeline, pos, sent_at, kind, receipt, payload = delivery
            line = DeliveryLine(*partition, record.offset, number, record.timestamp)
            if routed is not None:
                line.router, line.how, line.fetched = routed
            line.incarnation = batch.incarnation
            line.timeline, line.position, line.sent_at = timeline, pos, sent_at
            line.kind, line.receipt = kind or "text", receipt
            line.payload = _raw(payload)
            try:
                message = decode_message(payload)
            except _MALFORMED:
                pass
            else:
                line.id = str(id_of(message) or "")
                line.names = self._names_of(message)
            yield line

    def _names_of(self, message: Message) -> dict[str, str]:
        if self._names is None:
            return {}
        found = {}
        for of in mentioned(message):
            if of in self._names:
                found[of] = self._names[of]
        return found


def mentioned(message: Message) -> list[str]:
    """Whom it names: u42, g7."""
    found = [f"u{message.sender}"]
    if message.to is not None:
        found.append(f"u{message.to}")
    if message.group is not None:
        found.append(f"g{message.group}")
    return found


def _line(partition: TopicPartition, record: Consumed) -> Line:
    headers: list[tuple[str, Blob]] = [(name, _blob(value)) for name, value in record.headers]
    key = None if record.key is None else _blob(record.key)
    return Line(*partition, record.offset, record.timestamp, key, headers, value=_raw(record.value))


def _raw(value: bytes) -> Raw | Blob:
    """JSON as it is, where it is that and lies in one line."""
    try:
        raw = msgspec.json.decode(value, type=Raw)
    except (msgspec.DecodeError, RecursionError):
        return _blob(value)
    if b"\n" in value or b"\r" in value or not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            return _blob(value)
        if b"\n" in value or b"\r" in value:
            return Raw(msgspec.json.format(value, indent=-1))
    return raw


def _blob(value: bytes) -> Blob:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _second(whole: int) -> str:
    try:
        return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    except (OverflowError, ValueError, OSError):
        return f"{whole}."


def _extra(message: Message, width: int) -> str:
    if message.extra is UNSET or not width:
        return ""
    return _cut(msgspec.json.encode(message.extra).decode("utf-8", "backslashreplace"), width)


def _cut(text: str, width: int) -> str:
    """In one line, harmless on a terminal, at most `width` characters."""
    shown = text if len(text) <= width else f"{text[: max(0, width - 1)]}…" if width else ""
    return _plain(shown)


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
