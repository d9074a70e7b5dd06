"""Batches are cut to size: the sizes are upper bounds of what the driver builds."""

from __future__ import annotations

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from chat.records import BATCH_OVERHEAD, Record, cut, size_of

records = st.lists(
    st.builds(
        Record,
        key=st.none() | st.binary(max_size=30),
        value=st.binary(max_size=300),
        timestamp=st.integers(0, 2**45),
        headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=10)), max_size=3).map(tuple),
    ),
    max_size=40,
)


@given(records, st.integers(100, 3_000))
def test_pieces_are_whole_and_fit(items: list[Record], most: int) -> None:
    pieces = cut(items, most)
    assert [record for piece in pieces for record in piece] == items
    for piece in pieces:
        assert piece
        assert len(piece) == 1 or BATCH_OVERHEAD + sum(map(size_of, piece)) <= most


@given(records)
def test_sizes_are_upper_bounds(items: list[Record]) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, 1, 1, 0, 1 << 30)
    for offset, record in enumerate(items):
        builder.append(offset, record.timestamp, record.key, record.value, list(record.headers))
    assert len(builder.build()) <= BATCH_OVERHEAD + sum(map(size_of, items))


def test_a_record_that_fits_nowhere_stands_alone() -> None:
    small, large = Record(None, b"s", 1), Record(None, b"l" * 1_000, 1)
    assert [list(piece) for piece in cut([small, large, small], 500)] == [[small], [large], [small]]
    assert cut([], 500) == []
