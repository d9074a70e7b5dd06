"""After presence events were missed: what they would have told of the sessions here is looked up, in bounded batches.

    tokens   a session whose token is no more was ended (logged out by an operator, a changed password)
    users    a banned one's sessions are closed
    blocks   who refuses what he sends

What only the event said cannot be looked up: a session elsewhere by the same device (that one is alive, ours is most
likely broken, and its heartbeat ends it), a `kick`, a `drain`. Who asked for the last two looks whether they are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.edge import tokens
from chat.edge.connection import Connection
from chat.edge.hub import EdgeHub
from chat.errors import Goodbye, PartError
from chat.persist.queries import places
from chat.ports import Database, Statement

AT_ONCE: Final = 200  # sessions in one look-up
AGAIN_S: Final = 5.0  # who was logging in when the events were missed is here by then

_log = structlog.get_logger()


class Recheck:
    def __init__(self, database: Database, hub: EdgeHub) -> None:
        self._database = database
        self._hub = hub
        self._wanted = trio.Event()

    def want(self) -> None:
        """All that are here now are to be looked up."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled. While MySQL is away it waits."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self._round()
            await trio.sleep(AGAIN_S)
            await self._round()

    async def _round(self) -> None:
        sessions, closed = list(self._hub.all_sessions()), 0
        backoff = Backoff(0.2, 5.0)
        while sessions:
            try:
                closed += await self._look_up(sessions[:AT_ONCE])
            except PartError as error:
                _log.warning("sessions not looked up yet", waiting=len(sessions), error=error.message)
                await trio.sleep(backoff.next())
            else:
                backoff.reset()
                del sessions[:AT_ONCE]
        _log.info("sessions looked up, since events were missed", closed=closed)

    async def _look_up(self, sessions: Sequence[Connection]) -> int:
        """How many were closed."""
        since = trio.current_time()
        users = sorted({session.user for session in sessions})
        hashes = list({session.token_hash for session in sessions if session.token_hash})
        people, blocks, *found = await self._database.read(
            [
                Statement(f"SELECT id FROM users WHERE id IN ({places(users)}) AND banned_at IS NULL", users),
                Statement(f"SELECT other, user FROM blocks WHERE other IN ({places(users)})", users),
                *([tokens.select(hashes)] if hashes else []),
            ]
        )
        welcome = {row[0] for row in people.rows}
        valid = {bytes(row[0]) for result in found for row in result.rows}
        blocked_by: dict[int, set[int]] = {user: set() for user in users}
        for user, by in blocks.rows:
            blocked_by[user].add(by)
        closed = 0
        for session in sessions:
            if session.ended:
                continue
            if session.user not in welcome:
                session.close(Goodbye.BANNED, "banned")
            elif session.token_hash and session.token_hash not in valid:
                session.close(Goodbye.LOGGED_OUT, "the session was ended")
            else:
                continue
            closed += 1
        for user in users:
            self._hub.set_blockers(user, frozenset(blocked_by[user]), since)
        return closed
