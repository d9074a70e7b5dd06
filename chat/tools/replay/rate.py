"""How many records a second a replay makes readable: `python -m chat.tools.replay.rate`.

Records like those of the load are written into a topic of its own, which is removed again; then they are read, decoded and
written as lines to /dev/null.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click
import trio
from msgspec.structs import replace

from chat.bridge import open_log_admin, open_producer
from chat.config import KafkaConfig
from chat.errors import PartError
from chat.logs import set_up_logs
from chat.protocol import Message
from chat.records import Record, TopicPartition, Topics, cut, message_records, partition_of
from chat.settings import Loaded
from chat.tools.logsource import open_log_source
from chat.tools.options import with_settings
from chat.tools.replay.command import run_to_end
from chat.tools.replay.lines import Lines
from chat.tools.replay.output import Output
from chat.tools.replay.printing import print_all
from chat.tools.replay.selection import Which, in_messages

_TEXT: Final = "A line of a hundred bytes or so, as people write them to each other all day long, and this is one of it."
_USERS: Final = 10_000
_PARTITIONS: Final = 4
_BEGIN: Final = 1_700_000_000_000
#: Made and written at a time.
_TOGETHER: Final = 20_000
_SETTINGS: Final = {"retention.ms": "-1", "max.message.bytes": "1048588"}


class Rate(NamedTuple):
    """`what`: readable, json, one_user (all are looked at, few are shown). Seconds of the wall and of this process's CPU."""

    what: str
    records: int
    shown: int
    bytes: int
    seconds: float
    cpu_seconds: float
    records_per_s: int


async def replay_rate(config: KafkaConfig, records: int = 1_000_000) -> list[Rate]:
    """Raises PartError. Cancelled, the topic is removed all the same."""
    config = replace(config, namespace=f"{config.namespace}_replay_rate_{secrets.token_hex(3)}")
    topics = Topics(config.namespace)
    async with open_log_admin(config) as admin:
        await admin.create_topic(topics.messages, _PARTITIONS, config.replication, _SETTINGS)
        try:
            await _write(config, topics, records)
            everything, one = Which(), Which(user=77)
            return [
                await _measured(config, "readable", everything, as_json=False),
                await _measured(config, "json", everything, as_json=True),
                await _measured(config, "one_user", one, as_json=False),
            ]
        finally:
            with trio.CancelScope(shield=True):
                await admin.delete_topics([topics.messages])


async def _measured(config: KafkaConfig, what: str, which: Which, *, as_json: bool) -> Rate:
    async with open_log_source(config) as source:
        spans = await source.spans(await source.message_topics())
        with await trio.to_thread.run_sync(Path("/dev/null").open, "wb") as nothing:
            began, cpu = time.perf_counter(), time.process_time()
            done = await print_all(
                source.read(spans, in_messages(which)), Lines(source.topics, as_json=as_json), Output(nothing), quiet=True
            )
            seconds = time.perf_counter() - began
    return Rate(
        what, done.read, done.records, done.bytes, round(seconds, 2), round(time.process_time() - cpu, 2),
        int(done.read / seconds),
    )  # fmt: skip


async def _write(config: KafkaConfig, topics: Topics, count: int) -> None:
    async with open_producer(config) as producer:
        for first in range(0, count, _TOGETHER):
            batches: dict[TopicPartition, list[Record]] = {}
            for timeline, record in _records(first, min(count, first + _TOGETHER)):
                where = TopicPartition(topics.messages, partition_of(timeline, _PARTITIONS))
                batches.setdefault(where, []).append(record)
            pieces = {where: cut(some, config.max_batch_bytes) for where, some in batches.items()}
            while any(pieces.values()):
                outcome = await producer.produce({where: some.pop(0) for where, some in pieces.items() if some})
                for one in outcome.values():
                    if isinstance(one, PartError):
                        raise one


def _records(first: int, end: int) -> Iterator[tuple[str, Record]]:
    for number in range(first, end):
        owner, sender, seq = number % _USERS + 1, (number + 1) % _USERS + 1, number // _USERS
        message = Message(
            sender=sender, to=owner, stream=5, seq=seq, sent_at=_BEGIN + number, kind="text", text=_TEXT
        )  # fmt: skip
        yield from message_records(message, [f"u{owner}"])


@click.command()
@click.option("--records", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@with_settings(others=("kafka",))
def main(loaded: Loaded, records: int, as_json: bool) -> int:
    """Records a second that `chat replay` makes readable."""
    set_up_logs(replace(loaded.config, log_level="warning"))
    rates: list[Rate] = []

    async def work() -> int:
        rates.extend(await replay_rate(loaded.config.kafka, records))
        return 0

    code = run_to_end(work)
    if as_json:
        click.echo(json.dumps([rate._asdict() for rate in rates]))
        return code
    for rate in rates:
        click.echo(
            f"{rate.what:<9} {rate.records:,} records in {rate.seconds:.1f} s ({rate.cpu_seconds:.1f} s of CPU): "
            f"{rate.records_per_s:,} records/s"
        )
    return code


if __name__ == "__main__":
    main()
