from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from chat import sql


class Number(IntEnum):
    FIVE = 5


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (-7, "-7"),
        (Number.FIVE, "5"),
        (True, "1"),
        (False, "0"),
        (None, "NULL"),
        (1.5, "1.5e0"),
        (1e-7, "1e-07"),
        ("u42", "'u42'"),
        ("", "''"),
        ("it's", "_utf8mb4 x'697427" + "73'"),
        ("back\\slash", "_utf8mb4 x'6261636b5c736c617368'"),
        ("100%", "_utf8mb4 x'31303025'"),
        ("中", "_utf8mb4 x'e4b8ad'"),
        (b"", "x''"),
        (b"\x00'", "x'0027'"),
        (bytearray(b"a"), "x'61'"),
        ([1, "a"], "(1,'a')"),
        ((), "(NULL)"),
    ],
)
def test_literals(value: Any, written: str) -> None:
    assert sql.literal(value) == written


@pytest.mark.parametrize("value", [object(), {1: 2}])
def test_what_has_no_literal(value: Any) -> None:
    with pytest.raises(TypeError):
        sql.literal(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_have_none(value: float) -> None:
    with pytest.raises(ValueError, match="no SQL literal"):
        sql.literal(value)


def test_rows() -> None:
    assert sql.values([(1, "a"), (2, None)]) == "(1,'a'),(2,NULL)"
    assert sql.values([]) == ""


def test_identifiers() -> None:
    assert sql.identifier("chat`x") == "`chat``x`"
    for name in ("", "a\0b"):
        with pytest.raises(ValueError, match="not a name"):
            sql.identifier(name)
