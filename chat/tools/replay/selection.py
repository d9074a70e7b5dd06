"""Which records: what was asked for, as a test of one record. Pure; `now` is an argument, in milliseconds.

The test looks at the key's bytes first, then for bytes in the value, and decodes only what may fit: most of a large range is
passed over for a fraction of what decoding costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from chat.message_id import MessageId, id_of
from chat.protocol import Message, decode_message
from chat.records import Consumed, Delivery, TopicPartition, conversation_of, unpack_deliveries

Wanted = Callable[[TopicPartition, Consumed], bool]

_RELATIVE: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?")
_CLOCK: Final = re.compile(r"\d\d?:\d\d(?::\d\d(?:\.\d+)?)?")
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Which(NamedTuple):
    """What was asked for; all of it must fit. `user`: what lies in his timeline or is from him. `conversation`: as its
    owner `user` names it."""

    user: int | None = None
    group: int | None = None
    conversation: str | None = None
    message: MessageId | None = None

    @property
    def everything(self) -> bool:
        return self == Which()


def parse_time(text: str, now: int) -> int:
    """Milliseconds. `2h`, `1d12h`, `90s`: so long before `now`. `2026-03-01T09:30`, `2026-03-01`, `09:30` (today): UTC where
    no zone is said. A number of 12 digits or more: milliseconds since 1970. Raises ValueError with what is possible."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) >= 12:
        return int(text)
    found = _RELATIVE.fullmatch(text)
    if text and found:
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        ago = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return now - round(ago.total_seconds() * 1000)
    try:
        if _CLOCK.fullmatch(text):
            today = datetime.fromtimestamp(now / 1000, UTC).date().isoformat()
            text = f"{today}T{text:0>5}"
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: say 2h, 1d12h or 90s (ago), 2026-03-01T09:30, 2026-03-01 or 09:30 (UTC), or milliseconds"
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return round(when.timestamp() * 1000)


def in_messages(which: Which) -> Wanted | None:
    """For topics of messages; None: all are wanted."""
    if which.everything:
        return None
    judge = _judge(which)
    keys, needles = _keys(which), _needles(which)
    user = which.user
    own = None if user is None else b"u%d" % user
    sent = None if user is None else b'"from":%d,' % user
    from_anywhere = keys is None

    def wanted(_: TopicPartition, record: Consumed) -> bool:
        key, value = record[2], record[3]
        if keys is not None and key not in keys:
            return False
        if from_anywhere and key == own:
            return True
        if sent is not None and key != own and sent not in value:
            return False
        for needle in needles:
            if needle not in value:
                return False
        if key is None:
            return False
        try:
            return judge(key.decode("ascii", "replace"), decode_message(value))
        except _MALFORMED:
            return keys is not None and not needles  # it lies where was asked, whatever it is

    return wanted


def in_deliveries(which: Which) -> Wanted | None:
    """For topics of edges: records with a delivery that is wanted."""
    if which.everything:
        return None
    one = delivery_wanted(which)
    keys = _keys(which)
    marks = None if keys is None else [bytes([0xA0 | len(key)]) + key for key in keys]  # as msgpack writes a short name

    def wanted(_: TopicPartition, record: Consumed) -> bool:
        value = record.value
        if marks is not None and not any(mark in value for mark in marks):
            return False
        try:
            return any(map(one, unpack_deliveries(value).deliveries))
        except msgspec.DecodeError:
            return False

    return wanted


def delivery_wanted(which: Which) -> Callable[[Delivery], bool]:
    """For one delivery of a batch."""
    judge = _judge(which)
    keys = _keys(which)
    names = None if keys is None else {key.decode() for key in keys}

    def wanted(delivery: Delivery) -> bool:
        if names is not None and delivery.timeline not in names:
            return False
        try:
            return judge(delivery.timeline, decode_message(delivery.payload))
        except _MALFORMED:
            return False

    return wanted


def by_key(which: Which) -> Wanted | None:
    """For topics whose key is a user, and for the dead, whose key is as it was found."""
    if which.everything:
        return None
    keys = _keys(which)
    if keys is None:
        keys = frozenset([f"u{which.user}".encode()])
    return lambda _, record: record.key in keys


def _keys(which: Which) -> frozenset[bytes] | None:
    """Where it can lie; None: anywhere."""
    keys: set[str] | None = None
    if which.message is not None:
        keys = set(which.message.timelines)
    if which.group is not None:
        keys = {f"g{which.group}"} if keys is None else keys & {f"g{which.group}"}
    if which.conversation is not None:
        home = which.conversation if which.conversation[0] == "g" else f"u{which.user}"
        keys = {home} if keys is None else keys & {home}
    return None if keys is None else frozenset(key.encode() for key in keys)


def _needles(which: Which) -> list[bytes]:
    """Bytes that a value must have."""
    if which.message is None:
        return []
    return [b'"stream":%d' % which.message.stream, b'"seq":%d' % which.message.seq]


def _judge(which: Which) -> Callable[[str, Message], bool]:
    user, conversation, message_id = which.user, which.conversation, which.message
    own = f"u{user}"
    direct = conversation if conversation and conversation[0] == "u" else None

    def judge(timeline: str, message: Message) -> bool:
        if message_id is not None and id_of(message) != message_id:
            return False
        if direct is not None:
            return timeline == own and conversation_of(timeline, message.sender, message.to, message.group) == direct
        return user is None or timeline == own or message.sender == user

    return judge
