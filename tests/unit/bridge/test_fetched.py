"""What an answer to a fetch is taken apart into."""

from __future__ import annotations

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from chat.bridge.kafka_fetch import _Fetched
from chat.records import Consumed


def test_a_record_without_a_value_reads_as_an_empty_one() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    builder.append(0, 5, b"u1", None, [])
    builder.append(1, 6, None, b"{}", [])
    assert _Fetched(bytes(builder.build()), 0).take(10) == [Consumed(0, 5, b"u1", b"", ()), Consumed(1, 6, None, b"{}", ())]
