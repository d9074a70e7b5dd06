"""The SQL of log-ins: what is read for many at once, and what a device's first log-in writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from chat.edge import tokens as token_sql
from chat.persist.history import History
from chat.persist.queries import OFFSETS, places
from chat.ports import Result, Statement

DeviceKey = tuple[int, str]  # user, device


class Token(NamedTuple):
    user: int
    device: str
    expires_at: int


class User(NamedTuple):
    name: str
    banned: bool


class People(NamedTuple):
    """`joins`: user → group → where he joined. `devices`: when it was last seen, ms. `upto`: how far a timeline is
    stored."""

    tokens: Mapping[bytes, Token]
    users: Mapping[int, User]
    joins: Mapping[int, Mapping[int, int]]
    blocked_by: Mapping[int, Sequence[int]]
    devices: Mapping[DeviceKey, int]
    cursors: Mapping[DeviceKey, Mapping[str, int]]
    upto: Callable[[str], int]


def statements(keys: Collection[DeviceKey], hashes: Collection[bytes]) -> list[Statement]:
    """All that log-ins of these devices need; with the tokens that only Redis has spoken for yet."""
    users = sorted({u for u, _ in keys})
    pairs = " OR ".join(["(user = %s AND device = %s)"] * len(keys))
    args = [a for key in sorted(keys) for a in key]
    return [
        OFFSETS,  # first: what joined or was stored since is above it
        Statement(f"SELECT id, name, banned_at IS NOT NULL FROM users WHERE id IN ({places(users)})", users),
        groups(users),
        Statement(f"SELECT other, user FROM blocks WHERE other IN ({places(users)})", users),
        Statement(f"SELECT user, device, seen_at FROM devices WHERE {pairs}", args),
        Statement(f"SELECT user, device, timeline, position FROM cursors WHERE {pairs}", args),
        *([token_sql.select(hashes)] if hashes else []),
    ]


def groups(users: Collection[int]) -> Statement:
    """(user, group, from_position) of those who are in now."""
    return Statement(
        f"SELECT user, chat_group, from_position FROM members WHERE user IN ({places(users)}) AND to_position IS NULL",
        tuple(users),
    )


def people(results: Sequence[Result], history: History) -> People:
    """From the results of `statements`."""
    offsets, users, members, blocks, devices, cursors, *tokens = results
    blocked_by: dict[int, list[int]] = {}
    for user, by in blocks.rows:
        blocked_by.setdefault(user, []).append(by)
    positions: dict[DeviceKey, dict[str, int]] = {}
    for user, device, timeline, position in cursors.rows:
        positions.setdefault((user, device), {})[timeline] = position
    return People(
        tokens=tokens_of(tokens[0]) if tokens else {},
        users={r[0]: User(r[1], bool(r[2])) for r in users.rows},
        joins=joins_of(members),
        blocked_by=blocked_by,
        devices={(r[0], r[1]): r[2] for r in devices.rows},
        cursors=positions,
        upto=history.ends(offsets),
    )


def tokens_of(result: Result) -> dict[bytes, Token]:
    return {bytes(r[0]): Token(*r[1:]) for r in result.rows}


def joins_of(result: Result) -> dict[int, dict[int, int]]:
    joins: dict[int, dict[int, int]] = {}
    for user, group, position in result.rows:
        of_user = joins.setdefault(user, {})
        of_user[group] = max(of_user.get(group, 0), position)
    return joins


class Used(Protocol):
    """A device at its log-in."""

    @property
    def new_device(self) -> bool: ...
    @property
    def cursors(self) -> Mapping[str, int]: ...


def devices_used(used: Mapping[DeviceKey, Used], now: int, label: str = "") -> list[Statement]:
    """Note the devices; new ones keep the cursors that they are told. An empty label leaves what is there."""
    keys = sorted(used)  # in order: no deadlocks between batches
    relabel = "" if not label else ", label = %s"
    made = [
        Statement(
            "INSERT INTO devices (user, device, label, created_at, seen_at) VALUES "
            + ", ".join(["(%s, %s, %s, %s, %s)"] * len(keys))
            + f" ON DUPLICATE KEY UPDATE seen_at = %s{relabel}",
            [*(a for user, device in keys for a in (user, device, label, now, now)), now, *([label] if label else [])],
        )
    ]
    rows: list[tuple[Any, ...]] = [
        (*key, timeline, position)
        for key in keys
        if used[key].new_device
        for timeline, position in sorted(used[key].cursors.items())
    ]
    if rows:
        made.append(
            Statement(
                "INSERT INTO cursors (user, device, timeline, position) VALUES "
                + ", ".join(["(%s, %s, %s, %s)"] * len(rows))
                + " ON DUPLICATE KEY UPDATE position = cursors.position",
                [a for row in rows for a in row],
            )
        )
    return made
