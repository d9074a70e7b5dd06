"""`group_create` asked for again makes no second group.

A group has its number from MySQL before its notices are in the log; where Kafka does not answer, the client hears
`unavailable` and asks again, here or at another edge. So what was asked for (name, members, openness, by which device) is
kept with the number, in the same transaction, until the notices are in the log. The same request meanwhile gets the same
group, unless its creator has left it since.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from chat.errors import BadData, Unavailable
from chat.ports import Database, Statement

#: A request that ended in `unavailable` is asked again within this.
UNKNOWN_MS: Final = 600_000
PURGED_AT_ONCE: Final = 1_000
#: The same request may come several times at one moment: each round one of them is made, and maybe answered.
TRIES: Final = 8


class Asked(NamedTuple):
    """`key`: what the request is known by."""

    owner: int
    key: bytes


def asked_for(owner: int, device: str, name: str, members: Collection[int], is_open: bool) -> Asked:
    said = msgspec.json.encode([device, name, sorted(members), is_open])
    return Asked(owner, sha256(said).digest())


async def group_for(database: Database, asked: Asked, *, name: str, is_open: bool, now: int) -> tuple[int, bool]:
    """The number of the group; True where it is there from an earlier try. Raises PartError, Unavailable."""
    for _ in range(TRIES):
        earlier = await _earlier(database, asked, now)
        if earlier is not None and not earlier.left:
            return earlier.group, True
        try:
            over = 0 if earlier is None else earlier.group
            return await _made(database, asked, name, is_open, now, over=over), False
        except BadData as error:
            if not error.duplicate:
                raise  # else the same was asked at this moment: it is there, or has been answered since
    raise Unavailable("mysql", "the same group is being made many times over; try again")


async def _made(database: Database, asked: Asked, name: str, is_open: bool, now: int, *, over: int) -> int:
    """A new group's number. `over`: a group that an earlier one of these requests got, and that counts no more."""
    _, made, _ = await database.write(
        [
            Statement(
                "DELETE FROM group_requests WHERE owner = %s AND request = %s AND (expires_at <= %s OR chat_group = %s)",
                (*asked, now, over),
            ),
            Statement(
                "INSERT INTO chat_groups (name, open, owner, created_at) VALUES (%s, %s, %s, %s)",
                (name, int(is_open), asked.owner, now),
            ),
            Statement(
                "INSERT INTO group_requests (owner, request, chat_group, expires_at) VALUES (%s, %s, LAST_INSERT_ID(), %s)",
                (*asked, now + UNKNOWN_MS),
            ),
        ]
    )
    return made.last_id


class _Earlier(NamedTuple):
    """`left`: the creator was in, and is no more."""

    group: int
    left: bool


async def _earlier(database: Database, asked: Asked, now: int) -> _Earlier | None:
    stays = "SELECT 1 FROM members m WHERE m.chat_group = r.chat_group AND m.user = r.owner"
    (result,) = await database.read(
        [
            Statement(
                f"SELECT chat_group, EXISTS ({stays}) AND NOT EXISTS ({stays} AND m.to_position IS NULL)"
                " FROM group_requests r WHERE owner = %s AND request = %s AND expires_at > %s",
                (*asked, now),
            )
        ]
    )
    return _Earlier(int(result.rows[0][0]), bool(result.rows[0][1])) if result.rows else None


async def ever_in(database: Database, group: int) -> set[int]:
    """Who is or was in the group, as far as persist has applied it."""
    (result,) = await database.read([Statement("SELECT DISTINCT user FROM members WHERE chat_group = %s", (group,))])
    return {row[0] for row in result.rows}


def told(asked: Asked, group: int) -> Statement:
    """The outcome is known, and is being told: the same once more is another group."""
    return Statement("DELETE FROM group_requests WHERE owner = %s AND request = %s AND chat_group = %s", (*asked, group))


def purge(now: int) -> Statement:
    """Some of those that are over."""
    return Statement("DELETE FROM group_requests WHERE expires_at <= %s LIMIT %s", (now, PURGED_AT_ONCE))
