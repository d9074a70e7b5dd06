"""`chat replay --into sandbox`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import click
import trio
from msgspec.structs import replace

from chat.bridge import open_database
from chat.config import Config
from chat.errors import SetupError
from chat.persist.archive.shelf import Shelf
from chat.ports import Database, Statement
from chat.positions import generation_of, offset_of, position
from chat.records import TopicPartition, partition_of
from chat.tools.logsource import LogSource, Span
from chat.tools.replay.asked import Asked
from chat.tools.replay.output import Output, tell_progress
from chat.tools.replay.sandbox.before import Before
from chat.tools.replay.sandbox.compare import Compared, Comparison
from chat.tools.replay.sandbox.diff import Difference
from chat.tools.replay.sandbox.fill import DeadRecord, Filler
from chat.tools.replay.sandbox.place import TIMEOUT_MS, open_sandbox

_DAY_MS: Final = 86_400_000
#: Differences that are kept to be shown; the others are only counted.
MOST: Final = 100_000


class Report(NamedTuple):
    """`waiting`: records of the range that persist has not stored yet: they are left out. `mended`: rows that an operator
    has made of dead records."""

    database: str
    kept: bool
    spans: list[Span]
    records: int
    waiting: int
    duplicates: int
    dead: list[DeadRecord]
    compared: Compared
    differences: list[Difference]
    counts: dict[str, int]
    mended: int

    @property
    def same(self) -> bool:
        return not any(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "same": self.same, "database": self.database, "kept": self.kept, "records": self.records,
            "waiting": self.waiting, "duplicates": self.duplicates, "mended": self.mended,
            "spans": [{"topic": s.partition.topic, "partition": s.partition.partition, "from": s.start, "to": s.end}
                      for s in self.spans],
            "dead": [d._asdict() for d in self.dead], "compared": self.compared._asdict(), **self.counts,
            "differences": [d._asdict() for d in self.differences],
        }  # fmt: skip


class _Range:
    """The spans, and where they begin and end in a timeline."""

    def __init__(self, source: LogSource, spans: Sequence[Span], counts: dict[str, int]) -> None:
        self._topics = source.topics
        self._spans = {s.partition: s for s in spans}
        self._counts = counts

    def stretches(self, timeline: str) -> list[tuple[int, int]]:
        found = []
        for topic, count in self._counts.items():
            span = self._spans.get(TopicPartition(topic, partition_of(timeline, count)))
            if span is not None:
                generation = self._topics.generation_of(topic) or 0
                found.append((position(generation, span.start), position(generation, span.end)))
        return sorted(found)

    def begin(self, timeline: str) -> int:
        return min((first for first, _ in self.stretches(timeline)), default=1)

    def place(self, timeline: str, pos: int) -> tuple[str, int, int]:
        """Topic, partition, offset of a row."""
        topic = self._topics.generation_topic(generation_of(pos))
        return topic, partition_of(timeline, self._counts.get(topic, 1)), offset_of(pos)


class _Tally:
    """Takes differences. Rows at the places of dead records were made by an operator, and are none."""

    def __init__(self, of: _Range) -> None:
        self._of = of
        self.dead: set[tuple[str, int, int]] = set()
        self.counts = {"missing": 0, "extra": 0, "different": 0}
        self.differences: list[Difference] = []
        self.mended = 0

    def __call__(self, one: Difference) -> None:
        if one.table == "messages" and one.what == "extra":
            timeline, _, pos = one.where.partition("@")
            if self._of.place(timeline, int(pos)) in self.dead:
                self.mended += 1
                return
        self.counts[one.what] += 1
        if len(self.differences) < MOST:
            self.differences.append(one)


async def into_sandbox(
    config: Config, source: LogSource, asked: Asked, *, url: str | None, keep: bool, quiet: bool,
    clock: Callable[[], float] = time.time,
) -> Report:  # fmt: skip
    """Needs the bridge. Raises UsageError, SetupError, PartError. Cancelled, the sandbox is dropped all the same."""
    only = _only(asked)
    slow = replace(config.mysql, timeout_ms=max(config.mysql.timeout_ms, TIMEOUT_MS))
    async with open_database(slow) as live:
        found = await source.spans(asked.topics, asked.limits)
        spans, waiting = await _stored(live, source, found)
        receipts = await _receipts(live, source, asked)
        if not spans:
            raise SetupError("the range has no stored record: nothing to compare")
        (gone,) = await live.read([Statement("SELECT user FROM deleted_users")])
        counts = {topic: await source.admin.partitions(topic) for topic in asked.topics}
        of = _Range(source, spans, counts)
        async with open_sandbox(config.mysql, url, keep=keep) as (name, sandbox):
            shelf = Shelf(live, config.archive.url)
            filler = Filler(config, source.topics, sandbox, Before(live, sandbox, shelf, of.begin))
            tally = _Tally(of)
            days = config.archive.retention_days
            comparison = Comparison(
                sandbox, live, shelf, of.stretches, only=only, told=tally,
                expired_before=int(clock() * 1000 - days * _DAY_MS) if days else 0, deleted=[user for (user,) in gone.rows],
            )  # fmt: skip
            keys = None if only is None else frozenset(t.encode() for t in only)
            reading = source.read([*spans, *receipts], None if keys is None else lambda _, r: r.key in keys)

            def said() -> str:
                if reading.records < reading.total:
                    return f"{reading.records:,} of {reading.total:,} records stored in {name}"
                return f"{comparison.rows:,} rows compared"

            async with trio.open_nursery() as nursery:
                if not quiet:
                    nursery.start_soon(tell_progress, Output(), said)
                await filler.begin([*spans, *receipts])
                await filler.fill(reading)
                tally.dead |= {(d.topic, d.partition, d.offset) for d in filler.grave.dead}
                compared = await comparison.all()
                nursery.cancel_scope.cancel()
            duplicates = int(filler.metrics.registry.get_sample_value("chat_persist_duplicates_total") or 0)
        return Report(
            name, keep, spans, filler.records, waiting, duplicates, filler.grave.dead, compared, tally.differences,
            tally.counts, tally.mended,
        )  # fmt: skip


def _only(asked: Asked) -> frozenset[str] | None:
    """The timelines that are asked for; None: all. Raises UsageError."""
    which = asked.which
    if which.conversation is not None or which.message is not None:
        raise click.UsageError("--into sandbox takes whole timelines: --user, --group, times, offsets and partitions")
    chosen = {f"u{which.user}"} if which.user is not None else set()
    if which.group is not None:
        chosen.add(f"g{which.group}")
    return frozenset(chosen) or None


async def _stored(live: Database, source: LogSource, spans: Sequence[Span]) -> tuple[list[Span], int]:
    """The spans cut to what persist has stored, and how much is not. Raises SetupError, PartError."""
    (result,) = await live.read([Statement("SELECT topic, topic_partition, topic_id, next_offset FROM offsets")])
    rows = {TopicPartition(_text(topic), n): (_text(topic_id), offset) for topic, n, topic_id, offset in result.rows}
    ids = await source.admin.topic_ids(sorted({s.partition.topic for s in spans})) if spans else {}
    found, waiting = [], 0
    for span in spans:
        topic_id, stored = rows.get(span.partition, ("", 0))
        if topic_id and topic_id != ids.get(span.partition.topic):
            raise SetupError(
                f"{span.partition.topic} has the id {ids.get(span.partition.topic)}, but MySQL has stored from {topic_id}: "
                "they do not belong together; `chat config` says which servers these are"
            )
        cut = span._replace(end=min(span.end, stored))
        waiting += span.size - cut.size
        if cut.size:
            found.append(cut)
    return found, waiting


async def _receipts(live: Database, source: LogSource, asked: Asked) -> list[Span]:
    """Of the same time. None where the range is one of offsets: they are those of messages."""
    limits = asked.limits
    if limits.first is not None or limits.to is not None or limits.partitions is not None:
        return []
    return (await _stored(live, source, await source.spans([source.topics.receipts], limits)))[0]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii")


def for_people(report: Report, most: int = 50) -> str:
    """Differences first, then what was done."""
    lines = [f"{d.what:<9} {d.table} {d.where}: {d.detail}" for d in report.differences[:most]]
    more = sum(report.counts.values()) - len(lines)
    if more:
        lines.append(f"… and {more:,} more")
    lines += [f"dead      {d.topic}/{d.partition}@{d.offset}: {d.why}" for d in report.dead[:most]]
    c = report.compared
    lines.append(
        f"{report.records:,} records stored once more ({report.duplicates:,} duplicates, {len(report.dead):,} dead); "
        f"compared {c.rows:,} rows, {c.streams:,} streams, {c.cursors:,} cursors, {c.read_marks:,} read marks"
    )
    if report.waiting:
        lines.append(f"{report.waiting:,} records of the range are not stored yet, and left out")
    if report.mended:
        lines.append(f"{report.mended:,} rows were made of dead records by `chat admin dead retry`")
    counts = ", ".join(f"{count:,} {what}" for what, count in report.counts.items())
    lines.append("the same" if report.same else f"NOT the same: {counts}")
    if report.kept:
        lines.append(f"kept: database {report.database}; DROP DATABASE it when you are done")
    return "\n".join(lines) + "\n"
