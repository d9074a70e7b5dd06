"""From consumed records to checked entries, or to the dead. Pure.

What is checked (messages by `chat.fitting`, receipts here) is what rows, marks and SQL rely on; a record that fails is dead
with the reason, never half used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from chat.fitting import LIMIT, Unfit, fit, owner_of
from chat.positions import position
from chat.protocol import Message
from chat.records import RECEIPT_HEADER, Consumed, Receipts, TopicPartition, conversation_of, decode_receipts

_DEVICE: Final = re.compile(r"[a-z0-9-]{8,64}")


class Entry(NamedTuple):
    """A record of a timeline. `about` and `mark`: as `chat.fitting.Said` has them."""

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


def parse_messages(into: Parsed, partition: TopicPartition, generation: int, records: Iterable[Consumed]) -> None:
    for record in records:
        try:
            into.entries.append(_entry(partition, generation, record))
        except Unfit as why:
            into.dead.append(Dead(partition, record, str(why)))


def parse_receipts(into: Parsed, partition: TopicPartition, records: Iterable[Consumed]) -> None:
    for record in records:
        try:
            receipts = decode_receipts(record.value)
            _need(0 < receipts.user < LIMIT, "user out of range")
            _need(_DEVICE.fullmatch(receipts.device), "not a device id")
            for timeline, pos in receipts.acks.items():
                _need(owner_of(timeline.encode()), "acknowledges what is no timeline")
                _need(0 <= pos < LIMIT, "position out of range")
            into.receipts.append(receipts)
        except Unfit as why:
            into.dead.append(Dead(partition, record, str(why)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            into.dead.append(Dead(partition, record, f"not a receipt: {error}"))


def _need(condition: object, why: str) -> None:
    if not condition:
        raise Unfit(why)


def _entry(partition: TopicPartition, generation: int, record: Consumed) -> Entry:
    timeline, message, said = fit(record.key, record.value)
    conversation = conversation_of(timeline, message.sender, message.to, message.group)
    receipt = bool(record.headers) and any(name == RECEIPT_HEADER for name, _ in record.headers)
    pos = position(generation, record.offset)
    if said is None:
        stream, seq = message.stream, message.seq
        assert stream is not UNSET
        assert seq is not UNSET
        return Entry(partition, record, timeline, pos, conversation, message, stream, seq, receipt)
    return Entry(
        partition, record, timeline, pos, said.conversation or conversation, message, said.stream, None, receipt,
        said.about, said.mark,
    )  # fmt: skip
