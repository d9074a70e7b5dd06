"""What is to be traced, from the words of the command line. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from chat.message_id import MessageId, parse_id

_POSITION: Final = re.compile(r"([ug][1-9][0-9]{0,15})@([1-9][0-9]{0,15})")
_USER: Final = re.compile(r"id:([1-9][0-9]{0,14})")
_GROUP: Final = re.compile(r"(?:#|group:)([1-9][0-9]{0,14})")


class At(NamedTuple):
    """The record at a position."""

    timeline: str
    pos: int


class Last(NamedTuple):
    """The newest text of a sender, to one other end or to any. Both as written: `alice`, `id:34`, `group:7`."""

    sender: str
    to: str | None


Asked = MessageId | At | Last


def asked(message: str | None, sender: str | None, to: str | None, position: str | None, last: bool) -> Asked:
    """Raises ValueError, in words for the person who wrote it."""
    if sum(x is not None for x in (message, sender, position)) != 1:
        raise ValueError("say one of: a message id; --position u42@POS; --from NAME --last")
    if (last or to is not None) and sender is None:
        raise ValueError("--last and --to go with --from")
    if message is not None:
        return parse_id(message)
    if position is not None:
        found = _POSITION.fullmatch(position)
        if found is None:
            raise ValueError(f"{position!r} is not a position; it is TIMELINE@POS, as in u42@1234 or g7@1234")
        return At(found[1], int(found[2]))
    if not last:
        raise ValueError("--from needs --last: which of all that was sent?")
    assert sender is not None
    return Last(sender, to)


def user_number(text: str) -> int | None:
    """The user who is named by number (`id:34`); None: by name. Names have no colon."""
    found = _USER.fullmatch(text)
    return int(found[1]) if found else None


def group_number(text: str) -> int | None:
    """The group that is named (`#7`, `group:7`); None: a user."""
    found = _GROUP.fullmatch(text)
    return int(found[1]) if found else None
