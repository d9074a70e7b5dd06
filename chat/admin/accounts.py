"""Users and groups as an operator finds and changes them: SQL, and tokens in Redis."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from chat.edge.accounts import may_be_name
from chat.edge.tokens import Tokens
from chat.errors import PartAway, SetupError
from chat.persist.queries import places
from chat.ports import Database, Statement

BY_NUMBER: Final = "id:"
_USER: Final = (
    "SELECT u.id, u.name, u.created_at, u.banned_at, (SELECT COUNT(*) FROM devices d WHERE d.user = u.id),"
    " (SELECT MAX(seen_at) FROM devices d WHERE d.user = u.id), (SELECT COUNT(*) FROM tokens t WHERE t.user = u.id)"
    " FROM users u"
)


class Person(NamedTuple):
    """Times in milliseconds. `seen_at`: the last log-in or, about hourly, resume."""

    user: int
    name: str
    created_at: int
    banned_at: int | None
    devices: int
    seen_at: int | None
    tokens: int


class Group(NamedTuple):
    group: int
    name: str
    open: bool
    owner: int
    owner_name: str | None
    members: int
    created_at: int


class Member(NamedTuple):
    user: int
    name: str | None
    joined_at: int
    owner: bool


async def find_user(database: Database, who: str) -> Person:
    """By whole name, or as id:42. Raises SetupError, PartError."""
    number = number_of(who)
    if number is not None:
        where, argument = "u.id = %s", number
    elif may_be_name(who):
        where, argument = "u.name = %s", who  # type: ignore[assignment]
    else:
        raise SetupError(f"{who!r} cannot be a user's name; by number a user is {BY_NUMBER}42")
    (result,) = await database.read([Statement(f"{_USER} WHERE {where}", (argument,))])
    if not result.rows:
        raise SetupError(f"there is no user {who}; `chat admin users find` lists those whose name begins so")
    return Person(*result.rows[0])


async def find_users(database: Database, begin: str, limit: int) -> list[Person]:
    """Those whose name begins so, by name; or the one with this number."""
    number = number_of(begin)
    if number is not None:
        where, argument = "u.id = %s", str(number)
    elif begin and not may_be_name(begin):
        return []
    else:
        where, argument = "u.name LIKE %s", begin.replace("_", "\\_") + "%"
    (result,) = await database.read([Statement(f"{_USER} WHERE {where} ORDER BY u.name LIMIT %s", (argument, limit))])
    return [Person(*row) for row in result.rows]


def number_of(who: str) -> int | None:
    """id:42 → 42. Names have no colon."""
    digits = who.removeprefix(BY_NUMBER)
    return int(digits) if digits != who and digits.isascii() and digits.isdigit() and len(digits) < 17 else None


async def ban(database: Database, user: int, now: int) -> None:
    """From now on no log-in of the user succeeds. A log-in that has checked the password already either has its token in
    the table by now, or finds him banned (`tokens.insert_if`)."""
    await database.write([Statement("UPDATE users SET banned_at = COALESCE(banned_at, %s) WHERE id = %s", (now, user))])


async def unban(database: Database, user: int) -> None:
    await database.write([Statement("UPDATE users SET banned_at = NULL WHERE id = %s", (user,))])


async def end_tokens(database: Database, tokens: Tokens, user: int) -> int:
    """Bury and delete all tokens of a user; how many. Buried first: their hashes are known only as long as their rows are
    there. Raises PartAway where Redis does not take the tombstones: run it again."""
    (result,) = await database.read([Statement("SELECT hash FROM tokens WHERE user = %s", (user,))])
    hashes = [bytes(row[0]) for row in result.rows]
    if not hashes:
        return 0
    if not await tokens.bury(hashes):
        raise PartAway(
            "redis", "it does not take tombstones, so tokens would still let in while MySQL is away; run this again later"
        )
    await database.write([Statement(f"DELETE FROM tokens WHERE hash IN ({places(hashes)})", hashes)])
    # A log-in between the two may have read an old row and written it back: the tombstone stands in its way (SET NX).
    return len(hashes)


async def groups(database: Database, begin: str, limit: int) -> list[Group]:
    """By number; `begin`: only those whose name begins so."""
    pattern = "".join("\\" + c if c in "%_\\" else c for c in begin) + "%"
    (result,) = await database.read([Statement(f"{_GROUP} WHERE g.name LIKE %s ORDER BY g.id LIMIT %s", (pattern, limit))])
    return [_group(row) for row in result.rows]


async def members(database: Database, group: int) -> tuple[Group, list[Member]]:
    """Those who are in now, the longest first. Raises SetupError."""
    found, inside = await database.snapshot(
        [
            Statement(f"{_GROUP} WHERE g.id = %s", (group,)),
            Statement(
                "SELECT m.user, u.name, m.joined_at FROM members m LEFT JOIN users u ON u.id = m.user"
                " WHERE m.chat_group = %s AND m.to_position IS NULL ORDER BY m.from_position",
                (group,),
            ),
        ]
    )
    if not found.rows:
        raise SetupError(f"there is no group {group}")
    one = _group(found.rows[0])
    return one, [Member(user, name, at, user == one.owner) for user, name, at in inside.rows]


_GROUP: Final = (
    "SELECT g.id, g.name, g.open, g.owner, u.name,"
    " (SELECT COUNT(*) FROM members m WHERE m.chat_group = g.id AND m.to_position IS NULL), g.created_at"
    " FROM chat_groups g LEFT JOIN users u ON u.id = g.owner"
)


def _group(row: tuple[Any, ...]) -> Group:
    return Group(row[0], row[1], bool(row[2]), *row[3:])
