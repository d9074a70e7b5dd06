"""Logs of processes that write straight into a file, kept small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog
import trio

log = structlog.get_logger()

EVERY_S: Final = 5.0
CHUNK: Final = 1 << 20


async def keep_small(folder: Path, limit: int) -> None:
    """Cut every log above `limit` bytes, keeping the last whole of it as `<name>.1`. Never ends; cancel-safe.

    The file is copied and emptied in place, since its writer holds it open; writers append, so they go on at its start.
    A line written between the two steps is lost.
    """
    while True:
        await trio.to_thread.run_sync(cut_large, folder, limit)
        await trio.sleep(EVERY_S)


def cut_large(folder: Path, limit: int) -> None:
    for path in folder.glob("*.log"):
        try:
            if path.stat().st_size > limit:
                cut(path)
        except OSError as error:
            log.warning("log_not_cut", path=str(path), error=str(error))


def cut(path: Path) -> None:
    kept = path.with_name(path.name + ".1")
    with path.open("rb") as source, kept.open("wb") as target:
        while chunk := source.read(CHUNK):
            target.write(chunk)
    os.truncate(path, 0)


def last_lines(path: Path, count: int) -> list[str]:
    """Of what is at the end; empty where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
