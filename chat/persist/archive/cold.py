"""The archive as edges read it: what was asked is worked off in a few worker threads, each with a time limit.

Nothing of Arrow is imported before the first read (or `warm`): an edge whose archive is empty never pays for it. A file
that is missing or damaged, a store that is out of reach, and no free thread in time are PartAway("archive"), which clients
are told as `unavailable`: never is a page answered without rows that should be in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
import trio

from chat.errors import PartAway
from chat.persist.archive.lru import Lru
from chat.persist.archive.pieces import Ask, Ids, Keys, Matches, Piece, Place
from chat.persist.row import Row

T = TypeVar("T")

log = structlog.get_logger()

SECONDS: Final = 3.0
THREADS: Final = 2
#: Between two lines in the log that say the same of a slice.
TOLD_S: Final = 10.0
_TOLD_MOST: Final = 1_000


class Cold:
    """`url`: [archive] url; empty: there is no archive, and being asked for something in it is an error (PartAway). All
    methods raise PartAway. Cancelling one is safe: its thread ends by itself."""

    def __init__(self, url: str, cache_mb: int, *, seconds: float = SECONDS) -> None:
        self._url = url
        self.cache = Lru(cache_mb << 20)
        self._seconds = seconds
        self._limiter = trio.CapacityLimiter(THREADS)
        self._store: Any = None
        self._told: dict[str, float] = {}

    async def warm(self) -> None:
        """Import what reading needs, so that the first reader does not wait for it."""
        if self._url:
            await self._do(lambda scan, reader: scan.pattern(""))

    async def by_position(
        self, pieces: Sequence[Piece], above: int, below: int, limit: int, *, newest: bool = False
    ) -> list[tuple[int, Place]]:
        return await self._do(
            lambda scan, reader: scan.by_position(reader, pieces, above, below, limit=limit, newest=newest)
        )

    async def count(self, pieces: Sequence[Piece], above: int, below: int) -> int:
        return await self._do(lambda scan, reader: scan.count(reader, pieces, above, below))

    async def at_positions(self, pieces: Sequence[Piece], positions: Sequence[int]) -> list[Row]:
        return await self._do(lambda scan, reader: scan.at_positions(reader, pieces, positions))

    async def rows(self, places: Sequence[Place], *, bodies: bool = True) -> list[Row]:
        """In the order of the places."""
        return await self._do(lambda scan, reader: scan.rows(reader, places, bodies=bodies))

    async def newest(self, asks: Sequence[Ask], limit: int) -> list[Keys]:
        return await self._do(lambda scan, reader: [scan.newest(reader, ask, limit) for ask in asks])

    async def unread(self, asks: Sequence[tuple[Ask, int]], user: int) -> list[int]:
        """Of each, with how many rows are to be looked at."""
        return await self._do(lambda scan, reader: [scan.unread(reader, ask, most, user) for ask, most in asks])

    async def find(self, pieces: Sequence[Piece], ids: Ids) -> list[tuple[int, Place]]:
        return await self._do(lambda scan, reader: scan.find(reader, pieces, ids))

    async def search_by_time(self, asks: Sequence[Ask], needle: str, limit: int, floor: int | None) -> Matches:
        return await self._do(lambda scan, reader: scan.search_by_time(reader, asks, needle, limit, floor))

    async def search_by_position(self, pieces: Sequence[Piece], below: int, needle: str, limit: int) -> Matches:
        return await self._do(lambda scan, reader: scan.search_by_position(reader, pieces, below, needle, limit))

    # ---------------------------------------------------------------- threads

    async def _do(self, work: Callable[[Any, Any], T]) -> T:
        """`work` gets the module `scan` and a Reader, in a thread."""
        if not self._url:
            self._tell("", "[archive] url is empty here, but there are archived messages: name where they are")
            raise PartAway("archive", "this edge does not know where the archive is")
        deadline = time.monotonic() + self._seconds
        with trio.move_on_after(self._seconds):
            try:
                return await trio.to_thread.run_sync(
                    self._work, deadline, work, abandon_on_cancel=True, limiter=self._limiter
                )
            except PartAway as error:
                self._tell(getattr(error, "file", ""), error.message)
                raise
        self._tell("", f"no answer within {self._seconds:g} s")
        raise PartAway("archive", f"no answer within {self._seconds:g} s")

    def _work(self, deadline: float, work: Callable[[Any, Any], T]) -> T:
        from chat.persist.archive import scan  # in a thread, and not before it is needed
        from chat.persist.archive.reader import Reader, Store

        if self._store is None:
            try:
                self._store = Store(self._url)
            except (ImportError, ValueError) as error:
                raise PartAway("archive", f"[archive] url: {error}") from error
        with Reader(self._store, self.cache, deadline) as reader:
            return work(scan, reader)

    def _tell(self, file: str, why: str) -> None:
        now = time.monotonic()
        if now - self._told.get(file, -TOLD_S) < TOLD_S:
            return
        if len(self._told) >= _TOLD_MOST:
            self._told.clear()
        self._told[file] = now
        log.error("archived messages cannot be read", slice=file or None, why=why)
