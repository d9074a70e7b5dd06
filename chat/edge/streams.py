"""What bounds the streams of a user. Looked at where a connection sends on a (conversation, stream) for the first time.

**Numbers.** A stream is one run of a client; one that makes a stream for each message would make persist's table of
streams, which is never emptied, grow by two rows a message, and every new device's heads with it. So a user may begin so
many an hour; beyond that it is `rate_limited`.

**Rest.** A stream that was not written for `stream_days` is left out of the heads, so devices that began since would take
what comes on it for the end of a gap, and show again what fills it. It is refused for good. That it has rested is known
from MySQL alone: who goes on with a stream waits for one look-up, made for all that wait. The accept path depends on Kafka
alone, so where MySQL does not answer in time, or persist has not stored the stream yet, it counts as fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog
import trio

from chat.config import EdgeConfig
from chat.edge.batcher import Batcher
from chat.edge.dispatch import Later
from chat.edge.limits import TokenBucket
from chat.errors import ChatError, PartError, Unavailable
from chat.persist.queries import text
from chat.ports import Database, Statement

DAY_MS: Final = 86_400_000
AT_ONCE: Final = 200
WAITING: Final = 20_000
WAIT_S: Final = 1.0
BELIEVED_S: Final = 3_600.0  # what was fresh is believed so long
KNOWN: Final = 200_000
USERS: Final = 50_000
NUMBERS: Final = 64  # of a user that are remembered, the latest

_log = structlog.get_logger()


class Key(NamedTuple):
    user: int
    conversation: str
    stream: int

    @property
    def row(self) -> tuple[str, str, int, int]:
        """The key of the table of streams, in the sender's own timeline or the group's."""
        own = self.conversation if self.conversation[0] == "g" else f"u{self.user}"
        return own, self.conversation, self.user, self.stream


class _Numbers:
    __slots__ = ("bucket", "latest")

    def __init__(self, now: float, burst: float) -> None:
        self.bucket = TokenBucket(now, burst)
        self.latest: dict[int, None] = {}


class Streams:
    """`now`: wall clock, ms."""

    def __init__(self, config: EdgeConfig, database: Database, now: Callable[[], int]) -> None:
        self._per_hour = float(config.streams_per_hour)
        self._rest_ms = config.stream_days * DAY_MS
        self._database = database
        self._now = now
        self._known: dict[Key, float] = {}  # fresh, until when that is believed
        self._numbers: dict[int, _Numbers] = {}
        self._batcher = Batcher[Key, int](self._look_up, size=AT_ONCE, room=WAITING, workers=1, seconds=WAIT_S, part="mysql")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look up what was asked for, until cancelled."""
        await self._batcher.run(task_status=task_status)

    def admit(self, user: int, conversation: str, stream: int, seq: int, now: float) -> None:
        """The first send on it by a connection. Raises ChatError `rate_limited`, and Later where it must be looked up."""
        key = Key(user, conversation, stream)
        if self._known.get(key, 0.0) > now:
            return
        self._take_number(user, stream, now)
        if seq:
            raise Later(partial(self.find, key))
        self._believe(key)

    async def find(self, key: Key) -> None:
        """Raises ChatError `forbidden` where it has rested."""
        try:
            written = await self._batcher.ask(key)
        except (PartError, Unavailable) as error:
            _log.info("a stream counts as fresh", why=str(error))
            written = 0
        if written and written < self._now() - self._rest_ms:
            raise ChatError("forbidden", "this stream has rested for too long: go on with a new one")
        self._believe(key)

    def _take_number(self, user: int, stream: int, now: float) -> None:
        numbers = self._numbers.pop(user, None) or _Numbers(now, self._per_hour)
        self._numbers[user] = numbers  # the latest, last
        if len(self._numbers) > USERS:
            del self._numbers[next(iter(self._numbers))]
        if stream in numbers.latest:
            return
        wait = numbers.bucket.take(now, self._per_hour / 3_600, self._per_hour)
        if wait:
            raise ChatError("rate_limited", "too many new streams", retry_after_ms=int(wait * 1_000) + 1)
        numbers.latest[stream] = None
        if len(numbers.latest) > NUMBERS:
            del numbers.latest[next(iter(numbers.latest))]

    def _believe(self, key: Key) -> None:
        self._known.pop(key, None)
        self._known[key] = trio.current_time() + BELIEVED_S
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    async def _look_up(self, keys: Sequence[Key]) -> list[int | Exception]:
        """When each was last written, ms; 0: persist has nothing of it."""
        rows = [key.row for key in keys]
        places = ", ".join(["(%s, %s, %s, %s)"] * len(rows))
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT timeline, conversation, sender, stream, last_sent_at FROM streams"
                    f" WHERE (timeline, conversation, sender, stream) IN ({places})",
                    [value for row in rows for value in row],
                )
            ]
        )
        found = {(text(t), text(c), sender, stream): at for t, c, sender, stream, at in result.rows}
        return [found.get(row, 0) for row in rows]
