"""The input line of a terminal: characters in, finished lines out. Pure; works with columns, not characters.

Keys: the arrows, Home, End, Delete, Backspace, Ctrl-A -E -B -F -H -K -U -W -D (on an empty line: the end), Up and Down for
earlier lines. What is pasted is taken as typed; a bracketed paste keeps its line ends as blanks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chat.client.text import width

MAX_LINE: Final = 8_000
HISTORY: Final = 200
_PASTE_END: Final = "\x1b[201~"


class EndOfInput(Exception):
    """Ctrl-D on an empty line."""


class LineEditor:
    def __init__(self) -> None:
        self.line = ""
        self.at = 0  # characters before the cursor
        self._earlier: list[str] = []
        self._browsing: int | None = None
        self._draft = ""
        self._escape = ""  # an escape sequence that is not whole yet
        self._pasting = False

    def feed(self, typed: str) -> list[str]:
        """Take what was typed; returns the lines that were finished. Raises EndOfInput, after which the rest is lost."""
        lines: list[str] = []
        for char in typed:
            if self._escape or char == "\x1b":
                self._escape += char
                self._take_escape()
            elif self._pasting and char in "\r\n":
                self._insert(" ")
            elif char in "\r\n":
                lines.append(self._finish())
            elif char == "\x04":
                if not self.line:
                    raise EndOfInput
                self._delete()
            elif char in _CONTROL:
                _CONTROL[char](self)
            elif char >= " " and char != "\x7f" and width(char) >= 0 and not "\x80" <= char <= "\x9f":
                self._insert(char)
        return lines

    def view(self, columns: int) -> tuple[str, int]:
        """What of the line is seen in `columns` columns, and the column of the cursor in it."""
        columns = max(columns, 2)
        start = 0
        while width(self.line[start : self.at]) > columns - 1:
            start += 1
        seen = ""
        for char in self.line[start:]:
            if width(seen + char) > columns:
                break
            seen += char
        return seen, width(self.line[start : self.at])

    def _finish(self) -> str:
        line, self.line, self.at = self.line, "", 0
        if line.strip() and (not self._earlier or self._earlier[-1] != line):
            self._earlier = [*self._earlier[-HISTORY + 1 :], line]
        self._browsing = None
        return line

    def _insert(self, char: str) -> None:
        if len(self.line) < MAX_LINE:
            self.line = self.line[: self.at] + char + self.line[self.at :]
            self.at += 1

    def _delete(self) -> None:
        self.line = self.line[: self.at] + self.line[self.at + 1 :]

    def _backspace(self) -> None:
        if self.at:
            self.at -= 1
            self._delete()

    def _left(self) -> None:
        self.at = max(self.at - 1, 0)

    def _right(self) -> None:
        self.at = min(self.at + 1, len(self.line))

    def _home(self) -> None:
        self.at = 0

    def _end(self) -> None:
        self.at = len(self.line)

    def _kill_right(self) -> None:
        self.line = self.line[: self.at]

    def _kill_left(self) -> None:
        self.line, self.at = self.line[self.at :], 0

    def _kill_word(self) -> None:
        kept = self.line[: self.at].rstrip()
        kept = kept[: kept.rfind(" ") + 1]
        self.line, self.at = kept + self.line[self.at :], len(kept)

    def _up(self) -> None:
        if self._browsing is None:
            if not self._earlier:
                return
            self._draft, self._browsing = self.line, len(self._earlier)
        self._browsing = max(self._browsing - 1, 0)
        self.line = self._earlier[self._browsing]
        self.at = len(self.line)

    def _down(self) -> None:
        if self._browsing is None:
            return
        self._browsing += 1
        if self._browsing >= len(self._earlier):
            self.line, self._browsing = self._draft, None
        else:
            self.line = self._earlier[self._browsing]
        self.at = len(self.line)

    def _take_escape(self) -> None:
        sequence = self._escape
        if len(sequence) == 1 or (len(sequence) == 2 and sequence[1] in "[O"):
            return
        if sequence[1] == "[" and not "@" <= sequence[-1] <= "~" and len(sequence) < 16:
            return
        self._escape = ""
        if sequence == "\x1b[200~":
            self._pasting = True
        elif sequence == _PASTE_END:
            self._pasting = False
        elif sequence in _KEYS:
            _KEYS[sequence](self)


_CONTROL: Final[dict[str, Callable[[LineEditor], None]]] = {
    "\x01": LineEditor._home, "\x02": LineEditor._left, "\x05": LineEditor._end, "\x06": LineEditor._right,
    "\x08": LineEditor._backspace, "\x7f": LineEditor._backspace, "\x0b": LineEditor._kill_right,
    "\x15": LineEditor._kill_left, "\x17": LineEditor._kill_word, "\x10": LineEditor._up, "\x0e": LineEditor._down,
}  # fmt: skip
_KEYS: Final[dict[str, Callable[[LineEditor], None]]] = {
    "\x1b[A": LineEditor._up, "\x1b[B": LineEditor._down, "\x1b[C": LineEditor._right, "\x1b[D": LineEditor._left,
    "\x1bOA": LineEditor._up, "\x1bOB": LineEditor._down, "\x1bOC": LineEditor._right, "\x1bOD": LineEditor._left,
    "\x1b[H": LineEditor._home, "\x1b[F": LineEditor._end, "\x1bOH": LineEditor._home, "\x1bOF": LineEditor._end,
    "\x1b[1~": LineEditor._home, "\x1b[4~": LineEditor._end, "\x1b[3~": LineEditor._delete,
}  # fmt: skip
