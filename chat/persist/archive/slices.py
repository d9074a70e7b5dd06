"""A slice in memory: rows sorted and written as Parquet, its index, and the proof that the file holds what MySQL has sent.
CPU work: call it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chat.persist.archive.layout import ROW_GROUP, SCHEMA, SORTED_BY
from chat.persist.archive.rows import Garbled, Window, content_checksum, to_content, to_table

#: Measured on chat texts of 175 bytes: level 3 gives 49 bytes a row in 1.0 µs, level 1 54 in 0.7, level 9 46 in 3.7.
LEVEL: Final = 3
_DICTIONARY: Final = ["timeline", "conversation", "sender", "stream", "kind"]
_DELTA: Final = {"position": "DELTA_BINARY_PACKED", "sent_at": "DELTA_BINARY_PACKED", "seq": "DELTA_BINARY_PACKED"}


class Stretch(NamedTuple):
    """A conversation of a timeline in a slice: `rows` rows from `first` on."""

    timeline: str
    conversation: str
    first: int
    rows: int
    min_position: int
    max_position: int
    min_sent_at: int
    max_sent_at: int


class Made(NamedTuple):
    """What a slice's rows in the tables say, and its file's content."""

    data: bytes
    checksum: bytes  # SHA-256 of `data`
    rows: int
    min_sent_at: int
    max_sent_at: int
    stretches: Sequence[Stretch]


def make(rows: pa.Table) -> Made:
    """`rows` (SCHEMA, in any order, at least one) as a file."""
    table = _sorted(rows, SORTED_BY)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=LEVEL,
        row_group_size=ROW_GROUP,
        use_dictionary=_DICTIONARY,
        column_encoding=_DELTA,
        write_page_checksum=True,
    )
    data = sink.getvalue().to_pybytes()
    times = pc.min_max(table["sent_at"])
    return Made(data, sha256(data).digest(), len(table), times["min"].as_py(), times["max"].as_py(), stretches(table))


def make_of(windows: Sequence[Window]) -> Made:
    """Raises Garbled."""
    return make(pa.concat_tables([to_table(w) for w in windows]))


def stretches(table: pa.Table) -> list[Stretch]:
    """Of sorted rows, at least one."""
    timelines, conversations = table["timeline"].combine_chunks(), table["conversation"].combine_chunks()
    ends = pc.or_(_changes(timelines), _changes(conversations))
    firsts = [0, *(n + 1 for n in pc.indices_nonzero(ends).to_pylist())]
    number = pc.cumulative_sum(pc.cast(pa.concat_arrays([pa.array([False]), ends]), pa.int64()))
    numbered = pa.table({"number": number, "position": table["position"], "sent_at": table["sent_at"]})
    found = (
        numbered.group_by("number", use_threads=False)
        .aggregate([("position", "min"), ("position", "max"), ("sent_at", "min"), ("sent_at", "max")])
        .sort_by("number")
    )
    names = ("position_min", "position_max", "sent_at_min", "sent_at_max")
    return [
        Stretch(timeline, conversation, first, after - first, *extremes)
        for timeline, conversation, first, after, *extremes in zip(
            timelines.take(firsts).to_pylist(),
            conversations.take(firsts).to_pylist(),
            firsts,
            [*firsts[1:], len(table)],
            *(found[name].to_pylist() for name in names),
            strict=True,
        )
    ]


def _changes(values: Any) -> Any:
    """Is each value another than the one before it; from the second on."""
    return pc.not_equal(values.slice(1), values.slice(0, len(values) - 1))


def read(data: bytes, checksum: bytes) -> pa.Table:
    """All rows of a file. Raises Garbled: it is not the file that the checksum is of."""
    if sha256(data).digest() != checksum:
        raise Garbled(f"{len(data)} bytes with another checksum than the one in archive_slices")
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    if not table.schema.equals(SCHEMA):
        raise Garbled("another schema")
    return table


def verify(data: bytes, made: Made, windows: Sequence[Window]) -> None:
    """`data`, as it was read back, holds exactly the rows of `windows`: each window's rows, written out again as MySQL
    would, have the checksum of what MySQL has sent. Raises Garbled."""
    table = read(data, made.checksum)
    if len(table) != sum(w.rows for w in windows):
        raise Garbled(f"{len(table)} rows in the file, {sum(w.rows for w in windows)} in the table")
    if stretches(table) != made.stretches:
        raise Garbled("the index is not that of the file")
    rows, at = _sorted(table, ("timeline", "position")), 0
    for window in windows:
        if content_checksum(*to_content(rows.slice(at, window.rows))) != window.checksum():
            raise Garbled(f"the rows of {window.range} are not those of the table")
        at += window.rows


def verify_rows(data: bytes, made: Made, rows: pa.Table) -> None:
    """The same for rows that came from other files. Raises Garbled."""
    table = read(data, made.checksum)
    if stretches(table) != made.stretches or not table.equals(_sorted(rows, SORTED_BY)):
        raise Garbled("the rows of the file are not those that were to be written")


def _sorted(table: pa.Table, keys: Sequence[str]) -> Any:
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    return table.take(order).combine_chunks()
