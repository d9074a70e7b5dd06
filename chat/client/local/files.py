"""One file of a history on its disk: scanned after a crash, read in spans, appended to."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chat.client.local.folders import FileName, sync_folder
from chat.client.local.layout import MAGIC, NO_LINK, Damaged, Record, begins, open_at, scan

SPAN: Final = 1 << 20  # bytes read at once, at most, where it is not one record
APART: Final = 16_384  # records closer than this are read together
OPEN: Final = 64  # files kept open for appending


class End(NamedTuple):
    """Where the next record of a file goes: its offset, its number, and the link that it will name."""

    offset: int
    number: int
    link: bytes


BEGIN: Final = End(len(MAGIC), 0, NO_LINK)


class Said(NamedTuple):
    """Something that the user is told about a file. `loss`: what was on the disk once is not readable."""

    text: str
    loss: bool


class Place(NamedTuple):
    """Where a record lies, as the index has it."""

    offset: int
    length: int
    number: int


def recover(folder: Path, name: FileName, cipher: AESGCM, start: End) -> Iterator[Record | Said]:
    """The records from `start` on. What does not open is said: in the middle it is passed over; at the end it is what a
    crash left, and is cut off. What is yielded is on the disk: a killed program may have left it to the kernel.

    A file of which nothing opens is kept under another name: it may be of another key. Raises OSError.
    """
    path = name.below(folder)
    shown = f"{name.conversation}/{path.name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
        if start == BEGIN and size < len(MAGIC):
            os.ftruncate(descriptor, 0)
            if size:
                yield Said(f"{shown}: {size} bytes that a crash left were cut off", loss=False)
        elif size > start.offset:
            with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
                if start == BEGIN and data[: len(MAGIC)] != MAGIC:
                    yield Said(f"{shown}: its first bytes are damaged", loss=False)
                cut = yield from _look(shown, cipher, data, start)
                foreign = cut == start.offset == BEGIN.offset and not begins(data, cut)
            if foreign:
                kept = path.with_name(f"{path.name}.unreadable")
                path.rename(kept)
                sync_folder(path.parent)
                yield Said(f"{shown}: nothing in it can be read; it was renamed to {kept.name}", loss=True)
                return
            if cut < size:
                os.ftruncate(descriptor, cut)
                os.fsync(descriptor)
                yield Said(f"{shown}: {size - cut} bytes that a crash left at its end were cut off", loss=False)
    finally:
        os.close(descriptor)


def _look(shown: str, cipher: AESGCM, data: mmap.mmap, start: End) -> Generator[Record | Said, None, int]:
    """Returns where the last record ends."""
    number, link, after_damage = start.number, start.link, False
    end = start.offset
    for found in scan(cipher, data, start.offset):
        if isinstance(found, Damaged):
            if found.end < len(data):
                yield Said(f"{shown}: {found.end - found.offset} bytes at {found.offset} are damaged", loss=True)
                after_damage = True
            continue
        if found.number < number:
            yield Said(f"{shown}: record {found.number} stands a second time, or out of its place", loss=True)
        elif found.number > number and not after_damage:
            yield Said(f"{shown}: records {number} to {found.number - 1} are missing", loss=True)
        elif found.names != link and not after_damage:
            yield Said(f"{shown}: the record before number {found.number} is not the one that was there", loss=True)
        yield found
        number, link, after_damage, end = max(number, found.number + 1), found.link, False, found.end
    return end


def read(folder: Path, name: FileName, cipher: AESGCM, places: Sequence[Place]) -> list[bytes | None]:
    """The texts at these places; None where one does not open there. Raises OSError."""
    texts: dict[int, bytes | None] = {}
    try:
        descriptor = os.open(name.below(folder), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return [None] * len(places)
    try:
        for span in _spans(sorted(places)):
            start = span[0].offset
            data = os.pread(descriptor, span[-1].offset + span[-1].length - start, start)
            for place in span:
                found = open_at(cipher, data, place.offset - start)
                fits = found is not None and (found.number, found.end - found.offset) == (place.number, place.length)
                texts[place.offset] = found.text if found is not None and fits else None
    finally:
        os.close(descriptor)
    return [texts[place.offset] for place in places]


def _spans(places: Sequence[Place]) -> Iterator[list[Place]]:
    span: list[Place] = []
    for place in places:
        if span and (
            place.offset - (span[-1].offset + span[-1].length) > APART or place.offset + place.length - span[0].offset > SPAN
        ):
            yield span
            span = []
        span.append(place)
    if span:
        yield span


class Appender:
    """Files open for appending; the least used are closed. Not safe in several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[FileName, int] = OrderedDict()

    def write(self, name: FileName, offset: int, data: bytes) -> None:
        """At `offset`, the end of the file; a new file gets its head first. On disk after `sync`. Raises OSError."""
        descriptor = self._descriptor(name)
        if offset == len(MAGIC):
            data, offset = MAGIC + data, 0
        while data:
            done = os.pwrite(descriptor, data, offset)
            data, offset = data[done:], offset + done

    def sync(self, name: FileName) -> None:
        """Raises OSError; then nothing is known of what was written since the last."""
        os.fdatasync(self._descriptor(name))

    def cut(self, name: FileName, offset: int) -> None:
        """Take back what was written behind `offset`. Raises OSError."""
        descriptor = self._descriptor(name)
        os.ftruncate(descriptor, offset if offset > len(MAGIC) else 0)
        os.fsync(descriptor)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, name: FileName) -> int:
        descriptor = self._open.get(name)
        if descriptor is not None:
            self._open.move_to_end(name)
            return descriptor
        while len(self._open) >= OPEN:
            os.close(self._open.popitem(last=False)[1])
        path = name.below(self._folder)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
            sync_folder(self._folder)
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT, 0o600)
            sync_folder(path.parent)
        self._open[name] = descriptor
        return descriptor
