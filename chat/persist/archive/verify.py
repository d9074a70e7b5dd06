"""Every slice against its file: there, with its checksum, its rows and their order, its stretches in the index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import trio

from chat.persist.archive.folder import FileMissing, Folder
from chat.persist.archive.layout import SORTED_BY
from chat.persist.archive.rows import Garbled
from chat.persist.archive.slices import Stretch, read, stretches
from chat.persist.archive.tables import Slice, index_of, is_slice, slices
from chat.ports import Database


class Damage(NamedTuple):
    slice: int
    file: str
    what: str


@dataclass
class Verified:
    slices: int = 0
    rows: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"damaged": [d._asdict() for d in self.damaged]}


async def verify_all(database: Database, folder: Folder, tell: Callable[[int, int], None]) -> Verified:
    """`tell(done, of)` after each. Raises PartError where a server is away. The archiver may be at work meanwhile."""
    found = Verified()
    every = await slices(database)
    for done, one in enumerate(every, 1):
        what = await _damage(database, folder, one)
        if what and await is_slice(database, one.file):  # not one that was replaced meanwhile
            found.damaged.append(Damage(one.id, one.file, what))
        found.slices += 1
        found.rows += one.rows
        found.bytes += one.size
        tell(done, len(every))
    return found


async def _damage(database: Database, folder: Folder, one: Slice) -> str:
    try:
        data = await folder.read(one.file)
    except FileMissing:
        return "the file is missing"
    return await trio.to_thread.run_sync(_differs, data, one, await index_of(database, one.id))


def _differs(data: bytes, one: Slice, index: list[Stretch]) -> str:
    """What is wrong; empty: nothing."""
    try:
        table = read(data, one.checksum)
    except (Garbled, pa.ArrowException) as error:
        return f"the file is damaged: {error.message if isinstance(error, Garbled) else error}"
    if len(table) != one.rows:
        return f"{len(table)} rows, {one.rows} in archive_slices"
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in SORTED_BY])
    if not order.equals(pa.array(range(len(table)), pa.uint64())):
        return "the rows are not in order"
    if stretches(table) != index:
        return "archive_index is not that of the file"
    return ""
