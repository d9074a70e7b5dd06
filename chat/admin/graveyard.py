"""The topic of the dead, and which of it are handled. A record's number is its offset there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from chat.errors import PartError, SetupError
from chat.ports import Database, LogAdmin, LogReader, Statement
from chat.records import Consumed, TopicPartition, Topics

POLL_S: Final = 0.5
STALLED_S: Final = 30.0
AT_ONCE: Final = 500
#: What `records.dead_headers` puts behind a record's own headers.
WHERE: Final = ("topic", "partition", "offset", "why")
_NO_TABLE: Final = "1146"


class Dead(NamedTuple):
    """`record`: as it was where it was found, with its own headers and offset. `outcome`: retried, skipped; None: not
    handled yet."""

    number: int
    topic: str
    partition: int
    why: str
    record: Consumed
    outcome: str | None = None


class Graveyard:
    """All methods raise PartError, SetupError. May be cancelled."""

    def __init__(self, topics: Topics, database: Database, log: LogAdmin, reader: LogReader) -> None:
        self._place = TopicPartition(topics.dead, 0)
        self._database = database
        self._log = log
        self._reader = reader

    async def all(self) -> list[Dead]:
        """In the order in which they came."""
        start, end, handled = await self._bounds()
        return [_dead(r, handled.get(r.offset)) for r in await self._read(start, end)]

    async def some(self, numbers: Sequence[int]) -> list[Dead]:
        """These. Raises SetupError where one is not there."""
        start, end, handled = await self._bounds()
        found = []
        for number in numbers:
            if not start <= number < end:
                raise SetupError(
                    f"there is no dead record {number}: they are {f'{start} to {end - 1}' if end > start else 'none'}"
                )
            found += [_dead(r, handled.get(r.offset)) for r in await self._read(number, number + 1)]
        return found

    async def note(self, number: int, outcome: str, now: int) -> Statement:
        """What remembers that it is handled."""
        return Statement(
            "INSERT INTO dead_handled (topic_id, topic_partition, record_offset, outcome, handled_at)"
            " VALUES (%s, %s, %s, %s, %s)"
            " ON DUPLICATE KEY UPDATE outcome = VALUES(outcome), handled_at = VALUES(handled_at)",
            (await self._topic_id(), self._place.partition, number, outcome, now),
        )

    async def _topic_id(self) -> str:
        ids = await self._log.topic_ids([self._place.topic])
        if self._place.topic not in ids:
            raise SetupError(f"Kafka has no topic {self._place.topic}: create the topics with `chat topics create`")
        return ids[self._place.topic]

    async def _bounds(self) -> tuple[int, int, dict[int, str]]:
        topic_id, place = await self._topic_id(), self._place
        select = Statement(
            "SELECT record_offset, outcome FROM dead_handled WHERE topic_id = %s AND topic_partition = %s",
            (topic_id, place.partition),
        )
        try:
            (result,) = await self._database.read([select])
        except PartError as error:
            if error.message.startswith(_NO_TABLE):
                raise SetupError("the database has no table dead_handled yet: run `chat migrate`") from error
            raise
        start = (await self._log.start_offsets([place]))[place]
        end = (await self._log.end_offsets([place]))[place]
        return start, end, dict(result.rows)

    async def _read(self, start: int, end: int) -> list[Consumed]:
        found: list[Consumed] = []
        if start >= end:
            return found
        await self._reader.assign({self._place: start})
        heard = trio.current_time()
        while not found or found[-1].offset < end - 1:
            records = (await self._reader.poll(POLL_S, AT_ONCE)).get(self._place, ())
            if records:
                heard = trio.current_time()
            elif trio.current_time() > heard + STALLED_S:
                raise SetupError(f"{self._place.topic} cannot be read to offset {end}: run this again")
            found += records
        return [r for r in found if r.offset < end]


def _dead(record: Consumed, outcome: str | None) -> Dead:
    """What does not look as persist writes it (somebody else's record) is told as such."""
    own, added = record.headers[: -len(WHERE)], record.headers[-len(WHERE) :]
    if tuple(name for name, _ in added) != WHERE:
        return Dead(record.offset, "", 0, "not written by persist: no headers that say where and why", record, outcome)
    topic, partition, offset, why = (value.decode(errors="replace") for _, value in added)
    if not (partition.isdigit() and offset.isdigit()):
        return Dead(record.offset, topic, 0, f"headers not understood: {why}", record, outcome)
    return Dead(record.offset, topic, int(partition), why, record._replace(offset=int(offset), headers=own), outcome)
