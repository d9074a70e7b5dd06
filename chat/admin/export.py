"""A user's whole own timeline, hot and cold, in order of its positions, as JSON lines."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa

from chat.persist.archive.shelf import Shelf
from chat.ports import Database, Statement

_PAGE: Final = 2_000
_COLUMNS: Final = ("position", "conversation", "sent_at", "sender", "stream", "seq", "kind", "receipt", "body")


async def export(database: Database, shelf: Shelf, user: int) -> AsyncGenerator[str, None]:
    """Lines. The archiver's lock must be held, or a row that moves meanwhile may be missed. Raises PartError, SetupError."""
    timeline = f"u{user}"
    cold = _cold(await shelf.table(timeline))
    one = next(cold, None)
    async for row in _hot(database, timeline):
        while one is not None and one["position"] < row["position"]:
            yield _line(timeline, one)
            one = next(cold, None)
        yield _line(timeline, row)
    while one is not None:
        yield _line(timeline, one)
        one = next(cold, None)


def _cold(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for at in range(0, len(rows), _PAGE):
        yield from rows.slice(at, _PAGE).to_pylist()


async def _hot(database: Database, timeline: str) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while True:
        (found,) = await database.read(
            [
                Statement(
                    f"SELECT {', '.join(_COLUMNS)} FROM messages WHERE timeline = %s AND position > %s"
                    " ORDER BY position LIMIT %s",
                    (timeline, after, _PAGE),
                )
            ]
        )
        for row in found.rows:
            yield dict(zip(_COLUMNS, row, strict=True))
        if len(found.rows) < _PAGE:
            return
        after = found.rows[-1][0]


def _line(timeline: str, row: dict[str, Any]) -> str:
    """`message` is the frame as it was sent; where that is no JSON (it never should), `body` in base64 instead."""
    fields = {"timeline": timeline} | {name: _plain(row[name]) for name in _COLUMNS if name != "body"}
    fields["receipt"] = bool(fields["receipt"])
    body = bytes(row["body"])
    try:
        fields["message"] = msgspec.json.decode(body)
    except msgspec.DecodeError:
        fields["body"] = base64.b64encode(body).decode()
    return json.dumps(fields, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.decode("ascii") if isinstance(value, bytes) else value
