"""From the table `messages` to Arrow, thousands of rows at a time.

A driver in Python spends more on a row than MySQL does, so a **window** of rows comes as one row of two values: the fields
of all rows as text, one line each, and all bodies behind each other. Each line has the length of its body and the CRC that
MySQL has computed of it; the number of rows and the lengths of both values are told beside them, since MySQL cuts what
is too long for it (`group_concat_max_len`, `max_allowed_packet`) and only warns.
"""

from __future__ import annotations

import zlib
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from chat.errors import PartError
from chat.persist.archive.layout import SCHEMA
from chat.persist.archive.plan import Range
from chat.ports import Statement

#: Of one window. Servers take 16 MB (MariaDB) or 64 MB (MySQL) and more in one value, unless told otherwise.
VALUE_BYTES: Final = 15 << 20
_FIELDS: Final = (
    "timeline, position, conversation, sent_at, sender, IFNULL(stream, ''), IFNULL(seq, ''), kind, receipt, LENGTH(body),"
    " CRC32(body)"
)
_COLUMNS: Final = {
    "timeline": pa.string(),
    "position": pa.int64(),
    "conversation": pa.string(),
    "sent_at": pa.int64(),
    "sender": pa.int64(),
    "stream": pa.int64(),
    "seq": pa.int64(),
    "kind": pa.string(),
    "receipt": pa.int64(),
    "size": pa.int64(),
    "crc": pa.int64(),
}
_PARSE: Final = csv.ParseOptions(delimiter="\t", quote_char=False)
_READ: Final = csv.ReadOptions(column_names=list(_COLUMNS), use_threads=False, block_size=VALUE_BYTES)
_CONVERT: Final = csv.ConvertOptions(column_types=_COLUMNS, strings_can_be_null=False, null_values=[""])


class Cut(Exception):
    """The window was too large for one value: ask for fewer rows."""


class Garbled(PartError):
    """What came, or what was read back, is not what MySQL has sent. Nothing is deleted then."""

    def __init__(self, what: str) -> None:
        super().__init__("archive", what)


class Window(NamedTuple):
    """Rows of a range as MySQL sent them: `fields` a line per row, `bodies` all of them, in one order."""

    range: Range
    rows: int
    fields: bytes
    bodies: bytes

    @property
    def size(self) -> int:
        return len(self.fields) + len(self.bodies)

    def checksum(self) -> bytes:
        """SHA-256 of its content."""
        return content_checksum(self.fields, self.bodies)


def content_checksum(fields: bytes, bodies: bytes) -> bytes:
    return sha256(sha256(fields).digest() + sha256(bodies).digest()).digest()


# ------------------------------------------------------------------ SQL


def where(rows: Range) -> tuple[str, tuple[Any, ...]]:
    """In a form that both servers turn into one range of the primary key."""
    (a, p), (b, q) = rows.after, rows.upto
    if a == b:
        return "(timeline = %s AND position > %s AND position <= %s)", (a, p, q)
    return (
        "((timeline = %s AND position > %s) OR (timeline > %s AND timeline < %s) OR (timeline = %s AND position <= %s))",
        (a, p, a, b, b, q),
    )


def boundary(after: tuple[str, int], rows: int) -> Statement:
    """The key of the row that stands so many rows behind."""
    return Statement(
        "SELECT timeline, position FROM messages FORCE INDEX (PRIMARY) WHERE (timeline = %s AND position > %s) OR"
        " timeline > %s ORDER BY timeline, position LIMIT 1 OFFSET %s",
        (after[0], after[1], after[0], rows - 1),
    )


def read_window(rows: Range, before: int) -> list[Statement]:
    """Two statements; the second one's row is for `received`."""
    text, args = where(rows)
    return [
        Statement("SET SESSION group_concat_max_len = %s", (VALUE_BYTES + 1,)),
        Statement(
            "SELECT COUNT(*), IFNULL(SUM(LENGTH(body)), 0),"
            f" GROUP_CONCAT(CONCAT_WS(x'09', {_FIELDS}) SEPARATOR x'0a'),"
            " GROUP_CONCAT(body SEPARATOR '')"
            f" FROM messages FORCE INDEX (PRIMARY) WHERE {text} AND sent_at < %s",
            (*args, before),
        ),
    ]


def received(rows: Range, row: tuple[Any, ...]) -> Window:
    """Raises Cut."""
    count, size, fields, bodies = row
    if not count:
        return Window(rows, 0, b"", b"")
    fields = fields.encode() if isinstance(fields, str) else bytes(fields)
    if len(bodies) != int(size) or fields.count(b"\n") != count - 1 or len(fields) > VALUE_BYTES:
        raise Cut
    return Window(rows, int(count), fields, bytes(bodies))


# ------------------------------------------------------------------ Arrow


def to_table(window: Window) -> pa.Table:
    """The rows in the order in which they came. Raises Garbled."""
    found = csv.read_csv(
        pa.py_buffer(window.fields), read_options=_READ, parse_options=_PARSE, convert_options=_CONVERT
    ).combine_chunks()
    sizes = found["size"].to_pylist()
    ends = [0, *accumulate(sizes)]
    if len(found) != window.rows or ends[-1] != len(window.bodies):
        raise Garbled(f"{len(found)} rows and {ends[-1]} bytes, {window.rows} and {len(window.bodies)} were told")
    view, crc32 = memoryview(window.bodies), zlib.crc32
    if [crc32(view[a:b]) for a, b in pairwise(ends)] != found["crc"].to_pylist():
        raise Garbled("a body is not the one whose CRC MySQL has told")
    offsets = pa.array(ends, pa.int32()).buffers()[1]
    body = pa.Array.from_buffers(pa.binary(), window.rows, [None, offsets, pa.py_buffer(window.bodies)])
    columns = {name: found[name] for name in SCHEMA.names if name in _COLUMNS}
    columns["receipt"] = pc.not_equal(found["receipt"], 0)
    columns["body"] = body
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def to_content(table: pa.Table) -> tuple[bytes, bytes]:
    """`fields` and `bodies` of these rows, as MySQL would send them: what came must come out again."""
    sizes = pc.binary_length(table["body"])
    bodies = b"".join(table["body"].to_pylist())
    view, crc32 = memoryview(bodies), zlib.crc32
    ends = [0, *accumulate(sizes.to_pylist())]
    crcs = pa.array([crc32(view[a:b]) for a, b in pairwise(ends)], pa.int64())
    texts = [
        table["timeline"],
        _text(table["position"]),
        table["conversation"],
        _text(table["sent_at"]),
        _text(table["sender"]),
        _text(table["stream"]),
        _text(table["seq"]),
        table["kind"],
        _text(pc.cast(table["receipt"], pa.int8())),
        _text(sizes),
        _text(crcs),
    ]
    lines = pc.binary_join_element_wise(*texts, "\t")
    return "\n".join(lines.to_pylist()).encode(), bodies


def _text(numbers: Any) -> Any:
    return pc.fill_null(pc.cast(numbers, pa.string()), "")
