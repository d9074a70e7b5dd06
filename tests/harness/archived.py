"""Rows that a test moves into slices, in any grouping: real files, made and indexed by the archiver's own code."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from chat.persist.archive import slices
from chat.persist.archive.layout import SCHEMA
from chat.persist.archive.tables import file_begun, slice_comes
from chat.ports import Database, Statement
from chat.sql import literal

Key = tuple[str, int]  # timeline, position


async def keys_of(database: Database, condition: str = "TRUE", *args: Any) -> list[Key]:
    (result,) = await database.read(
        [Statement(f"SELECT timeline, position FROM messages WHERE {condition} ORDER BY timeline, position", args)]
    )
    return [(r[0], r[1]) for r in result.rows]


async def archive_rows(database: Database, folder: Path, keys: Sequence[Key]) -> str:
    """Into one slice, and out of the table, in one transaction; the file's name."""
    chosen = f"(timeline, position) IN ({','.join(map(literal, keys))})"
    (result,) = await database.read([Statement(f"SELECT {', '.join(SCHEMA.names)} FROM messages WHERE {chosen}")])
    columns = list(zip(*result.rows, strict=True))
    columns[SCHEMA.names.index("receipt")] = tuple(map(bool, columns[SCHEMA.names.index("receipt")]))
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    made = slices.make(table)
    file = f"slice-{secrets.token_hex(8)}.parquet"
    _write(folder / file, made.data)
    await database.write([file_begun(file, 0)])
    gone = Statement(f"DELETE FROM messages WHERE {chosen}", (), len(keys))
    await database.write([*slice_comes(file, made, 0), gone])
    return file


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
