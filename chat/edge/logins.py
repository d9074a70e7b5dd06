"""What a log-in needs to know, for all that wait at once: one Redis pipeline, one MySQL read.

12,000 clients that come back within 20 s are 600 a second; looked up one by one they would cost a round trip and seven
statements each. Where MySQL is away, a token's entry in Redis answers (groups, blocks and cursors as they were when it was
written); such users are looked up again when MySQL is back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import structlog
import trio

from chat.edge import login_sql, tokens
from chat.edge.batcher import Batcher
from chat.edge.context import Hub, Progress
from chat.edge.guard import Lane
from chat.edge.login_sql import DeviceKey, People
from chat.edge.tokens import Entry, Read, Tokens
from chat.errors import ChatError, PartAway, PartError, Unavailable
from chat.persist.history import History
from chat.records import group_timeline, user_timeline

log = structlog.get_logger()

AT_ONCE: Final = 200  # log-ins in one look-up
BATCHES: Final = 2
WAITING: Final = 20_000
LONGEST_S: Final = 20.0
FRESH_MS: Final = 3_600_000  # an entry in Redis is written anew after this, and a device's time of last use
UNCHECKED: Final = 200_000  # users whose groups are to be looked up again; more are not remembered
CAUGHT_UP_S: Final = 10.0  # persist is waited for so long at a time


class Banned(Exception):
    """The user is banned."""


class Resuming(NamedTuple):
    token_hash: bytes
    device: str


class Entering(NamedTuple):
    """By password, which was right."""

    user: int
    device: str


class Found(NamedTuple):
    user: int
    name: str
    device: str
    expires_at: int  # of the token; 0 where there is none yet
    new_device: bool
    groups: frozenset[int]
    blocked_by: frozenset[int]
    cursors: Mapping[str, int]
    cached: bool = False  # as Redis kept it; MySQL is away


class Logins:
    def __init__(self, database: Lane, history: History, *, tokens: Tokens, hub: Hub, now: Callable[[], int]) -> None:
        self._guard = database.guard
        self._database = database
        self._history = history
        self._tokens = tokens
        self._hub = hub
        self._now = now
        self._batcher = Batcher[Resuming | Entering, Found](
            self._serve, size=AT_ONCE, room=WAITING, workers=BATCHES, seconds=LONGEST_S, part="mysql"
        )
        self.progress: Progress | None = None  # set before it runs
        self._unchecked: set[int] = set()
        self._some_unchecked = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_again)
            await self._batcher.run(task_status=task_status)

    async def find(self, asked: Resuming | Entering) -> Found:
        """Raises token_expired, Banned, Unavailable."""
        return await self._batcher.ask(asked)

    # ------------------------------------------------------------------ a batch

    async def _serve(self, batch: Sequence[Resuming | Entering]) -> list[Found | Exception]:
        now = self._now()
        hashes = list({a.token_hash for a in batch if isinstance(a, Resuming)})
        cached = await self._cached(hashes)
        try:
            stored = await self._stored([h for h in hashes if cached.get(h) is None])
            keys = {k for a in batch if (k := self._key(a, cached, stored)) is not None}
            checked = [h for h in hashes if h not in stored and isinstance(cached.get(h), Read)]
            results = await self._database.read(login_sql.statements(keys, checked)) if keys else []
        except PartError as error:
            log.info("logins_from_cache", count=len(batch), why=error.message)
            return [self._from_cache(a, cached, now) for a in batch]
        if not keys:
            return [ChatError("token_expired", "unknown or ended token") for _ in batch]
        people = login_sql.people(results, self._history)
        stored |= people.tokens
        answers = [self._answer(a, cached, stored, people, now) for a in batch]
        return await self._settle(batch, answers, cached, people, now)

    async def _cached(self, hashes: Sequence[bytes]) -> dict[bytes, Read | Literal["gone"] | None]:
        if not hashes:
            return {}
        try:
            return dict(zip(hashes, await self._tokens.cached(hashes), strict=True))
        except PartError as error:
            log.info("tokens_from_mysql", count=len(hashes), why=error.message)
            return {}

    async def _stored(self, hashes: Sequence[bytes]) -> dict[bytes, login_sql.Token]:
        if not hashes:
            return {}
        (result,) = await self._database.read([tokens.select(hashes)])
        return login_sql.tokens_of(result)

    @staticmethod
    def _key(
        asked: Resuming | Entering,
        cached: Mapping[bytes, Read | Literal["gone"] | None],
        stored: Mapping[bytes, login_sql.Token],
    ) -> DeviceKey | None:
        if isinstance(asked, Entering):
            return asked.user, asked.device
        read = cached.get(asked.token_hash)
        if isinstance(read, Read):
            return read.entry.user, asked.device
        token = stored.get(asked.token_hash)
        return None if read == "gone" or token is None else (token.user, asked.device)

    def _answer(
        self,
        asked: Resuming | Entering,
        cached: Mapping[bytes, Read | Literal["gone"] | None],
        stored: Mapping[bytes, login_sql.Token],
        people: People,
        now: int,
    ) -> Found | Exception:
        expires_at = 0
        if isinstance(asked, Resuming):
            token = stored.get(asked.token_hash)
            gone = cached.get(asked.token_hash) == "gone"
            if gone or token is None or token.device != asked.device or token.expires_at <= now:
                return ChatError("token_expired", "unknown, ended or expired token, or another device's")
            user, expires_at = token.user, token.expires_at
        else:
            user = asked.user
        person = people.users.get(user)
        if person is None:
            return ChatError("token_expired", "no such user any more")
        if person.banned:
            return Banned()
        new = (user, asked.device) not in people.devices
        stored_cursors = people.cursors.get((user, asked.device), {})
        own = user_timeline(user)
        cursors = {own: people.upto(own) - 1 if new else stored_cursors.get(own, 0)}
        joins = people.joins.get(user, {})
        for group, joined in joins.items():
            timeline = group_timeline(group)
            cursor = people.upto(timeline) - 1 if new else stored_cursors.get(timeline, 0)
            cursors[timeline] = max(cursor, joined)
        blocked_by = frozenset(people.blocked_by.get(user, ()))
        return Found(user, person.name, asked.device, expires_at, new, frozenset(joins), blocked_by, cursors)

    async def _settle(
        self,
        batch: Sequence[Resuming | Entering],
        answers: list[Found | Exception],
        cached: Mapping[bytes, Read | Literal["gone"] | None],
        people: People,
        now: int,
    ) -> list[Found | Exception]:
        """What resumes leave behind: longer lives, devices used, entries in Redis, tombstones of tokens that are ended."""
        extended: dict[bytes, int] = {}
        used: dict[DeviceKey, Found] = {}
        expires_at = now + self._tokens.life_ms
        for n, (asked, found) in enumerate(zip(batch, answers, strict=True)):
            if not isinstance(asked, Resuming) or not isinstance(found, Found):
                continue
            if self._tokens.needs_extending(found.expires_at, now):
                extended[asked.token_hash] = expires_at
                answers[n] = found._replace(expires_at=expires_at)
            if now - people.devices.get((found.user, found.device), 0) > FRESH_MS:
                used[found.user, found.device] = found
        try:
            writes = [tokens.extend(list(extended), expires_at)] if extended else []
            if used:
                writes += login_sql.devices_used(used, now)
            if writes:
                await self._database.write(writes)
        except PartError as error:
            log.warning("resumes_not_noted", why=error.message)
            for n, (asked, found) in enumerate(zip(batch, answers, strict=True)):
                if isinstance(found, Found) and isinstance(asked, Resuming) and found.new_device:
                    answers[n] = Unavailable(error.part)  # its cursors must stay as they are told
                elif isinstance(found, Found) and isinstance(asked, Resuming) and asked.token_hash in extended:
                    read = cached.get(asked.token_hash)
                    before = read.entry.expires_at if isinstance(read, Read) else found.expires_at
                    answers[n] = found._replace(expires_at=min(before, found.expires_at))
        await self._write_back(batch, answers, cached, now)
        return answers

    async def _write_back(
        self,
        batch: Sequence[Resuming | Entering],
        answers: Sequence[Found | Exception],
        cached: Mapping[bytes, Read | Literal["gone"] | None],
        now: int,
    ) -> None:
        entries: dict[bytes, tuple[Read | None, Entry]] = {}
        ended: set[bytes] = set()
        for asked, found in zip(batch, answers, strict=True):
            if not isinstance(asked, Resuming):
                continue
            read = cached.get(asked.token_hash)
            if isinstance(found, Found):
                entry = entry_of(found, now)
                before = read if isinstance(read, Read) else None
                if before is None or now - before.entry.at > FRESH_MS or not _same(before.entry, entry):
                    entries[asked.token_hash] = before, entry
            elif isinstance(found, ChatError) and found.code == "token_expired" and isinstance(read, Read):
                ended.update([asked.token_hash] if read.entry.device == asked.device else [])
        await self._tokens.keep(entries)
        await self._tokens.bury(ended)

    # ------------------------------------------------------------------ MySQL is away

    def _from_cache(
        self, asked: Resuming | Entering, cached: Mapping[bytes, Read | Literal["gone"] | None], now: int
    ) -> Found | Exception:
        read = cached.get(asked.token_hash) if isinstance(asked, Resuming) else None
        if read is None:
            return Unavailable("mysql")
        if isinstance(read, str) or read.entry.device != asked.device or read.entry.expires_at <= now:
            return ChatError("token_expired", "unknown, ended or expired token, or another device's")
        entry = read.entry
        cursors = {user_timeline(entry.user): 0} | entry.cursors
        groups, blocked_by = frozenset(entry.groups), frozenset(entry.blocked_by)
        return Found(
            entry.user, entry.name, entry.device, entry.expires_at, False, groups, blocked_by, cursors, cached=True
        )  # fmt: skip

    def check_later(self, user: int) -> None:
        """His groups here are as Redis kept them, or as MySQL had them before persist stored all that was in the log: they
        are to be looked up again."""
        if len(self._unchecked) < UNCHECKED:
            self._unchecked.add(user)
        else:
            log.warning("groups_not_checked", user=user)
        self._some_unchecked.set()

    async def _check_again(self) -> None:
        """Groups of those let in, when persist has stored what was in the log by then: who was removed must not go on
        reading, and who came in must hear."""
        while True:
            await self._some_unchecked.wait()
            self._some_unchecked = trio.Event()
            await self._guard.wait_mended()
            while self._unchecked:
                users = [self._unchecked.pop() for _ in range(min(AT_ONCE, len(self._unchecked)))]
                changes = {user: self._hub.changes_of(user) for user in users}
                try:
                    if self.progress is not None and not await self.progress.caught_up(CAUGHT_UP_S):
                        raise PartAway("mysql", "persist is behind")
                    (result,) = await self._database.read([login_sql.groups(users)])
                except PartError:
                    self._unchecked.update(users)
                    self._some_unchecked.set()
                    await trio.sleep(random.uniform(0.2, 0.6))
                    break
                joins = login_sql.joins_of(result)
                for user in users:
                    if self._hub.changes_of(user) != changes[user]:
                        self.check_later(user)  # the log was faster
                        continue
                    known, holds = self._hub.groups_of(user), joins.get(user, {}).keys()
                    for group in known - holds:
                        await self._hub.leave(user, group)
                    for group in holds - known:
                        await self._hub.join(user, group)


def entry_of(found: Found, now: int) -> Entry:
    """What Redis keeps of it."""
    return Entry(
        user=found.user,
        name=found.name,
        device=found.device,
        expires_at=found.expires_at,
        groups=sorted(found.groups),
        blocked_by=sorted(found.blocked_by),
        cursors=dict(found.cursors),
        at=now,
    )


def _same(a: Entry, b: Entry) -> bool:
    """But for the cursors, which only ever grow: an older one costs a longer sync, no more."""
    return (a.user, a.name, a.device, a.expires_at, a.groups, a.blocked_by) == (
        b.user, b.name, b.device, b.expires_at, b.groups, b.blocked_by,
    )  # fmt: skip
