"""The messages that all cases use: texts of 100 bytes, between many users."""

from __future__ import annotations

from typing import Final

from chat.protocol import Message, encode
from chat.records import Consumed, Record

TEXT: Final = "A line of a hundred bytes, as long as the load's; it says nothing, and it is said again and again. " + "."
NOW: Final = 1_700_000_000_000
assert len(TEXT) == 100


def value(sender: int, to: int, seq: int, stream: int = 5) -> bytes:
    """The record's value, as an edge writes it."""
    return encode(Message(sender=sender, to=to, stream=stream, seq=seq, sent_at=NOW + seq, kind="text", text=TEXT))


def timeline_of(number: int, users: int) -> tuple[int, int, int]:
    """Of record `number`: whose timeline, from whom, which seq. Each user writes to the next one."""
    return number % users + 1, (number + 1) % users + 1, number // users


def record(number: int, users: int, base: int = 0) -> Record:
    owner, sender, seq = timeline_of(number, users)
    return Record(b"u%d" % owner, value(sender, owner, base + seq), NOW + number)


def consumed(number: int, users: int, base: int = 0) -> Consumed:
    """As it is read back; offsets count up with `number`, seqs from `base`."""
    key, data, at, headers = record(number, users, base)
    return Consumed(base * users + number, at, key, data, headers)
