"""The local history of a client, by the clock, with its disk: `python -m benchmarks.local_history [--messages N] [--json]`

Texts of 100 bytes of one conversation and one day go into a new history in a temporary folder (or `--folder`), which is then
read. Append: in groups of 1, 20 and 500 messages, one fsync each. Page: the newest 50, and 50 in the middle. Search: what is
nowhere. Rebuild: the index made anew from the files. Memory: the most that the process had.
"""

from __future__ import annotations

import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.data import NOW, TEXT
from chat.client.local.history import INDEX, LocalHistory
from chat.client.local.search import step
from chat.protocol import Message

GROUPS: Final = {1: 500, 20: 200}  # messages in a group: how many groups; the rest in 500s
ROUNDS: Final = 50
PASSWORD: Final = "benchmark"


def messages(count: int) -> Iterator[tuple[str, Message]]:
    for n in range(count):
        yield "u2", Message(sender=2, to=1, stream=7, seq=n, sent_at=NOW + n, kind="text", text=TEXT, pos=n + 1)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[], Any]) -> float:
    return sorted(timed(work) for _ in range(ROUNDS))[ROUNDS // 2]


def search(history: LocalHistory) -> None:
    before = None
    while True:
        _, before = step(history, "nowhere to be found", None, before)
        if before is None:
            return


def measure(folder: Path, count: int) -> dict[str, float]:
    found: dict[str, float] = {}
    history = LocalHistory.open(folder, PASSWORD)
    source = messages(count)
    left = count
    for size, wanted in [*GROUPS.items(), (500, count)]:
        groups = min(wanted, left // size)
        left -= groups * size
        batches = [[next(source) for _ in range(size)] for _ in range(groups)] if size < 500 else None
        spent = 0.0
        for n in range(groups):
            batch = batches[n] if batches else [next(source) for _ in range(size)]
            spent += timed(lambda: history.append(batch))  # noqa: B023 - called at once
        if groups:
            found[f"append in groups of {size}, µs a message"] = spent / (groups * size) * 1e6
    size = sum(path.stat().st_size for path in folder.rglob("*.chat"))
    found["bytes a message"] = size / (count - left)
    found["MB in all"] = size / 1e6
    found["newest page of 50, ms"] = median(lambda: history.page("u2", 50)) * 1e3
    middle = (NOW + random.randrange(count), 0)
    found["page of 50 in the middle, ms"] = median(lambda: history.page("u2", 50, middle)) * 1e3
    found["search, µs a message"] = timed(lambda: search(history)) / (count - left) * 1e6
    history.close()
    began = time.perf_counter()
    history = LocalHistory.open(folder, PASSWORD)
    history.page("u2", 50)
    found["open and newest page, ms"] = (time.perf_counter() - began) * 1e3
    found["memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    history.close()
    (folder / INDEX).unlink()
    history = LocalHistory.open(folder, PASSWORD)
    found["rebuild of the index, µs a message"] = timed(lambda: history.page("u2", 50)) / (count - left) * 1e6
    history.close()
    return found


@click.command()
@click.option("--messages", "count", default=200_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On the disk to be measured.")
@click.option("--json", "as_json", is_flag=True)
def main(count: int, folder: Path | None, as_json: bool) -> None:
    """Measure the local history."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        found = measure(Path(place) / "history", count)
    if as_json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:40} {value:10.2f}")


if __name__ == "__main__":
    main()
