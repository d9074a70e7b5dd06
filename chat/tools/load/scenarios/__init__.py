"""The scenarios: each `run(run: Run) -> None` goes through its phases; what it finds goes into `run.report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from chat.tools.load.run import Run
from chat.tools.load.scenarios import direct, group, idle, offline, storm

SCENARIOS: Final[Mapping[str, Callable[[Run], None]]] = {
    "direct": direct.run,
    "group": group.run,
    "idle": idle.run,
    "offline": offline.run,
    "storm": storm.run,
}
