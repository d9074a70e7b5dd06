"""What the chaos suite has measured, as tables in the documents.

    python -m tests.harness.table .chat-chaos/recovery.json docs/failures.md

What stands between `<!-- measured -->` and `<!-- /measured -->` is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
HEADINGS: Final[Mapping[str, str]] = {
    "kills": "kill -9",
    "two at once": "kill -9 of two roles, all their processes, and of everything",
    "frozen": "SIGSTOP, then SIGCONT",
    "zombies": "Woken up when others have taken over",
    "servers": "Servers that come back other than they went",
    "network": "A broken network between clients and edges",
    "records": "Records that cannot be used",
    "storms": "Many blows in any order",
    "adversary": "Any blow at any time, by a seed",
    "changes": "Changes under load",
    "scaling": "More and fewer processes, step by step",
}
COLUMNS: Final[Mapping[str, str]] = {
    "returned_s": "part ready",
    "thrown_out": "thrown out",
    "back_s": "back",
    "first_s": "first",
    "last_s": "last late",
    "silence_s": "silence",
    "p99_ms": "p99 ms",
    "sent": "sent",
    "shown": "shown",
    "wrong": "wrong",
}


def render(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines: list[str] = []
    for section, heading in HEADINGS.items():
        rows = found.get(section)
        if not rows:
            continue
        lines += [f"### {heading}", "", _row(["disturbance", *COLUMNS.values()]), _row(["---"] * (len(COLUMNS) + 1))]
        lines += [_row([name, *(_cell(row.get(column)) for column in COLUMNS)]) for name, row in rows.items()]
        lines.append("")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{count} {kind}" for kind, count in value.items()) or "0"
    return f"{value:g}" if isinstance(value, float) else str(value)


def replace_between(text: str, table: str) -> str:
    """Raises ValueError where the marks are missing."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no {BEGIN} … {END} in it")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{table}\n{END}", text)


def main(words: list[str]) -> int:
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    source, document = map(Path, words)
    found = msgspec.json.decode(source.read_bytes())
    document.write_text(replace_between(document.read_text(), render(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
