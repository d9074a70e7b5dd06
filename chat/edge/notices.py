"""Notices: into the log first, which is the truth; then, for a bounded time, until persist has applied them, so that what
the same client asks next sees its own change."""

from __future__ import annotations

from collections.abc import Sequence

from chat.edge.context import Context
from chat.records import TimelineRecord

APPLIED_S = 1.0


async def publish(context: Context, records: Sequence[TimelineRecord]) -> None:
    """Raises Unavailable when Kafka has not acknowledged them in a bounded time: idempotent, to be asked again. When
    persist is behind they are applied later."""
    positions = await context.publisher.publish(records)
    beyond: dict[str, int] = {}
    for record, position in zip(records, positions, strict=True):
        beyond[record.timeline] = max(beyond.get(record.timeline, 0), position + 1)
    await context.progress.reached(beyond, APPLIED_S)
