"""What a `Client` tells its program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chat.client.connection import Ended
from chat.client.outbox import Entry
from chat.protocol import Message


@dataclass(frozen=True)
class Connected:
    """Logged in; what is in the outbox is under way, the timelines are being read."""

    edge: str
    user: int
    again: bool  # not for the first time


@dataclass(frozen=True)
class Disconnected:
    """`retry_in` seconds from now it is tried again; None: never by itself (replaced, logged out, banned, refused)."""

    ended: Ended
    retry_in: float | None


@dataclass(frozen=True)
class MessageShown:
    """A message, once and in order, stored before. `number` grows in the order of showing. `entry`: it is this client's
    own, whose text the program already has."""

    conversation: str
    message: Message
    timeline: str
    number: int
    entry: Entry | None


@dataclass(frozen=True)
class EntryChanged:
    """One of this client's own messages: `state` is sending, accepted, delivered, read or failed."""

    entry: Entry
    state: str
    why: str = ""


@dataclass(frozen=True)
class ConversationChanged:
    """Unread count or marks of a conversation."""

    conversation: str


@dataclass(frozen=True)
class GroupsChanged:
    """The user came into a group, or went: `joined` tells which."""

    group: int
    name: str
    joined: bool


@dataclass(frozen=True)
class PresenceChanged:
    users: Mapping[int, bool]  # user → on line


@dataclass(frozen=True)
class StartedOver:
    """Away for too long: what was missed in this timeline is to be read as history."""

    timeline: str


@dataclass(frozen=True)
class LocalHistorySaid:
    """Of the local history: something was damaged, cut off, or cannot be written. `loss`: what was there once is not
    readable; what the server has is read again."""

    text: str
    loss: bool


Event = (
    Connected
    | Disconnected
    | MessageShown
    | EntryChanged
    | ConversationChanged
    | GroupsChanged
    | PresenceChanged
    | StartedOver
    | LocalHistorySaid
)
