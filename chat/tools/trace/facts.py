"""What is found out about one message. Pure.

A message has one **way** for each timeline that it is in: a direct one two (the recipient's, the sender's own), a group's or
a note to oneself one. Times are milliseconds since 1970; each is by the clock of the process that wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from chat.message_id import MessageId


class Copy(NamedTuple):
    """A record of the message in the log. `edge`: where it came in; None: the record does not say."""

    pos: int
    sent_at: int
    edge: str | None
    place: str  # topic/partition


class Handed(NamedTuple):
    """A delivery of it in an edge's topic: a router has handed it to that edge. `incarnation` None: to all edges, each picks
    out its own. `router`, `how` and `fetched`: see records.Routed."""

    timeline: str
    pos: int
    edge: str
    incarnation: int | None
    at: int
    router: str | None
    how: str | None
    fetched: int | None


class Session(NamedTuple):
    """`since` None: its log-in was not found. `until` None: it has not ended, as far as is known; `ended` says how."""

    user: int
    device: str
    session: str
    edge: str
    incarnation: int
    since: int | None
    until: int | None = None
    ended: str = ""

    def open_at(self, at: int) -> bool:
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


class Ack(NamedTuple):
    """A device has the timeline up to `pos`. `at` None: known from MySQL alone, which does not say when."""

    pos: int
    at: int | None


class Slice(NamedTuple):
    """Of the archive. `sure`: the message itself is in it; else the index says that its stretch covers the position."""

    number: int
    file: str
    at: int
    sure: bool = False


class Dead(NamedTuple):
    """A record that persist could not store. `number`: as `chat admin dead list` shows it."""

    number: int
    timeline: str
    pos: int
    why: str


class Device(NamedTuple):
    """As MySQL knows it."""

    user: int
    device: str
    label: str
    created_at: int
    seen_at: int


@dataclass
class Way:
    """`role`: to (the recipient's timeline), own (the sender's), group, self (a note to oneself).

    `passed`, `routed`: persist, the routers have come past its first record; None: not known. `behind`, `unrouted`: by how
    many records they are short of it."""

    timeline: str
    role: str
    copies: list[Copy] = field(default_factory=list)
    row: int | None = None  # position of the row in MySQL
    archived: int | None = None  # position of the row in the archive, read there
    passed: bool | None = None
    behind: int = 0
    routed: bool | None = None
    unrouted: int = 0
    handed: list[Handed] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)  # users who are to get it

    @property
    def pos(self) -> int | None:
        """Of the first record."""
        return self.copies[0].pos if self.copies else self.stored_at

    @property
    def stored_at(self) -> int | None:
        return self.archived if self.row is None else self.row

    @property
    def stored(self) -> bool:
        return self.stored_at is not None


@dataclass
class Facts:
    """`acks`: (timeline, user, device) → the first that covers it. `searched_to`: the topics were read up to this time
    (None: to their ends). `unknown`: what could not be found out, in words."""

    now: int
    id: MessageId | None = None
    kind: str = "text"
    sender: int = 0
    sent_at: int | None = None
    ways: list[Way] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    devices: dict[int, list[Device]] | None = None  # None: MySQL was away
    sessions: list[Session] = field(default_factory=list)
    presence_from: int | None = None  # log-ins before this time were not looked at
    acks: dict[tuple[str, int, str], Ack] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)  # users who have read it
    dead: list[Dead] = field(default_factory=list)
    searched_to: int | None = None
    mysql: bool = True
    unknown: list[str] = field(default_factory=list)

    def name(self, user: int) -> str:
        return self.names.get(user, f"user {user}")

    @property
    def main(self) -> Way | None:
        """The way to those who are to get it."""
        return self.ways[0] if self.ways else None

    @property
    def accepted(self) -> int | None:
        """When it came in first."""
        times = [copy.sent_at for way in self.ways for copy in way.copies]
        return min(times, default=self.sent_at)

    def label(self, user: int, device: str) -> str:
        """How a person calls the device."""
        for one in (self.devices or {}).get(user, ()):
            if one.device == device and one.label:
                return one.label
        return device
