"""Reading the end of a one-partition topic: the edge's own, and that of presence.

    poll ──> take(records) ──> poll …
      │
      └─ the place is not in the log any more (trimmed, made anew), or the topic is gone: placed anew, then cut_off(why)

A topic that was made anew may hold our place again, or none of its records may have come: so its id is looked at now and
then. While the topic cannot be read, nothing is known; whoever writes to it tells by another way.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from chat.backoff import Backoff
from chat.errors import PartError
from chat.ports import LogAdmin, LogReader, NoSuchTopic, OutOfRange
from chat.records import Consumed, TopicPartition

POLL_S: Final = 1.0
CHECK_S: Final = 5.0  # between two looks at the topic's id

_log = structlog.get_logger()


class Tail:
    """`take(records)` gets what comes, in order; `cut_off(why)` is called after a jump: some records will never come.

    `whole`: what is in a topic that was made anew, or behind what was trimmed, is taken too; otherwise a jump goes to the
    end. `make`: makes the topic where it is missing. Build it, `start` it, then `run` it once.
    """

    def __init__(
        self,
        topic: str,
        reader: LogReader,
        log: LogAdmin,
        *,
        records: int,
        take: Callable[[Sequence[Consumed]], None],
        cut_off: Callable[[str], None],
        whole: bool = False,
        make: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._place = TopicPartition(topic, 0)
        self._reader = reader
        self._log = log
        self._records = records
        self._take = take
        self._cut_off = cut_off
        self._whole = whole
        self._make = make
        self._id = ""
        self._next = 0
        self._lost = ""  # why the place is to be found anew

    async def start(self) -> None:
        """Resolve where to read from: the end as it is now. Raises PartError."""
        self._id = await self._found()
        await self._assign((await self._log.end_offsets([self._place]))[self._place])

    async def run(self) -> None:
        """Read until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._read()

    async def _read(self) -> None:
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                if self._lost:
                    await self._begin_again()
                batches = await self._reader.poll(POLL_S, self._records)
                backoff.reset()
            except OutOfRange as error:
                self._lost = error.message
                continue
            except PartError as error:
                _log.warning("not read", topic=self._place.topic, error=error.message)
                await trio.sleep(backoff.next())
                continue
            for records in batches.values():
                self._next = records[-1].offset + 1
                self._take(records)
                await trio.lowlevel.checkpoint()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(CHECK_S * random.uniform(0.8, 1.2))
            try:
                found = (await self._log.topic_ids([self._place.topic])).get(self._place.topic)
            except PartError:
                continue  # it is read nonetheless, or that fails too
            if found != self._id and not self._lost:
                self._lost = "the topic is gone" if found is None else "the topic was made anew"

    async def _begin_again(self) -> None:
        topic_id, place, why = await self._found(), self._place, self._lost
        at = (await self._log.end_offsets([place]))[place]
        if self._whole:
            start = (await self._log.start_offsets([place]))[place]
            if topic_id != self._id or self._next < start:
                at = start
        _log.warning("cut off, reading goes on elsewhere", topic=place.topic, why=why, before=self._next, now=at)
        await self._assign(at)
        self._id, self._lost = topic_id, ""
        self._cut_off(why)

    async def _found(self) -> str:
        """The topic's id."""
        topic = self._place.topic
        if self._make is not None:
            await self._make()
        ids = await self._log.topic_ids([topic])
        if topic not in ids:
            raise NoSuchTopic("kafka", f"there is no topic {topic}")
        return ids[topic]

    async def _assign(self, at: int) -> None:
        await self._reader.assign({self._place: at})
        self._next = at
