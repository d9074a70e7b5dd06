"""Columns of row groups out of slices, through the cache. For worker threads: nothing here may run on the loop.

A file never changes, so what was read of it stays true. Only the footer, and of the row groups that are wanted the columns
that are wanted, are read; pages are checked against their checksums.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any, Final, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from chat.bridge.stores import prepare_stores
from chat.errors import PartAway
from chat.persist.archive.lru import Lru

#: Bytes in memory for one of a footer's, about.
_FOOTER: Final = 6
_POSITION, _SENT_AT = "position", "sent_at"


class Unreadable(PartAway):
    """A slice's file is missing, damaged, or out of reach."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__("archive", f"{file}: {why}")
        self.file = file
        self.why = why


class Group(NamedTuple):
    """A row group: rows first <= row < end; what its statistics say of it, None: nothing."""

    number: int
    first: int
    end: int
    min_position: int | None
    max_position: int | None
    max_sent_at: int | None


class Footer(NamedTuple):
    metadata: Any
    groups: Sequence[Group]
    ends: Sequence[int]
    size: int


class Store:
    """Where the slices lie. Raises ValueError, ImportError: an address that nothing here understands."""

    def __init__(self, url: str) -> None:
        prepare_stores()
        self.filesystem, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._local = isinstance(self.filesystem, LocalFileSystem)

    def open(self, file: str) -> tuple[Any, bool]:
        """A file to read from, and whether reads of it are far."""
        path = f"{self._root}/{file}"
        if self._local:
            return pa.OSFile(path), False
        return self.filesystem.open(path, "rb", cache_type="none"), True


class Reader:
    """For one request: opens what it needs once. Ends at `deadline` (time.monotonic) with PartAway."""

    def __init__(self, store: Store, cache: Lru, deadline: float) -> None:
        self._store = store
        self._cache = cache
        self._deadline = deadline
        self._files: dict[str, tuple[Any, bool]] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def footer(self, file: str) -> Footer:
        found: Footer | None = self._cache.get((file, -1, ""))
        if found is None:
            with self._telling(file):
                source, far = self._open(file)
                metadata = pq.ParquetFile(source, pre_buffer=far).metadata
                found = _footer(metadata)
            self._cache.put((file, -1, ""), found, _FOOTER * metadata.serialized_size)
        return found

    def groups(self, file: str, first: int, rows: int) -> Sequence[Group]:
        """Those that have these rows."""
        footer = self.footer(file)
        if not footer.ends or first + rows > footer.ends[-1]:
            raise Unreadable(
                file, f"it has {footer.ends[-1] if footer.ends else 0} rows, the index speaks of {first + rows}"
            )
        start = bisect_right(footer.ends, first)
        end = bisect_right(footer.ends, first + rows - 1)
        return footer.groups[start : end + 1]

    def columns(self, file: str, group: int, names: Sequence[str]) -> list[Any]:
        """Arrow arrays, in the order of the names."""
        found = {name: self._cache.get((file, group, name)) for name in names}
        missing = [name for name, array in found.items() if array is None]
        if missing:
            footer = self.footer(file)
            with self._telling(file):
                source, far = self._open(file)
                parquet = pq.ParquetFile(source, metadata=footer.metadata, pre_buffer=far, page_checksum_verification=True)
                table = parquet.read_row_group(group, columns=missing, use_threads=False)
                for name in missing:
                    column = table[name]
                    array = found[name] = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
                    self._cache.put((file, group, name), array, array.nbytes)
        return [found[name] for name in names]

    def check(self) -> None:
        """Raises PartAway when the time is over: whoever asked is gone."""
        if time.monotonic() > self._deadline:
            raise PartAway("archive", "reading takes too long")

    def _open(self, file: str) -> tuple[Any, bool]:
        self.check()
        if file not in self._files:
            source, far = self._store.open(file)
            self._closing.callback(source.close)
            self._files[file] = source, far
        return self._files[file]

    @contextmanager
    def _telling(self, file: str) -> Iterator[None]:
        try:
            yield
        except PartAway:
            raise
        except FileNotFoundError as error:
            raise Unreadable(file, "the file is not there") from error
        except Exception as error:  # stores have errors of their own; whichever it is, the rows cannot be had now
            raise Unreadable(file, f"{type(error).__name__}: {error}") from error


def _footer(metadata: Any) -> Footer:
    columns = {metadata.schema.column(n).name: n for n in range(metadata.num_columns)}
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    ends = list(accumulate(sizes))
    groups = []
    for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        group = metadata.row_group(number)
        low, high = _extremes(group.column(columns[_POSITION]))
        groups.append(Group(number, end - size, end, low, high, _extremes(group.column(columns[_SENT_AT]))[1]))
    return Footer(metadata, groups, ends, metadata.serialized_size)


def _extremes(chunk: Any) -> tuple[int | None, int | None]:
    found = chunk.statistics
    return (found.min, found.max) if found is not None and found.has_min_max else (None, None)
