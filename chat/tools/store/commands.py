"""Other commands of this project, run as a person runs them, and what they took."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

import trio
from msgspec.structs import replace

from chat.bridge import open_bridge, open_database, open_log_admin, open_log_reader
from chat.config import Config, MysqlConfig
from chat.errors import PartAway, SetupError
from chat.generations import message_topics
from chat.message_id import id_of
from chat.ports import Statement
from chat.protocol import decode_message
from chat.records import TopicPartition, Topics
from chat.tools.load.histogram import Histogram
from chat.tools.load.report import Report
from chat.tools.state import State
from chat.tools.store.measuring import measured

RUN_S: Final = 3_600.0
_TAIL: Final = 2_000  # records at the end of a partition, from which messages to be traced are taken
_POLL_S: Final = 5.0


class Ran(NamedTuple):
    """Of a command: seconds of the clock, its exit code, what it wrote."""

    seconds: float
    code: int
    out: bytes


async def run(folder: Path, *words: str, into: Path | None = None, good: Collection[int] = (0,)) -> Ran:
    """`chat WORDS…` on the cluster in the folder; its output goes into the file `into`, or is kept. Raises SetupError where
    its exit code is none of `good`."""
    command = [sys.executable, "-m", "chat", *words, "--config", str(State(folder).settings)]
    began = perf_counter()
    with trio.move_on_after(RUN_S):
        if into is None:
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        else:
            with into.open("wb") as file:
                done = await trio.run_process(command, stdout=file, capture_stderr=True, check=False)
        errors = (done.stderr or b"").decode(errors="replace")
        if done.returncode not in good:
            raise SetupError(f"chat {' '.join(words)} ended with {done.returncode}:\n{errors[-2_000:]}")
        return Ran(perf_counter() - began, done.returncode, done.stdout or b"")
    raise SetupError(f"chat {' '.join(words)} was not done after {RUN_S:g} s")


# ------------------------------------------------------------------ archive


async def archive(report: Report, config: Config, folder: Path, days: float) -> None:
    """`chat archive run --once --older-than`: rows a second, and how the files compare with the table."""
    rows, size = await _table(config)
    with measured(report, folder):
        ran = await run(folder, "archive", "run", "--once", "--older-than", str(days), "--json")
    told: dict[str, Any] = json.loads(ran.out)
    moved, byte_count, seconds = told["rows"], told["bytes"], told["seconds"]
    report.rates = {"rows archived": round(moved / max(seconds, 1e-9), 1)}
    report.notes = {
        "rows before": rows,
        "rows archived": moved,
        "slices": told["slices"],
        "bytes of the table, a row": round(size / max(rows, 1), 1),
        "bytes of the files, a row": round(byte_count / max(moved, 1), 1),
        "files, % of the table": round(100 * (byte_count / max(moved, 1)) / (size / max(rows, 1)), 2),
    }
    if not moved:
        report.failed.append(f"nothing was older than {days:g} days")


async def _table(config: Config) -> tuple[int, int]:
    """Rows of `messages`, and its bytes on the disk, indexes included."""
    async with open_bridge(), open_database(_patient(config)) as database:
        await database.read([Statement("ANALYZE TABLE messages")])
        count, size = await database.read(
            [
                Statement("SELECT COUNT(*) FROM messages"),
                Statement(
                    "SELECT data_length + index_length FROM information_schema.tables"
                    " WHERE table_schema = DATABASE() AND table_name = 'messages'"
                ),
            ]
        )
        return int(count.rows[0][0]), int(size.rows[0][0])


def _patient(config: Config) -> MysqlConfig:
    return replace(config.mysql, timeout_ms=600_000)


# ------------------------------------------------------------------ replay, trace


async def replay(report: Report, folder: Path, records: int) -> None:
    """`chat replay`, readable and as JSON, into a file: lines a second, its start included."""
    into = folder / "replayed"
    try:
        with measured(report, folder):
            for name, words in (("readable", ()), ("JSON", ("--json",))):
                ran = await run(folder, "replay", "--limit", str(records), "--quiet", *words, into=into)
                lines = await trio.to_thread.run_sync(_lines, into)
                report.rates[f"records, {name}"] = round(lines / ran.seconds, 1)
                report.notes[f"records, {name}"] = lines
                report.notes[f"seconds, {name}"] = round(ran.seconds, 2)
                if lines < records:
                    report.failed.append(f"{lines} of {records} records were shown, {name}")
    finally:
        into.unlink(missing_ok=True)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


async def trace(report: Report, config: Config, folder: Path, messages: int) -> None:
    """`chat trace` of some of the last messages: seconds from its start to its end."""
    found, arrived = Histogram(), 0
    ids = await _last_messages(config, messages)
    if not ids:
        raise SetupError("no message is in the log: let `chat load direct` run first")
    with measured(report, folder):
        for one in ids:
            ran = await run(folder, "trace", one, good=(0, 1))
            found.add(round(ran.seconds * 1e6))
            arrived += ran.code == 0
    report.latencies["trace"] = found.summary()
    report.notes |= {"messages": len(ids), "said to have arrived": arrived}


async def _last_messages(config: Config, wanted: int) -> list[str]:
    """Ids of direct messages near the end of the log, spread evenly."""
    topics = Topics(config.kafka.namespace)
    async with open_bridge(), open_log_admin(config.kafka) as admin, open_log_reader(config.kafka) as reader:
        topic = (await message_topics(admin, topics))[-1]
        places = [TopicPartition(topic, n) for n in range(await admin.partitions(topic))]
        ends, starts = await admin.end_offsets(places), await admin.start_offsets(places)
        left = {place: ends[place] for place in places if ends[place] > starts[place]}
        await reader.assign({place: max(starts[place], end - _TAIL) for place, end in left.items()})
        ids: dict[str, int] = {}
        while left:
            batches = await reader.poll(_POLL_S, _TAIL)
            if not batches:
                raise PartAway("kafka", f"{topic} is not read to its end in {_POLL_S:g} s")
            for place, records in batches.items():
                for record in records:
                    said = decode_message(record.value)
                    one = id_of(said)
                    if one is not None and said.to is not None and record.key == b"u%d" % said.to:
                        ids[str(one)] = said.sent_at
                if place in left and records and records[-1].offset >= left[place] - 1:
                    del left[place]
    newest = sorted(ids, key=lambda one: ids[one])[-_TAIL:]
    step = max(1, len(newest) // max(1, wanted))
    return newest[::step][:wanted]
