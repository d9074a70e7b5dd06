"""Where the files of a history lie: `u34/2026-11-24.chat`, and `u34/2026-11-24.1.chat` when the first has its 200 MB.

A folder is a friend or a group, by number. A file holds what was sent on one day (UTC, by `sent_at`), also where it came
later.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999

_CONVERSATION: Final = re.compile(r"[ug][1-9]\d{0,15}")
_NAME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.([1-9]\d{0,5}))?\.chat")


class FileName(NamedTuple):
    """A file of a history. `day` as 2026-11-24; `part` 0, 1 …"""

    conversation: str
    day: str
    part: int

    def below(self, folder: Path) -> Path:
        part = f".{self.part}" if self.part else ""
        return folder / self.conversation / f"{self.day}{part}.chat"


def day_of(sent_at: int) -> str:
    """`sent_at` in milliseconds; what lies outside of 1970 to 9999 counts as the nearest day inside."""
    at = time.gmtime(min(max(sent_at, 0), LAST_MS) // 1000)
    return f"{at.tm_year:04}-{at.tm_mon:02}-{at.tm_mday:02}"


def is_conversation(name: str) -> bool:
    return _CONVERSATION.fullmatch(name) is not None


def conversations(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if is_conversation(entry.name) and entry.is_dir())


def files(folder: Path, conversation: str) -> dict[FileName, int]:
    """The files of a conversation with their sizes in bytes, in their order."""
    try:
        entries = list(os.scandir(folder / conversation))
    except FileNotFoundError:
        return {}
    found = {
        FileName(conversation, match[1], int(match[2] or 0)): entry.stat().st_size
        for entry in entries
        if (match := _NAME.fullmatch(entry.name)) and entry.is_file()
    }
    return dict(sorted(found.items()))


def sync_folder(folder: Path) -> None:
    """What was made or renamed in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
