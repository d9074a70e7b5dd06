"""Archived rows for an operator's tools: by timeline, by conversation, by key. Whole slices are read, one at a time; what
clients ask for is read in another way, with limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import pyarrow as pa
import trio

from chat.errors import SetupError
from chat.persist.archive.folder import Folder, NoFolder, open_folder
from chat.persist.archive.layout import SCHEMA
from chat.persist.archive.rows import Garbled
from chat.persist.archive.slices import Stretch, read
from chat.persist.archive.tables import Slice, slices
from chat.persist.queries import text
from chat.ports import Database, Statement

#: Keys in one statement.
_KEYS = 500


class Cold(NamedTuple):
    """An archived row."""

    timeline: str
    position: int
    conversation: str
    sent_at: int
    sender: int
    stream: int | None
    seq: int | None
    kind: str
    receipt: bool
    body: bytes


class Shelf:
    """`url`: [archive] url; empty where nothing is archived (SetupError, if something is after all). All methods raise
    PartError, SetupError, and may be cancelled."""

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._url = url
        self._folder: Folder | None = None
        self._last: tuple[int, pa.Table] | None = None  # the slice read last: several stretches of it may be wanted

    async def rows(self, timeline: str, conversation: str = "") -> list[Cold]:
        """Of a timeline, or of one conversation in it, in order of their positions."""
        return [_cold(row) for row in (await self.table(timeline, conversation)).to_pylist()]

    async def table(self, timeline: str, conversation: str = "") -> pa.Table:
        """The same as Arrow (SCHEMA): for many."""
        parts = [
            (await self._table(one)).slice(stretch.first, stretch.rows)
            for one, stretch in await self._stretches(timeline, conversation)
        ]
        return pa.concat_tables([SCHEMA.empty_table(), *parts]).sort_by("position")

    async def digests(self, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """(timeline, position) → SHA-256 of the body in hex, of those keys that are archived."""
        wanted: dict[str, set[int]] = {}
        for timeline, position in keys:
            wanted.setdefault(timeline, set()).add(position)
        found: dict[tuple[str, int], str] = {}
        for one, stretch in await self._covering(wanted):
            positions = wanted[stretch.timeline]
            for row in await self._rows(one, stretch):
                if row.position in positions:
                    found[row.timeline, row.position] = sha256(row.body).hexdigest()
        return found

    async def _covering(self, wanted: Mapping[str, Collection[int]]) -> list[tuple[Slice, Stretch]]:
        found: list[tuple[Slice, Stretch]] = []
        every = sorted(wanted)
        for at in range(0, len(every), _KEYS):
            condition = " OR ".join(
                "(i.timeline = %s AND i.max_position >= %s AND i.min_position <= %s)" for _ in every[at : at + _KEYS]
            )
            args = [a for t in every[at : at + _KEYS] for a in (t, min(wanted[t]), max(wanted[t]))]
            found += await self._find(condition, args)
        return [
            (one, stretch)
            for one, stretch in found
            if any(stretch.min_position <= p <= stretch.max_position for p in wanted[stretch.timeline])
        ]

    async def _stretches(self, timeline: str, conversation: str) -> list[tuple[Slice, Stretch]]:
        if conversation:
            return await self._find("i.timeline = %s AND i.conversation = %s", [timeline, conversation])
        return await self._find("i.timeline = %s", [timeline])

    async def _find(self, condition: str, args: Sequence[Any]) -> list[tuple[Slice, Stretch]]:
        (result,) = await self._database.read(
            [
                Statement(
                    "SELECT i.slice, i.timeline, i.conversation, i.first_row, i.row_count, i.min_position, i.max_position,"
                    f" i.min_sent_at, i.max_sent_at FROM archive_index i WHERE {condition} ORDER BY i.slice, i.first_row",
                    args,
                )
            ]
        )
        if not result.rows:
            return []
        numbers = ",".join(str(n) for n in sorted({row[0] for row in result.rows}))
        by_id = {one.id: one for one in await slices(self._database, f"id IN ({numbers})")}
        return [(by_id[row[0]], Stretch(text(row[1]), text(row[2]), *row[3:])) for row in result.rows if row[0] in by_id]

    async def _rows(self, one: Slice, stretch: Stretch) -> list[Cold]:
        table = await self._table(one)
        return [_cold(row) for row in table.slice(stretch.first, stretch.rows).to_pylist()]

    async def _table(self, one: Slice) -> pa.Table:
        if self._last is None or self._last[0] != one.id:
            if self._folder is None:
                self._folder = open_folder(self._url) if self._url else NoFolder()
            data = await self._folder.read(one.file)
            try:
                self._last = (one.id, await trio.to_thread.run_sync(read, data, one.checksum))
            except (Garbled, pa.ArrowException) as error:
                raise SetupError(f"{one.file} is damaged ({error}): restore it from a back-up of the archive") from error
        return self._last[1]


def _cold(row: dict[str, Any]) -> Cold:
    return Cold(*(row[name] for name in Cold._fields))
