"""What came out, kept: one file a day, `<folder>/<date>.json`, a row in it replaced when it is measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from chat.errors import SetupError
from chat.tools.load.report import Report


class Done(Struct, kw_only=True):
    """One `chat load`: what to type for it, and its report."""

    command: str
    report: Report


class Outcome(Struct, kw_only=True):
    """One row. Of a search all runs are kept, the confirming one last."""

    row: str
    machine: dict[str, Any]
    runs: list[Done]

    @property
    def reports(self) -> list[Report]:
        return [run.report for run in self.runs]

    @property
    def date(self) -> str:
        return str(self.machine.get("date", ""))


class Day(Struct, kw_only=True):
    rows: dict[str, Outcome] = field(default_factory=dict)


def keep(folder: Path, outcome: Outcome) -> Path:
    """Into the file of its day. Raises SetupError: that is no file of ours."""
    path = folder / f"{outcome.date[:10]}.json"
    day = read(path) if path.is_file() else Day()
    day.rows[outcome.row] = outcome
    folder.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(day), indent=1) + b"\n")
    new.replace(path)
    return path


def read(path: Path) -> Day:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Day)
    except msgspec.DecodeError as error:
        raise SetupError(f"{path} is not a file of `chat bench`: {error}") from error


def latest(folder: Path) -> dict[str, Outcome]:
    """Of each row the last one that was measured."""
    found: dict[str, Outcome] = {}
    for path in sorted(folder.glob("????-??-??.json")):
        for name, outcome in read(path).rows.items():
            if name not in found or outcome.date >= found[name].date:
                found[name] = outcome
    return found
