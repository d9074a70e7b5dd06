"""The hand-made layouts are those of aiokafka's schemas, to the byte."""

from __future__ import annotations

from aiokafka.protocol.fetch import FetchRequest_v4, FetchResponse_v4
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from chat.bridge import kafka_hot
from chat.bridge.kafka_hot import Fetched, Produced
from chat.records import TopicPartition

TOPICS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
PLACES = st.builds(TopicPartition, TOPICS, st.integers(0, 1_000))
LONG = st.integers(-1, 2**63 - 1)
ERRORS = st.integers(-1, 120)


def by_topic(values: dict[TopicPartition, tuple[object, ...]]) -> list[tuple[str, list[tuple[object, ...]]]]:
    topics: dict[str, list[tuple[object, ...]]] = {}
    for place, value in values.items():
        topics.setdefault(place.topic, []).append((place.partition, *value))
    return list(topics.items())


@given(st.dictionaries(PLACES, st.binary(max_size=100), max_size=6), st.integers(0, 60_000))
def test_produce(batches: dict[TopicPartition, bytes], timeout: int) -> None:
    call = kafka_hot.produce(batches, timeout)
    assert call.body == ProduceRequest_v7(None, -1, timeout, by_topic({p: (d,) for p, d in batches.items()})).encode()
    assert call.api == (ProduceRequest_v7.API_KEY, ProduceRequest_v7.API_VERSION)


@given(st.dictionaries(PLACES, st.tuples(ERRORS, LONG, LONG, LONG), max_size=6))
def test_what_was_produced(outcome: dict[TopicPartition, tuple[int, int, int, int]]) -> None:
    answer = b"head" + ProduceResponse_v7(by_topic(outcome), 0).encode()
    found = kafka_hot.produce({}, 0).read(answer, 4)
    assert sorted(found) == sorted(Produced(p, error, offset) for p, (error, offset, _, _) in outcome.items())


@given(st.dictionaries(PLACES, LONG, max_size=6), st.integers(0, 1_000), st.integers(1, 1 << 24), st.integers(1, 1 << 24))
def test_fetch(offsets: dict[TopicPartition, int], wait: int, answer: int, partition: int) -> None:
    call = kafka_hot.fetch(offsets, wait_ms=wait, min_bytes=1, answer_bytes=answer, partition_bytes=partition)
    wanted = by_topic({p: (offset, partition) for p, offset in offsets.items()})
    assert call.body == FetchRequest_v4(-1, wait, 1, answer, 0, wanted).encode()
    assert call.api == (FetchRequest_v4.API_KEY, FetchRequest_v4.API_VERSION)


ABORTED = st.lists(st.tuples(LONG, LONG), max_size=3)


@given(st.dictionaries(PLACES, st.tuples(ERRORS, LONG, LONG, ABORTED, st.none() | st.binary(max_size=100)), max_size=6))
def test_what_was_fetched(outcome: dict[TopicPartition, tuple[int, int, int, list[tuple[int, int]], bytes | None]]) -> None:
    answer = b"head" + FetchResponse_v4(0, by_topic(outcome)).encode()
    found = kafka_hot.fetch({}, wait_ms=0, min_bytes=1, answer_bytes=1, partition_bytes=1).read(answer, 4)
    assert sorted(found) == sorted(Fetched(p, error, end, data or b"") for p, (error, end, _, _, data) in outcome.items())


def test_the_header() -> None:
    assert kafka_hot.produce({}, 5).frame(7, b"chat") == bytes.fromhex(
        "0000001a" "0000" "0007" "00000007" "0004" "63686174" "ffff" "ffff" "00000005" "00000000"
    )  # fmt: skip
