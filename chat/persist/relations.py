"""Who is whose friend, who is in which group: what notices change. Pure.

Both are kept from the log alone, in its order, so any process that applies it comes to the same state. A notice that does
not fit the state (a join of who is in, an answer to no request) has no effect: that makes a repeated one harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: (kind, sent by the owner of the row) → state before → state after; what is not here has no effect. None: no row.
#: `asked`: the owner has asked the other; `asking`: the other asks him.
_FRIENDS: Final[dict[tuple[str, bool], dict[str | None, str | None]]] = {
    ("friend_request", True): {None: "asked", "asking": "friend"},
    ("friend_request", False): {None: "asking", "asked": "friend"},
    ("friend_accepted", True): {"asking": "friend"},
    ("friend_accepted", False): {"asked": "friend"},
    ("friend_rejected", True): {"asked": None, "asking": None},
    ("friend_rejected", False): {"asked": None, "asking": None},
    ("friend_removed", True): {"asked": None, "asking": None, "friend": None},
    ("friend_removed", False): {"asked": None, "asking": None, "friend": None},
}


def befriend(state: str | None, kind: str, by_owner: bool) -> str | None:
    """The state of a user's row about another after a notice in his timeline."""
    return _FRIENDS[kind, by_owner].get(state, state)


class Stay(NamedTuple):
    """A membership interval of the group's timeline; `end` and `left_at` (ms) None: still in."""

    group: int
    user: int
    start: int
    joined_at: int
    end: int | None
    left_at: int | None = None


@dataclass
class Groups:
    """The members now of the groups that are concerned, and what changed since it was loaded."""

    inside: dict[int, dict[int, Stay]]  # group → user → his open stay
    owners: dict[int, int]
    begun: dict[tuple[int, int, int], Stay] = field(default_factory=dict)  # new rows by (group, user, start)
    ended: list[Stay] = field(default_factory=list)  # rows that were there before, to be given their end
    new_owners: dict[int, int] = field(default_factory=dict)

    def join(self, group: int, user: int, pos: int, sent_at: int) -> None:
        inside = self.inside.setdefault(group, {})
        if user not in inside:
            stay = inside[user] = Stay(group, user, pos, sent_at, None)
            self.begun[group, user, pos] = stay

    def leave(self, group: int, user: int, pos: int, sent_at: int) -> None:
        """Where the owner leaves, who is in for the longest time owns; where nobody is left, nothing changes."""
        inside = self.inside.setdefault(group, {})
        stay = inside.pop(user, None)
        if stay is None:
            return
        key = (group, user, stay.start)
        if key in self.begun:
            self.begun[key] = stay._replace(end=pos, left_at=sent_at)
        else:
            self.ended.append(stay._replace(end=pos, left_at=sent_at))
        if self.owners.get(group) == user and inside:
            self.owners[group] = self.new_owners[group] = min(inside.values(), key=lambda s: s.start).user
