"""SQL literals. Pure.

Bulk inserts are written as text here, since a driver's escaping costs more than MySQL's work on the row. A literal is
right whatever the server's sql_mode: text that is not plain ASCII words, and all bytes, are written in hexadecimal, so
that nothing in them can end the literal.

    f"INSERT INTO messages (timeline, position, body) VALUES {values(rows)}"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Final

Value = int | float | str | bytes | None

#: May stand between quotes as it is: no quote, no backslash, no control character, no per cent sign (so that the text
#: may go through %-formatting once more).
_PLAIN: Final = re.compile(r"[A-Za-z0-9 _.,:;@/+=~!?#$()\[\]{}<>|^&*-]*").fullmatch


def literal(value: Value | Sequence[Value]) -> str:
    """One value; a list or tuple becomes `(a,b)` for IN, an empty one `(NULL)`. Raises TypeError, ValueError."""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return text(value)  # type: ignore[arg-type]
    if kind is bytes:
        return f"x'{value.hex()}'"  # type: ignore[union-attr]
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):  # an IntEnum
        return str(int(value))
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} has no SQL literal")
        return f"{value!r}e0" if "e" not in repr(value) else repr(value)
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"x'{bytes(value).hex()}'"
    if isinstance(value, list | tuple | set | frozenset):
        return f"({','.join(map(literal, value)) or 'NULL'})"
    raise TypeError(f"no SQL literal for {kind.__name__}")


def text(value: str) -> str:
    if _PLAIN(value):
        return f"'{value}'"
    return f"_utf8mb4 x'{value.encode().hex()}'"


def row(items: Iterable[Value]) -> str:
    return f"({','.join(map(literal, items))})"


def values(rows: Iterable[Iterable[Value]]) -> str:
    """`(1,'a',x'00'),(2,…)`: what stands behind VALUES."""
    return ",".join(map(row, rows))


def identifier(name: str) -> str:
    """A quoted name of a table, column or database."""
    if not name or "\0" in name:
        raise ValueError(f"not a name: {name!r}")
    return "`" + name.replace("`", "``") + "`"
