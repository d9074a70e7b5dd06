"""The id of a message as people see it, copy it and paste it: `12/u34/20719/5`. Pure.

Sender, conversation as the sender names it (`u34`: to user 34; `g7`: to group 7), stream, seq.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from msgspec import UNSET

from chat.protocol import Message

_ID: Final = re.compile(r"([1-9][0-9]{0,15})/([ug][1-9][0-9]{0,15})/([0-9]{1,16})/([0-9]{1,16})")
_LIMIT: Final = 2**53


class MessageId(NamedTuple):
    sender: int
    conversation: str
    stream: int
    seq: int

    def __str__(self) -> str:
        return f"{self.sender}/{self.conversation}/{self.stream}/{self.seq}"

    @property
    def to(self) -> int | None:
        return int(self.conversation[1:]) if self.conversation[0] == "u" else None

    @property
    def group(self) -> int | None:
        return int(self.conversation[1:]) if self.conversation[0] == "g" else None

    @property
    def timelines(self) -> tuple[str, ...]:
        """Where its records are: the recipient's and then the sender's, or the only one."""
        own = f"u{self.sender}"
        return (self.conversation,) if self.conversation[0] == "g" or self.conversation == own else (self.conversation, own)


def parse_id(text: str) -> MessageId:
    """Raises ValueError, in words for the person who wrote it."""
    found = _ID.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a message id; it is SENDER/CONVERSATION/STREAM/SEQ, as in 12/u34/20719/5")
    sender, stream, seq = int(found[1]), int(found[3]), int(found[4])
    if max(sender, stream, seq, int(found[2][1:])) >= _LIMIT:
        raise ValueError(f"{text!r} is not a message id: a number in it is too large")
    return MessageId(sender, found[2], stream, seq)


def id_of(message: Message) -> MessageId | None:
    """None: a kind that has no id, or no conversation."""
    if message.kind != "text" or message.stream is UNSET or message.seq is UNSET:
        return None
    if message.group is not None:
        return MessageId(message.sender, f"g{message.group}", message.stream, message.seq)
    if message.to is None:
        return None
    return MessageId(message.sender, f"u{message.to}", message.stream, message.seq)
