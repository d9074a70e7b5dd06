"""Whatever a record is made of, its dead one fits a batch: else it would hold up its partition for ever."""

from __future__ import annotations

from typing import Any

import pytest

from chat.metrics import PersistMetrics
from chat.persist.heads import Heads
from chat.persist.parse import Dead
from chat.persist.work import Work
from chat.records import BATCH_OVERHEAD, Consumed, TopicPartition, Topics, size_of

MOST = 900_000
PLACE = TopicPartition("chat.messages", 0)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"u1", b"v" * 1_000_000, ()),
        (b"k" * 500_000, b"v" * 500_000, ()),
        (b"k" * 1_000_000, b"", ()),
        (None, b"v", (("name", b"h" * 1_000_000),)),
        (b"k", b"v", tuple((f"name{n}", b"h") for n in range(40_000))),
        (b"k" * 500_000, b"", (("n" * 250_000, b""),)),
    ],
)
def test_a_dead_record_fits(key: bytes | None, value: bytes, headers: Any) -> None:
    nothing: Any = None
    work = Work(
        Topics("chat"), database=nothing, producer=nothing, heads=Heads(1), metrics=PersistMetrics(), max_batch_bytes=MOST
    )
    dead = work._dead_record(Dead(PLACE, Consumed(5, 1, key, value, headers), "why " * 1_000))
    assert BATCH_OVERHEAD + size_of(dead) <= MOST
    said = dict(dead.headers)
    assert (said["topic"], said["offset"]) == (b"chat.messages", b"5")
    assert b"cut" in said["why"]
