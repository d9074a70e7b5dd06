"""What a check found."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec import Struct, field

#: What makes a check fail, in the order in which it is told.
KINDS = (
    "lost", "late", "doubled", "disordered", "holes", "foreign", "before", "unaccepted", "refused", "history_lost",
    "history_doubled", "history_disordered", "history_holes", "history_foreign", "history_differs", "history_unread",
)  # fmt: skip
_EXAMPLES = 10  # findings told in words


class CheckReport(Struct, kw_only=True):
    seed: int
    users: int
    devices: int
    sent: int
    accepted: int
    shown: int  # on all devices
    seconds: float  # of traffic
    settled_s: float  # from the end of the traffic until all was there
    disconnects: int
    mean_ms: float  # from composing to showing
    max_ms: float
    longest_silence_s: float  # during the traffic, nobody was shown anything
    conversations: int  # histories compared
    wrong: dict[str, int] = field(default_factory=dict)  # finding → how often; see KINDS
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.wrong

    def found(self, findings: list[tuple[str, str]]) -> None:
        numbers = Counter(kind for kind, _ in findings)
        self.wrong = {kind: numbers[kind] for kind in KINDS if numbers[kind]}
        self.examples = [f"{kind}: {what}" for kind, what in findings[:_EXAMPLES]]

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def __str__(self) -> str:
        lines = [
            f"{self.users} users with {self.devices} devices, {self.seconds:.0f} s, seed {self.seed}: {self.sent} sent, "
            f"{self.accepted} accepted, {self.shown} shown, {self.disconnects} disconnects",
            f"shown after {self.mean_ms:.1f} ms on average, {self.max_ms:.0f} ms at most; longest silence "
            f"{self.longest_silence_s:.2f} s; all there {self.settled_s:.1f} s after it; {self.conversations} histories",
            ", ".join(f"{self.wrong.get(kind, 0)} {kind}" for kind in KINDS if kind in _ALWAYS or kind in self.wrong),
        ]
        lines += [f"  {example}" for example in self.examples]
        lines.append("ok" if self.ok else "FAILED")
        return "\n".join(lines)


_ALWAYS = frozenset({"lost", "doubled", "disordered", "holes", "history_lost", "history_doubled", "history_differs"})
