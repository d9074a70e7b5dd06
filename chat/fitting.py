"""What fits into a timeline: the one judgement by which persist stores a record and a router shows it. Pure.

What a router showed but persist would not store could be a frame that reads as of another timeline: a client takes its
position for known, and drops the message that is really there. So neither looks closer than the other.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from chat.protocol import MEMBERSHIP_KINDS, Message, decode_message

LIMIT: Final = 2**53  # of every number
FRIEND_KINDS: Final = frozenset({"friend_request", "friend_accepted", "friend_rejected", "friend_removed"})
_TIMELINE: Final = re.compile(rb"[ug][1-9][0-9]{0,15}")
_KIND: Final = re.compile(r"[a-z_]{1,16}")


class Unfit(Exception):
    """Why a record is dead."""


class Said(NamedTuple):
    """What a notice says. `about`: whom it concerns, or 0: the other user of a friendship (in a user's timeline), who joined
    or left (in a group's). `mark`: of a `read` its sent_at, of a `delivered` its seq (`stream` is beside it).
    `conversation`: where it is not the one of `from`, `to` and `group`."""

    about: int = 0
    mark: int = 0
    stream: int | None = None
    conversation: str | None = None


class Fit(NamedTuple):
    """`said`: None for a text, whose stream, seq and text are there."""

    timeline: str
    message: Message
    said: Said | None


def owner_of(key: bytes | None) -> int | None:
    """The number of the user or the group; None: the key is no timeline."""
    if key is None or not _TIMELINE.fullmatch(key):
        return None
    owner = int(key[1:])
    return owner if owner < LIMIT else None


def fit(key: bytes | None, value: bytes) -> Fit:
    """Raises Unfit."""
    owner = owner_of(key)
    if key is None or owner is None:
        raise Unfit("the key is not a timeline")
    try:
        message = decode_message(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unfit(f"not a message: {error}") from None
    if value[-1:] != b"}" or message.prev is not UNSET or message.pos is not UNSET:
        raise Unfit("prev and pos cannot be written onto its end")
    sender, to, group = message.sender, message.to, message.group
    if not (0 < sender < LIMIT and 0 <= message.sent_at < LIMIT):
        raise Unfit("sender or sent_at out of range")
    if key[:1] == b"g":
        if group != owner or to is not None:
            raise Unfit("does not belong into this group's timeline")
    elif group is not None or to is None or owner not in (to, sender):
        raise Unfit("does not belong into this user's timeline")
    elif not 0 < to < LIMIT:
        raise Unfit("to out of range")
    if message.kind != "text":
        return Fit(key.decode(), message, _said(message, owner))
    stream, seq = message.stream, message.seq
    if stream is UNSET or seq is UNSET or message.text is UNSET:
        raise Unfit("a text without text, stream or seq")
    if not (0 <= stream < LIMIT and 0 <= seq < LIMIT):
        raise Unfit("stream or seq out of range")
    return Fit(key.decode(), message, None)


def _said(message: Message, owner: int) -> Said:
    kind = message.kind
    if not _KIND.fullmatch(kind):
        raise Unfit("not a kind")
    in_own = message.group is None
    if kind in FRIEND_KINDS and in_own:
        return Said(about=message.to if message.to and message.sender == owner else message.sender)
    if kind in MEMBERSHIP_KINDS and not in_own:
        return Said(about=_number(message, "user", message.sender, least=1))
    if kind == "read" and in_own:
        group = _number(message, "group", 0)
        return Said(mark=_number(message, "sent_at"), conversation=f"g{group}" if group else None)
    if kind == "delivered" and in_own:
        other = _number(message, "to", message.sender, least=1)
        stream, seq = _number(message, "stream"), _number(message, "seq")
        return Said(stream=stream, mark=seq, conversation=f"u{other}")
    return Said()


def _number(message: Message, name: str, default: int | None = None, *, least: int = 0) -> int:
    """A whole number in `extra`."""
    extra = {} if message.extra is UNSET else message.extra
    value = extra.get(name, default)
    if type(value) is not int or not least <= value < LIMIT:
        raise Unfit(f"{message.kind} without a valid {name}")
    return value
