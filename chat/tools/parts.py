"""What the supervisor runs: one description per process, whoever it is."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from chat.tools.readiness import Check

Role = Literal["kafka", "redis", "mariadb", "nginx", "edge", "router", "persist", "archiver"]


@dataclass(frozen=True)
class Once:
    """A command to be run before the first start. `done` is made when it has succeeded; as long as it is missing, `clear`
    is removed before, for it may be half made."""

    command: tuple[str, ...]
    done: Path
    clear: Path


@dataclass(frozen=True)
class Part:
    name: str  # kafka, edge-1
    role: Role
    address: str  # host:port where it is reached; empty: nowhere
    command: tuple[str, ...]
    folder: Path  # where it runs; made when missing
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)  # written, for the owner alone, before each start
    settings: str = ""  # what else it reads at its start: with other settings it is not the same
    once: Once | None = None
    check: Check | None = None  # None: it tells by NOTIFY_SOCKET (see chat/notify.py)
    stop_s: float = 10.0  # after SIGTERM; then SIGKILL
    nice: int = 0  # its priority, as nice(1) counts

    @property
    def fingerprint(self) -> str:
        """Two descriptions with the same one run the same thing: a process of the one may be kept for the other."""
        files = sorted((str(path), text) for path, text in self.files.items())
        what = (self.command, sorted(self.environment.items()), files, self.settings, self.nice)
        return sha256(repr(what).encode()).hexdigest()[:16]


def write_files(part: Part) -> None:
    part.folder.mkdir(parents=True, exist_ok=True)
    for path, text in part.files.items():
        write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by the owner alone. Several may write the same file at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
