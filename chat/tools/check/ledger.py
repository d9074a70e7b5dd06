"""Everything that was sent, accepted and shown, and what follows from it. Pure.

A message is known by its **token**, the first word of its text: the checker's own name for it, which no resend and no new
number can change. What a device shows is compared with what the servers promise:

    lost          accepted, but not shown by a device that was there before it was composed
    doubled       shown twice by a device
    disordered    shown after one with a higher seq of its stream
    holes         shown though a lower seq of its stream was not
    foreign       shown, but never sent, or with another text, or in another conversation, or to somebody else
    before        sorted before what its sender had seen in the conversation when it was composed
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

MessageId = tuple[int, str, int, int]  # sender, conversation as its sender names it, stream, seq


@dataclass
class Sent:
    """One message. `conversation` as its sender names it; times in seconds of one clock."""

    token: str
    sender: int
    conversation: str
    text: str
    composed: float
    seen: int  # newest sent_at of the conversation that the composing device had shown
    accepted: float | None = None
    failed: str = ""  # refused for good
    device: str = ""  # whose outbox it is in
    forgotten: bool = False  # that device has lost its outbox: it may be accepted, or not


class Shown(NamedTuple):
    token: str
    stream: int
    seq: int
    sent_at: int
    at: float


@dataclass
class Screen:
    """What one device has shown. `since`: composed at or after it, a message has to be shown. 0: it was there before the
    first one; None: it is not ready yet, or gone for good."""

    user: int
    name: str
    since: float | None = None
    shown: list[Shown] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    next: dict[tuple[int, str, int], int] = field(default_factory=dict)  # (sender, conversation, stream) → seq
    newest: dict[str, int] = field(default_factory=dict)  # conversation → sent_at


class Finding(NamedTuple):
    kind: str
    what: str


class Ledger:
    def __init__(self, members: dict[int, Collection[int]]) -> None:
        """`members`: group → its users."""
        self.members = members
        self.sent: dict[str, Sent] = {}
        self.screens: list[Screen] = []
        self.findings: list[Finding] = []
        self.shown_at: list[float] = []
        self.delays: list[float] = []  # from composing to showing, on every device

    # -------------------------------------------------------------- what happens

    def screen(self, user: int, name: str, since: float | None) -> Screen:
        screen = Screen(user, name, since)
        self.screens.append(screen)
        return screen

    def compose(self, sent: Sent) -> None:
        self.sent[sent.token] = sent

    def accepted(self, token: str, at: float) -> None:
        sent = self.sent.get(token)
        if sent is not None and sent.accepted is None:
            sent.accepted = at

    def refused(self, token: str, why: str) -> None:
        sent = self.sent.get(token)
        if sent is not None:
            sent.failed = why

    def show(
        self, screen: Screen, *, text: str, sender: int, conversation: str, stream: int, seq: int, sent_at: int, at: float
    ) -> None:
        """A text that a device shows; `conversation` as the device's user names it."""
        token = text.split(" ", 1)[0]
        name = f"{screen.name} {conversation} {sender}/{stream}/{seq}"
        sent = self.sent.get(token)
        if not self._belongs(screen.user, sent, text, sender, conversation):
            self.find("foreign", f"{name}: {text[:40]!r}")
            return
        assert sent is not None
        if token in screen.tokens:
            self.find("doubled", f"{name}: {token}")
            return
        key = (sender, conversation, stream)
        expected = screen.next.get(key)
        if expected is None:
            expected = 0 if screen.since == 0 else seq  # one that came later begins where the stream's head was
        if seq != expected:
            self.find("holes" if seq > expected else "disordered", f"{name}: {token}, expected {expected}")
        screen.next[key] = max(expected, seq + 1)
        screen.tokens.add(token)
        screen.shown.append(Shown(token, stream, seq, sent_at, at))
        screen.newest[conversation] = max(screen.newest.get(conversation, 0), sent_at)
        self.shown_at.append(at)
        self.delays.append(at - sent.composed)
        if sent_at <= sent.seen:
            self.find("before", f"{name}: {token} sent at {sent_at}, though {sent.seen} was seen")

    # -------------------------------------------------------------- what follows

    def recipients(self, sent: Sent) -> Collection[int]:
        """The users whose devices have to show it; the sender's too."""
        number = int(sent.conversation[1:])
        return self.members[number] if sent.conversation[0] == "g" else {sent.sender, number}

    def due(self, screen: Screen) -> Iterable[Sent]:
        """What a device has to have shown by now."""
        if screen.since is None:
            return
        for sent in self.sent.values():
            if sent.accepted is not None and sent.composed >= screen.since and screen.user in self.recipients(sent):
                yield sent

    def missing(self) -> list[tuple[Screen, Sent]]:
        return [(screen, sent) for screen in self.screens for sent in self.due(screen) if sent.token not in screen.tokens]

    def forget(self, device: str) -> None:
        """The device has lost its outbox."""
        for sent in self.sent.values():
            if sent.device == device and sent.accepted is None:
                sent.forgotten = True

    def unaccepted(self) -> list[Sent]:
        return [s for s in self.sent.values() if s.accepted is None and not s.failed and not s.forgotten]

    def history(self, user: int, conversation: str, newest_first: list[tuple[str, int, int, int, int]]) -> None:
        """A whole conversation as stored for `user`: (text, sender, stream, seq, sent_at), newest first."""
        name = f"history of {user} with {conversation}"
        found: set[str] = set()
        following: dict[tuple[int, int], int] = {}
        last: int | None = None
        for text, sender, stream, seq, sent_at in newest_first:
            token = text.split(" ", 1)[0]
            if not self._belongs(user, self.sent.get(token), text, sender, conversation):
                self.find("history_foreign", f"{name}: {text[:40]!r}")
                continue
            if token in found:
                self.find("history_doubled", f"{name}: {token}")
            found.add(token)
            if last is not None and sent_at > last:
                self.find("history_disordered", f"{name}: {token} at {sent_at}, though {last} came before")
            last = sent_at
            after = following.get((sender, stream))
            if after is not None and seq != after - 1:
                kind = "history_holes" if seq < after else "history_disordered"
                self.find(kind, f"{name}: {sender}/{stream}/{seq} before {after}")
            following[sender, stream] = seq
        for (sender, stream), first in following.items():
            if first != 0:
                self.find("history_holes", f"{name}: {sender}/{stream} begins with {first}")
        for sent in self.sent.values():
            if sent.accepted is not None and self._of(user, sent) == conversation and sent.token not in found:
                self.find("history_lost", f"{name}: {sent.token}")
        for screen in self.screens:
            if screen.user == user:
                of_it = {s.token for s in screen.shown if self._of(user, self.sent[s.token]) == conversation}
                for token in sorted(of_it - found):
                    self.find("history_differs", f"{name}: {screen.name} has shown {token}")

    def conversations(self, user: int) -> set[str]:
        """Those of the user that something was sent in."""
        return {name for sent in self.sent.values() if (name := self._of(user, sent)) is not None}

    def complete(self, user: int, conversation: str, tokens: Collection[str]) -> bool:
        """Nothing that is accepted is missing among these."""
        return all(
            sent.token in tokens
            for sent in self.sent.values()
            if sent.accepted is not None and self._of(user, sent) == conversation
        )

    # -------------------------------------------------------------- bits

    def _of(self, user: int, sent: Sent) -> str | None:
        """The conversation as `user` names it; None: it is none of his."""
        if user not in self.recipients(sent):
            return None
        if sent.conversation[0] == "g" or sent.sender == user:
            return sent.conversation
        return f"u{sent.sender}"

    def _belongs(self, user: int, sent: Sent | None, text: str, sender: int, conversation: str) -> bool:
        return sent is not None and (sent.text, sent.sender, self._of(user, sent)) == (text, sender, conversation)

    def find(self, kind: str, what: str) -> None:
        self.findings.append(Finding(kind, what))
