"""How far the log and persist are. Everyone who waits is served in common.

`end`: one request to Kafka serves all that waited *before it was sent*; who comes while it is under way waits for the next
(an end offset that was asked for earlier may lie below a message of which the caller has already heard).

`reached`: MySQL's `offsets` are read only while someone waits: after 5 ms, then more slowly, up to 50 ms.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping

import structlog
import trio

from chat.errors import PartError
from chat.ports import Database, LogAdmin, Statement
from chat.positions import position
from chat.records import TopicPartition

_FIRST_S = 0.005
_MOST_S = 0.05
_AWAY_S = 0.5  # between two tries while MySQL is away

_log = structlog.get_logger()


class _Round:
    """Those who wait for the same request."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.ends: Mapping[TopicPartition, int] = {}
        self.error: PartError | None = None


class EdgeProgress:
    """See context.Progress."""

    def __init__(
        self,
        log: LogAdmin,
        database: Database,
        *,
        messages_topic: str,
        partitions: int,
        generation: int,
        partition: Callable[[str], TopicPartition],
    ) -> None:
        self._log = log
        self._database = database
        self._topic = messages_topic
        self._places = [TopicPartition(messages_topic, i) for i in range(partitions)]
        self._generation = generation
        self._partition = partition
        self._next = _Round()
        self._asked = trio.Event()
        self._stored: dict[TopicPartition, int] = {}  # partition → position that persist has reached
        self._waiting = 0
        self._wanted = trio.Event()
        self._moved = trio.Event()

    async def end(self, timelines: Collection[str]) -> Mapping[str, int]:
        """See context.Progress. Raises PartError. Cancelling is safe."""
        turn = await self._turn()
        return {t: position(self._generation, turn.ends[self._partition(t)]) for t in timelines}

    async def _turn(self) -> _Round:
        turn = self._next
        self._asked.set()
        await turn.done.wait()
        if turn.error is not None:
            raise turn.error
        return turn

    async def reached(self, positions: Mapping[str, int], seconds: float) -> bool:
        """See context.Progress. Cancelling is safe."""
        return await self._reached([(self._partition(t), pos) for t, pos in positions.items()], seconds)

    async def caught_up(self, seconds: float) -> bool:
        """See context.Progress. Cancelling is safe."""
        turn = await self._turn()
        return await self._reached([(p, position(self._generation, end)) for p, end in turn.ends.items()], seconds)

    async def _reached(self, needed: list[tuple[TopicPartition, int]], seconds: float) -> bool:
        if self._has(needed):
            return True
        self._waiting += 1
        self._wanted.set()
        try:
            with trio.move_on_after(seconds):
                while not self._has(needed):
                    await self._moved.wait()
                return True
        finally:
            self._waiting -= 1
        return False

    def _has(self, needed: list[tuple[TopicPartition, int]]) -> bool:
        stored = self._stored
        return all(stored.get(place, 0) >= pos for place, pos in needed)

    # ------------------------------------------------------------------ loops

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask Kafka and MySQL for those who wait, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_ends)
            nursery.start_soon(self._poll_stored)
            task_status.started()

    async def _ask_ends(self) -> None:
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            turn, self._next = self._next, _Round()
            try:
                turn.ends = await self._log.end_offsets(self._places)
            except PartError as error:
                turn.error = error
            turn.done.set()
            if turn.error is not None:
                await trio.sleep(random.uniform(0.02, 0.1))

    async def _poll_stored(self) -> None:
        sql = "SELECT topic_partition, generation, next_offset FROM offsets WHERE topic = %s"
        pause = _FIRST_S
        while True:
            if not self._waiting:
                self._wanted = trio.Event()
                await self._wanted.wait()
                pause = _FIRST_S
            try:
                result = await self._database.read([Statement(sql, [self._topic])])
            except PartError as error:
                _log.warning("persist's offsets not read", error=error.message)
                await trio.sleep(_AWAY_S * random.uniform(0.5, 1.0))
                continue
            for number, generation, offset in result[0].rows:
                self._stored[TopicPartition(self._topic, number)] = position(generation, offset)
            moved, self._moved = self._moved, trio.Event()
            moved.set()
            await trio.sleep(pause)
            pause = min(pause * 1.5, _MOST_S)
