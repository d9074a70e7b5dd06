"""Numbers of users and groups are given out once, by MySQL's AUTO_INCREMENT: also after an older dump was loaded.

The dump does not know of accounts and groups that were made after it, and MySQL would give their numbers to others, who
would then read what was written to them. But the log knows them, and persist reads all of it that came after the dump. So
before a batch is stored, numbers in it that MySQL has never given out are passed over.

A row with the number is inserted and deleted again in one transaction: that moves AUTO_INCREMENT on and never back, and asks
for no right to change tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from chat.errors import BadData
from chat.persist.parse import Parsed
from chat.ports import Database, Statement

#: A recipient counts only where he is no further above those that are sure: while MySQL is away an edge takes his number as
#: the sender gives it. A sender, or who acknowledges, has logged in.
LEAD: Final = 1_000_000

log = structlog.get_logger()


class Highest(NamedTuple):
    user: int = 0
    group: int = 0


def highest(parsed: Parsed, above: Highest) -> Highest:
    """The highest numbers that the records mention, and at least `above`. Pure."""
    sure, addressed, group = above.user, above.user, above.group
    for entry in parsed.entries:
        message = entry.message
        sure = max(sure, message.sender)
        if message.to is not None:
            addressed = max(addressed, message.to)
        if message.group is not None:
            group = max(group, message.group)
    for receipts in parsed.receipts:
        sure = max(sure, receipts.user)
    user = max(sure, addressed) if addressed <= sure + LEAD else sure
    return Highest(user, group if group <= above.group + LEAD else above.group)


class Numbers:
    """What is known to have been given out, of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._given = Highest()

    async def see(self, parsed: Parsed) -> None:
        """To be called before the records are stored. Raises PartError; may be cancelled, and repeated."""
        if highest(parsed, self._given) == self._given:
            return
        users, groups = await self._database.read(
            [Statement("SELECT COALESCE(MAX(id), 0) FROM users"), Statement("SELECT COALESCE(MAX(id), 0) FROM chat_groups")]
        )
        given = Highest(max(self._given.user, users.rows[0][0]), max(self._given.group, groups.rows[0][0]))
        found = highest(parsed, given)
        if found.user > given.user:
            await self._pass_over("users", found.user, given.user)
        if found.group > given.group:
            await self._pass_over("chat_groups", found.group, given.group)
        self._given = found

    async def _pass_over(self, table: str, number: int, given: int) -> None:
        columns, values = ("password", "''") if table == "users" else ("owner", "0")
        try:
            await self._database.write(
                [
                    Statement(
                        f"INSERT INTO {table} (id, name, created_at, {columns}) VALUES (%s, %s, 0, {values})",
                        (number, f"!{number}"),
                    ),
                    Statement(f"DELETE FROM {table} WHERE id = %s", (number,)),
                ]
            )
        except BadData as error:
            if not error.duplicate:  # it was made this moment
                raise
            return
        log.warning(
            "the log mentions numbers that MySQL does not have: was an older dump loaded? They are not given out again",
            table=table, highest_there=given, highest_mentioned=number,
        )  # fmt: skip
