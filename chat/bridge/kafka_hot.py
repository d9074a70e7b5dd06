"""The two requests of every cycle, produce and fetch, laid out by hand. aiokafka's schemas take 30 to 60 µs of Python for
each and nearly as much for its answer; this takes 3. Layouts: Kafka's protocol guide, Produce version 7 and Fetch version 4,
which brokers from 2.1 up to 4.x speak. All other requests, and the record batches within, are aiokafka's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from chat.records import TopicPartition

PRODUCE: Final = (0, 7)
FETCH: Final = (1, 4)

_HEAD: Final = Struct(">ihhih")  # size, api, version, number of the request, length of the client's name
_COUNT: Final = Struct(">i")
_NAME: Final = Struct(">h")
_PRODUCE: Final = Struct(">hhii")  # no transaction, acks, time-out, topics
_DATA: Final = Struct(">ii")  # partition, bytes
_PRODUCED: Final = Struct(">ihqqq")  # partition, error, first offset, time, start of the log
_FETCH: Final = Struct(">iiiibi")  # no replica, most wait, least bytes, most bytes, isolation, topics
_WANTED: Final = Struct(">iqi")  # partition, offset, most bytes
_FETCHED: Final = Struct(">ihqqi")  # partition, error, end, last stable offset, aborted transactions


class Call(NamedTuple):
    """A request, and what reads its answer: a function of the bytes, and where in them the body begins."""

    api: tuple[int, int]
    body: bytes
    read: Callable[[bytes, int], Any]

    def frame(self, number: int, client: bytes) -> bytes:
        """With its header, as it is sent."""
        key, version = self.api
        size = 10 + len(client) + len(self.body)
        return b"%b%b%b" % (_HEAD.pack(size, key, version, number, len(client)), client, self.body)


class Produced(NamedTuple):
    place: TopicPartition
    error: int
    offset: int


class Fetched(NamedTuple):
    place: TopicPartition
    error: int
    end: int
    data: bytes


def _by_topic(places: Mapping[TopicPartition, Any]) -> dict[str, list[TopicPartition]]:
    topics: dict[str, list[TopicPartition]] = {}
    for place in places:
        topics.setdefault(place.topic, []).append(place)
    return topics


def produce(batches: Mapping[TopicPartition, bytes], timeout_ms: int) -> Call:
    """acks=all; the answer is a list of Produced."""
    topics = _by_topic(batches)
    parts = [_PRODUCE.pack(-1, -1, timeout_ms, len(topics))]
    for topic, places in topics.items():
        name = topic.encode()
        parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(places)))
        for place in places:
            data = batches[place]
            parts += (_DATA.pack(place.partition, len(data)), data)
    return Call(PRODUCE, b"".join(parts), _produced)


def _produced(data: bytes, at: int) -> list[Produced]:
    found: list[Produced] = []
    (topics,) = _COUNT.unpack_from(data, at)
    at += 4
    for _ in range(topics):
        topic, count, at = _topic(data, at)
        for _ in range(count):
            number, error, offset, _time, _start = _PRODUCED.unpack_from(data, at)
            at += _PRODUCED.size
            found.append(Produced(TopicPartition(topic, number), error, offset))
    return found


def fetch(
    offsets: Mapping[TopicPartition, int], *, wait_ms: int, min_bytes: int, answer_bytes: int, partition_bytes: int
) -> Call:
    """Committed and uncommitted alike; the answer is a list of Fetched."""
    topics = _by_topic(offsets)
    parts = [_FETCH.pack(-1, wait_ms, min_bytes, answer_bytes, 0, len(topics))]
    for topic, places in topics.items():
        name = topic.encode()
        parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(places)))
        parts += [_WANTED.pack(place.partition, offsets[place], partition_bytes) for place in places]
    return Call(FETCH, b"".join(parts), _fetched)


def _fetched(data: bytes, at: int) -> Sequence[Fetched]:
    found: list[Fetched] = []
    (topics,) = _COUNT.unpack_from(data, at + 4)  # behind the throttle time
    at += 8
    for _ in range(topics):
        topic, count, at = _topic(data, at)
        for _ in range(count):
            number, error, end, _stable, aborted = _FETCHED.unpack_from(data, at)
            at += _FETCHED.size + 16 * max(0, aborted)
            (size,) = _COUNT.unpack_from(data, at)
            at += 4
            records = data[at : at + size] if size > 0 else b""
            at += len(records)
            found.append(Fetched(TopicPartition(topic, number), error, end, records))
    return found


def _topic(data: bytes, at: int) -> tuple[str, int, int]:
    """Its name, how many partitions follow, and where."""
    (size,) = _NAME.unpack_from(data, at)
    at += 2 + size
    return data[at - size : at].decode(), _COUNT.unpack_from(data, at)[0], at + 4
