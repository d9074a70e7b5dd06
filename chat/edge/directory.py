"""Which users exist, and (where strangers may not write) who is whose friend: what `send` must know, kept off its way.

Positive answers are kept in bounded tables. On a miss the sender waits for a look-up; look-ups gather while one is under
way. While MySQL is away the accept path depends on Kafka alone: a user counts as existing, unless his number is far above
the highest that MySQL has told of. (An edge that was started since was told of none; others have registered since.) A text
to somebody who does not exist harms nobody: it lies in a timeline that nobody reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import structlog
import trio

from chat.errors import ChatError, PartError, Unavailable
from chat.ports import Database, Statement

_ENTRIES = 200_000
_FRIENDS_S = 30.0  # a friendship is believed this long
_REGISTERED_SINCE = 100_000  # users, at most, since MySQL was asked last
_WAIT_S = 1.0  # a sender waits this long; MySQL may take longer to be found away
_IN_ONE = 500

_log = structlog.get_logger()


class _Round:
    def __init__(self) -> None:
        self.users: set[int] = set()
        self.pairs: set[tuple[int, int]] = set()
        self.done = trio.Event()
        self.error: PartError | None = None


class Directory:
    def __init__(self, database: Database, *, strangers: bool, entries: int = _ENTRIES) -> None:
        self.strangers = strangers
        self._database = database
        self._entries = entries
        self._users: dict[int, None] = {}
        self._friends: dict[tuple[int, int], float] = {}  # (user, other) → believed until
        self._highest = 0  # as MySQL has told; 0: it has not yet
        self._next = _Round()
        self._wake = trio.Event()

    def add(self, users: Iterable[int]) -> None:
        """These exist."""
        table = self._users
        for user in users:
            if user not in table:
                if len(table) >= self._entries:
                    del table[next(iter(table))]
                table[user] = None

    def known(self, user: int) -> bool:
        return user in self._users

    def friends(self, user: int, other: int, now: float) -> bool:
        return self._friends.get((user, other), 0.0) > now

    def unfriended(self, user: int, other: int) -> None:
        self._friends.pop((user, other), None)
        self._friends.pop((other, user), None)

    async def find(self, user: int) -> None:
        """The user exists. Raises ChatError `not_found`, Unavailable."""
        asked = await self._ask({user}, set())
        if user in self._users:
            return
        if asked.done.is_set() and asked.error is None:
            raise ChatError("not_found", "no such user")
        if self._highest and user > self._highest + _REGISTERED_SINCE:
            raise Unavailable("mysql")
        self.add([user])

    async def find_friends(self, user: int, other: int) -> None:
        """The two are friends. Raises ChatError `forbidden`, Unavailable."""
        asked = await self._ask(set(), {(user, other)})
        if self.friends(user, other, trio.current_time()):
            return
        if asked.error is not None or not asked.done.is_set():
            raise Unavailable("mysql")
        raise ChatError("forbidden", "only friends may write to each other here")

    async def _ask(self, users: set[int], pairs: set[tuple[int, int]]) -> _Round:
        asked = self._next
        asked.users |= users
        asked.pairs |= pairs
        self._wake.set()
        with trio.move_on_after(_WAIT_S):
            await asked.done.wait()
        return asked

    async def run(self) -> None:
        """Look up what was asked for, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            asked, self._next = self._next, _Round()
            try:
                await self._look_up(asked)
            except PartError as error:
                _log.warning("users not looked up", error=error.message)
                asked.error = error
            asked.done.set()
            if asked.error is not None:
                await trio.sleep(random.uniform(0.1, 0.3))

    async def _look_up(self, asked: _Round) -> None:
        statements = [Statement("SELECT MAX(id) FROM users")]
        users, pairs = sorted(asked.users), sorted(asked.pairs)
        for i in range(0, len(users), _IN_ONE):
            some = users[i : i + _IN_ONE]
            sql = f"SELECT id FROM users WHERE id IN ({_places(some)}) AND id NOT IN (SELECT user FROM deleted_users)"
            statements.append(Statement(sql, some))
        first_pair = len(statements)
        for i in range(0, len(pairs), _IN_ONE):
            part = pairs[i : i + _IN_ONE]
            places = ", ".join(["(%s, %s)"] * len(part))
            sql = f"SELECT user, other FROM friends WHERE state = 'friend' AND (user, other) IN ({places})"
            statements.append(Statement(sql, [n for pair in part for n in pair]))
        results = await self._database.read(statements)
        self._highest = max(self._highest, results[0].rows[0][0] or 0)
        for result in results[1:first_pair]:
            self.add(row[0] for row in result.rows)
        until = trio.current_time() + _FRIENDS_S
        if len(self._friends) > self._entries:
            self._friends.clear()
        for result in results[first_pair:]:
            self._friends.update(((row[0], row[1]), until) for row in result.rows)


def _places(values: list[int]) -> str:
    return ", ".join(["%s"] * len(values))
