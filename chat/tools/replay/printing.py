"""Reading, pacing, writing: the loop of `chat replay` without --as and --into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from chat.tools.logmerge import Sourced
from chat.tools.logsource import Reading
from chat.tools.replay.lines import Lines
from chat.tools.replay.names import Names
from chat.tools.replay.output import NOTICEABLE_S, Output, tell_progress
from chat.tools.replay.pace import Pace


class Printed(NamedTuple):
    """`read`: records that were looked at; `records`: those that were wanted."""

    read: int
    records: int
    bytes: int
    seconds: float


async def print_all(
    reading: Reading,
    lines: Lines,
    output: Output,
    *,
    names: Names | None = None,
    speed: float | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> Printed:
    """Write the lines of all records, or of the first `limit`. Raises PartError. Cancelled, what was written stands."""
    began = trio.current_time()
    pace = None if speed is None else Pace(speed)
    records = 0

    def said() -> str:
        done = 100 * reading.records // max(1, reading.total)
        return f"{reading.records:,} of {reading.total:,} records read ({done} %), {records:,} shown"

    async with trio.open_nursery() as nursery:
        if not quiet:
            nursery.start_soon(tell_progress, output, said)
        async for batch in reading:
            some = batch if limit is None else batch[: limit - records]
            if names is not None:
                await names.learn(some)
            if pace is None:
                await output.write(lines.batch(some))
            else:
                await _paced(some, lines, output, pace)
            records += len(some)
            if records == limit:
                break
        nursery.cancel_scope.cancel()
    return Printed(reading.records, records, output.bytes, trio.current_time() - began)


async def _paced(batch: Sequence[Sourced], lines: Lines, output: Output, pace: Pace) -> None:
    """What is due together is written together."""
    start = 0
    for index, (_, record) in enumerate(batch):
        now = trio.current_time()
        due = pace.due(record.timestamp, now)
        if due > now + NOTICEABLE_S:
            await output.write(lines.batch(batch[start:index]))
            start = index
            await trio.sleep_until(due)
    await output.write(lines.batch(batch[start:]))
