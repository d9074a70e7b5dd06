"""The place where slices lie: a folder, or whatever fsspec knows by its address (s3://bucket/prefix).

A file is written once under a name that nothing has had before, and is on disk (or acknowledged by the store) when `write`
returns. All of it is done in threads. Whatever fails, or takes longer than `seconds`, is PartAway("archive"): a thread that
still hangs is left behind, and what it may yet write is known to the table `archive_files`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
import trio
from fsspec.implementations.local import LocalFileSystem

from chat.bridge.stores import prepare_stores
from chat.errors import PartAway, PartError, SetupError

T = TypeVar("T")

SECONDS: Final = 120.0
NO_URL: Final = "[archive] url is empty: name the folder, or the address, where old messages are or are to go"


class Folder:
    """Build it with `open_folder`."""

    def __init__(self, filesystem: Any, root: str, seconds: float = SECONDS) -> None:
        self._files = filesystem
        self._root = root.rstrip("/")
        self._seconds = seconds
        self._limiter = trio.CapacityLimiter(4)
        self._local = isinstance(filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    async def write(self, name: str, data: bytes) -> None:
        """Whole and on disk. Cancelled or failed: nothing, a part or all of it may be there."""
        if self._local:
            await self._do(_write_durably, Path(self.path(name)), data)
        else:
            await self._do(_put, self._files, self.path(name), data)

    async def read(self, name: str) -> bytes:
        """Raises FileMissing, PartAway."""
        try:
            data: bytes = await self._do(_get, self._files, self.path(name))
        except FileNotFoundError as error:
            raise FileMissing(name, self._root) from error
        return data

    async def remove(self, name: str) -> None:
        """It need not be there."""
        try:
            await self._do(_remove, self._files, self.path(name))
        except FileNotFoundError:
            return

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        with trio.move_on_after(self._seconds):
            return await trio.to_thread.run_sync(_told, function, args, abandon_on_cancel=True, limiter=self._limiter)
        raise PartAway("archive", f"{self._root} has not answered for {self._seconds:g} s")


class NoFolder(Folder):
    """Where nothing is archived."""

    def __init__(self) -> None:
        super().__init__(None, "")

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        raise SetupError(f"something is archived, but {NO_URL}")


class FileMissing(PartError):
    """A file that the index speaks of is not there."""

    def __init__(self, name: str, root: str) -> None:
        super().__init__("archive", f"{name} is not in {root}: restore it from a back-up of the archive")
        self.name = name


def open_folder(url: str) -> Folder:
    """Raises SetupError: an address that nothing here understands."""
    prepare_stores()
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise SetupError(
            f"[archive] url {shown(url)} needs another package: {error}; for S3: pip install chat-cluster[s3]"
        ) from error
    except ValueError as error:
        raise SetupError(f"[archive] url {shown(url)}: {error}") from error
    return Folder(filesystem, root)


def shown(url: str) -> str:
    """Without what stands before an @: it may be a secret."""
    scheme, colon, rest = url.rpartition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"


def _told(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    try:
        return function(*args)
    except FileNotFoundError:
        raise
    except Exception as error:  # stores have errors of their own; whichever it is, the archive is away
        raise PartAway("archive", f"{type(error).__name__}: {error}") from error


def _put(files: Any, path: str, data: bytes) -> None:
    files.pipe_file(path, data)


def _get(files: Any, path: str) -> bytes:
    data: bytes = files.cat_file(path)
    return data


def _remove(files: Any, path: str) -> None:
    files.rm_file(path)


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
