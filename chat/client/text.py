"""Text on a terminal: what others wrote is made harmless, columns are counted as they show. Pure.

Nothing of a remote text reaches the terminal as an instruction: escape sequences, control characters, and the marks that
turn the direction of writing are taken out. Widths are those of `wcwidth`: 2 for Chinese, 0 for combining marks.
"""

from __future__ import annotations

import re
import time
from typing import Final

from wcwidth import wcswidth, wcwidth

_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC up to their end
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_DIRECTION: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_LINE_ENDS: Final = re.compile(r"\r\n|[\n\r\u2028\u2029\x85\x0b\x0c]")
NEW_LINE: Final = " ⏎ "

MARKS: Final = {"sending": "…", "accepted": "✓", "delivered": "✓✓", "read": "✓✓ read", "failed": "✗ failed"}
COLOURS: Final = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def clean(text: str) -> str:
    """`text` as one line that only shows: each end of a line is a ⏎, tabs are blanks."""
    text = _ESCAPES.sub("", text)
    text = _LINE_ENDS.sub(NEW_LINE, text.rstrip("\r\n")).replace("\t", " ")
    return "".join(c for c in text if c not in _DIRECTION and (c.isascii() or wcwidth(c) >= 0) and not _control(c))


def _control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"


def width(text: str) -> int:
    """Columns of a text that is clean."""
    return max(wcswidth(text), 0)


def cut(text: str, columns: int) -> str:
    """`text`, or its beginning and `…`, in at most `columns` columns."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…" if columns > 0 else ""


def pad(text: str, columns: int) -> str:
    """`text` cut or filled with blanks to exactly `columns` columns."""
    text = cut(text, columns)
    return text + " " * (columns - width(text))


def tail(text: str, columns: int) -> str:
    """The end of `text` in at most `columns` columns: what of an input line is seen."""
    while text and width(text) > columns:
        text = text[1:]
    return text


def colour(text: str, name: str, on: bool) -> str:
    return f"\x1b[{COLOURS[name]}m{text}\x1b[0m" if on and text else text


def clock(sent_at: int, now: float | None = None) -> str:
    """Local time of day; with the date when it is not today. `sent_at` in milliseconds."""
    at = time.localtime(sent_at / 1000)
    today = time.localtime(now)
    return time.strftime("%H:%M" if at[:3] == today[:3] else "%Y-%m-%d %H:%M", at)
