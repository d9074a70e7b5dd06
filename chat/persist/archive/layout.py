"""The layout of a slice: one Parquet file of rows that left the table `messages`, never changed once it is written.

Rows are sorted by (timeline, conversation, sent_at, position), in row groups of ROW_GROUP; the table `archive_index` says
which stretch of rows a conversation of a timeline is. A slice that must change (a user was deleted) is written anew under
another name, and the index is changed in the transaction that makes it valid.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

ROW_GROUP: Final = 4_096
SORTED_BY: Final = ("timeline", "conversation", "sent_at", "position")

SCHEMA: Final = pa.schema(
    [
        pa.field("timeline", pa.string(), nullable=False),
        pa.field("conversation", pa.string(), nullable=False),
        pa.field("sent_at", pa.int64(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("sender", pa.int64(), nullable=False),
        pa.field("stream", pa.int64()),
        pa.field("seq", pa.int64()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("receipt", pa.bool_(), nullable=False),
        pa.field("body", pa.binary(), nullable=False),
    ]
)
