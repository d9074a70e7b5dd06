"""From a needle to a pattern that finds, in encoded bodies, every row whose text may contain it. Pure.

Text is compared case folded: `ß` is `ss`, a Kelvin sign is `k`. The pattern must miss none, and may find too many (what it
finds is decoded and compared exactly). So each character becomes all that fold to it; a body that has one of the few
characters which fold to several, or a backslash (something in it may be written as an escape), is found in any case.
"""

from __future__ import annotations

from functools import cache
from typing import Final

#: No character from here on changes when it is folded (a test looks).
FOLDING_ENDS: Final = 0x1E950


@cache
def _folds() -> tuple[dict[str, str], str]:
    """Folded character → the others that fold to it; the characters that fold to several."""
    others: dict[str, str] = {}
    several = ""
    for number in range(FOLDING_ENDS):
        char = chr(number)
        folded = char.casefold()
        if len(folded) > 1:
            several += char
        elif folded != char:
            others[folded] = others.get(folded, "") + char
    return others, several


def pattern(needle: str) -> str:
    """For RE2, on text. `needle` is case folded."""
    others, several = _folds()
    return "".join(_one(char, others.get(char, "")) for char in needle) + f"|{_class(several)}|{_hex(chr(92))}"


def _one(char: str, others: str) -> str:
    return _class(char + others) if others else _hex(char)


def _class(chars: str) -> str:
    return f"[{''.join(map(_hex, chars))}]"


def _hex(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"
