"""A slice written anew without some of its rows: another file, verified; then one transaction puts it in the old one's
place. The old file is removed later: somebody may be reading it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import trio

from chat.errors import SetupError
from chat.persist.archive.folder import Folder
from chat.persist.archive.mover import Clock, commit, new_name
from chat.persist.archive.rows import Garbled
from chat.persist.archive.slices import Made, make, read, verify_rows
from chat.persist.archive.tables import Slice, file_begun, slice_comes, slice_goes
from chat.ports import Database

Keep = Callable[[Any], Any]  # rows → those that stay


class Rewriter:
    def __init__(
        self, database: Database, folder: Folder, *, now: Clock, step: Callable[[str], None] = lambda name: None
    ) -> None:
        self._database = database
        self._folder = folder
        self._now = now
        self._step = step
        self._cpu = trio.CapacityLimiter(1)

    async def rewrite(self, one: Slice, keep: Keep) -> int:
        """How many rows went. Raises PartError; SetupError: the slice is damaged. The archiver's lock must be held."""
        rows = await self.rows(one)
        left: pa.Table = await trio.to_thread.run_sync(keep, rows, limiter=self._cpu)
        if len(left) == len(rows):
            return 0
        if not len(left):
            await self._database.write(slice_goes(one, self._now()))
            return len(rows)
        file = new_name(self._now())
        await self._database.write([file_begun(file, self._now())])
        made: Made = await trio.to_thread.run_sync(make, left, limiter=self._cpu)
        await self._folder.write(file, made.data)
        self._step("rewritten")
        data = await self._folder.read(file)
        await trio.to_thread.run_sync(verify_rows, data, made, left, limiter=self._cpu)
        swap = [*slice_comes(file, made, self._now()), *slice_goes(one, self._now())]
        if not await commit(self._database, file, swap):
            raise SetupError(f"slice {one.id} was changed by somebody else meanwhile; run this again")
        self._step("swapped")
        return len(rows) - len(left)

    async def rows(self, one: Slice) -> pa.Table:
        """Raises PartError; SetupError where the file is not what it was."""
        data = await self._folder.read(one.file)
        try:
            return await trio.to_thread.run_sync(read, data, one.checksum, limiter=self._cpu)
        except (Garbled, pa.ArrowException) as error:
            raise SetupError(f"{one.file} is damaged ({_said(error)}): restore it from a back-up of the archive") from error


def _said(error: Exception) -> str:
    return error.message if isinstance(error, Garbled) else str(error)
