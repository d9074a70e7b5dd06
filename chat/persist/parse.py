"""From consumed records to checked entries, or to the dead. Pure.

What is checked here is what rows, marks and SQL rely on; a record that fails is dead with the reason, never half used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from chat.positions import position
from chat.protocol import MEMBERSHIP_KINDS, Message, decode_message
from chat.records import RECEIPT_HEADER, Consumed, Receipts, TopicPartition, conversation_of, decode_receipts

_LIMIT: Final = 2**53
_TIMELINE: Final = re.compile(rb"[ug][1-9][0-9]{0,15}")
_KIND: Final = re.compile(r"[a-z_]{1,16}")
_DEVICE: Final = re.compile(r"[a-z0-9-]{8,64}")
FRIEND_KINDS: Final = frozenset({"friend_request", "friend_accepted", "friend_rejected", "friend_removed"})


class Entry(NamedTuple):
    """A record of a timeline. `about`: whom a notice concerns, or 0: the other user of a friendship (in a user's timeline),
    who joined or left (in a group's). `mark`: of a `read` its sent_at, of a `delivered` its seq (`stream` is beside it)."""

    partition: TopicPartition
    record: Consumed
    timeline: str
    pos: int
    conversation: str
    message: Message
    stream: int | None
    seq: int | None
    receipt: bool
    about: int = 0
    mark: int = 0


class Dead(NamedTuple):
    partition: TopicPartition
    record: Consumed
    why: str


class Parsed(NamedTuple):
    """The records of one or more partitions, each partition's in its order."""

    entries: list[Entry]
    receipts: list[Receipts]
    dead: list[Dead]


class _Unfit(Exception):
    """Why a record is dead."""


def parse_messages(into: Parsed, partition: TopicPartition, generation: int, records: Iterable[Consumed]) -> None:
    for record in records:
        try:
            into.entries.append(_entry(partition, generation, record))
        except _Unfit as why:
            into.dead.append(Dead(partition, record, str(why)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            into.dead.append(Dead(partition, record, f"not a message: {error}"))


def parse_receipts(into: Parsed, partition: TopicPartition, records: Iterable[Consumed]) -> None:
    for record in records:
        try:
            receipts = decode_receipts(record.value)
            _need(0 < receipts.user < _LIMIT, "user out of range")
            _need(_DEVICE.fullmatch(receipts.device), "not a device id")
            for timeline, pos in receipts.acks.items():
                _need(_TIMELINE.fullmatch(timeline.encode()), "acknowledges what is no timeline")
                _need(0 <= pos < _LIMIT, "position out of range")
            into.receipts.append(receipts)
        except _Unfit as why:
            into.dead.append(Dead(partition, record, str(why)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            into.dead.append(Dead(partition, record, f"not a receipt: {error}"))


def _need(condition: object, why: str) -> None:
    if not condition:
        raise _Unfit(why)


def _entry(partition: TopicPartition, generation: int, record: Consumed) -> Entry:
    key, value = record.key, record.value
    if key is None or not _TIMELINE.fullmatch(key):
        raise _Unfit("the key is not a timeline")
    timeline = key.decode()
    message = decode_message(value)
    if value[-1:] != b"}" or message.prev is not UNSET or message.pos is not UNSET:
        raise _Unfit("prev and pos cannot be written onto its end")
    if not (0 < message.sender < _LIMIT and 0 <= message.sent_at < _LIMIT):
        raise _Unfit("sender or sent_at out of range")
    owner = int(timeline[1:])
    to, group = message.to, message.group
    if (to is not None and not 0 < to < _LIMIT) or (group is not None and not 0 < group < _LIMIT):
        raise _Unfit("to or group out of range")
    if timeline[0] == "g" and (group != owner or to is not None):
        raise _Unfit("does not belong into this group's timeline")
    conversation = conversation_of(timeline, message.sender, to, group)
    receipt = bool(record.headers) and any(name == RECEIPT_HEADER for name, _ in record.headers)
    pos = position(generation, record.offset)
    if message.kind != "text":
        return _notice(Entry(partition, record, timeline, pos, conversation, message, None, None, receipt), owner)
    stream, seq = message.stream, message.seq
    if stream is UNSET or seq is UNSET or message.text is UNSET:
        raise _Unfit("a text without text, stream or seq")
    if not (0 <= stream < _LIMIT and 0 <= seq < _LIMIT):
        raise _Unfit("stream or seq out of range")
    if timeline[0] == "u" and (group is not None or to is None or owner not in (to, message.sender)):
        raise _Unfit("does not belong into this user's timeline")
    return Entry(partition, record, timeline, pos, conversation, message, stream, seq, receipt)


def _notice(entry: Entry, owner: int) -> Entry:
    message, kind = entry.message, entry.message.kind
    if not _KIND.fullmatch(kind):
        raise _Unfit("not a kind")
    in_own = entry.timeline[0] == "u"
    if kind in FRIEND_KINDS and in_own:
        if message.to is None or owner not in (message.sender, message.to):
            raise _Unfit("a friendship of others")
        return entry._replace(about=message.to if message.sender == owner else message.sender)
    if kind in MEMBERSHIP_KINDS and not in_own:
        return entry._replace(about=_said(message, "user", message.sender, least=1))
    if kind == "read" and in_own:
        group = _said(message, "group", 0)
        conversation = f"g{group}" if group else entry.conversation
        return entry._replace(conversation=conversation, mark=_said(message, "sent_at"))
    if kind == "delivered" and in_own:
        other = _said(message, "to", message.sender, least=1)
        stream, seq = _said(message, "stream"), _said(message, "seq")
        return entry._replace(conversation=f"u{other}", stream=stream, mark=seq)
    return entry


def _said(message: Message, name: str, default: int | None = None, *, least: int = 0) -> int:
    """A whole number in `extra`."""
    extra = {} if message.extra is UNSET else message.extra
    value = extra.get(name, default)
    if type(value) is not int or not least <= value < _LIMIT:
        raise _Unfit(f"{message.kind} without a valid {name}")
    return value
