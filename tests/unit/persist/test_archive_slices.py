"""Slices without a server: what MySQL would send comes out of the file again, and a false byte is found."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.persist.archive.layout import SORTED_BY
from chat.persist.archive.plan import FIRST, LAST, Range
from chat.persist.archive.rows import Cut, Garbled, Window, received, to_content, to_table
from chat.persist.archive.slices import make_of, read, verify

WHOLE = Range(FIRST, LAST)
names = st.sampled_from(["u1", "u2", "u10", "g1", "g9007199254740991"])
numbers = st.integers(0, 2**53 - 1)
rows = st.lists(
    st.tuples(
        names, numbers, names, numbers, numbers, st.none() | numbers, st.none() | numbers,
        st.sampled_from(["text", "read", "group_joined"]), st.integers(0, 1), st.binary(max_size=60),
    ),
    min_size=1, max_size=60, unique_by=lambda row: row[:2],
).map(lambda found: sorted(found, key=lambda row: row[:2]))  # fmt: skip


def window(found: list[tuple[Any, ...]]) -> Window:
    """As MySQL sends it."""
    lines = "\n".join(
        "\t".join("" if v is None else str(v) for v in (*row[:9], len(row[9]), zlib.crc32(row[9]))) for row in found
    )
    bodies = b"".join(row[9] for row in found)
    return received(WHOLE, (len(found), len(bodies), lines, bodies))


@settings(deadline=None)
@given(rows, st.integers(1, 60))
def test_what_came_in_comes_out(found: list[tuple[Any, ...]], cut: int) -> None:
    windows = [window(part) for part in (found[:cut], found[cut:]) if part]
    for one in windows:
        assert to_content(to_table(one)) == (one.fields, one.bodies)
    made = make_of(windows)
    verify(made.data, made, windows)
    table = read(made.data, made.checksum)
    order = [tuple(row[k] for k in SORTED_BY) for row in table.to_pylist()]
    assert order == sorted(order)
    assert sum(s.rows for s in made.stretches) == made.rows == len(found)
    assert len({s[:2] for s in made.stretches}) == len(made.stretches)
    for stretch in made.stretches:
        part = table.slice(stretch.first, stretch.rows).to_pylist()
        assert {(r["timeline"], r["conversation"]) for r in part} == {stretch[:2]}
    assert (made.min_sent_at, made.max_sent_at) == (min(r[3] for r in found), max(r[3] for r in found))


@settings(deadline=None, max_examples=30)
@given(rows, st.data())
def test_rows_that_are_not_the_tables_are_found(found: list[tuple[Any, ...]], data: st.DataObject) -> None:
    made = make_of([window(found)])
    which = data.draw(st.integers(0, len(found) - 1))
    column = data.draw(st.sampled_from([3, 4, 5, 8, 9]))
    was = found[which][column]
    false = was + b"!" if column == 9 else 1 - was if column == 8 else (was or 0) + 1
    row = (*found[which][:column], false, *found[which][column + 1 :])
    with pytest.raises(Garbled):
        verify(made.data, made, [window([*found[:which], row, *found[which + 1 :]])])
    with pytest.raises(Garbled):
        verify(made.data, made, [window(found[:-1])] if len(found) > 1 else [])


def test_what_mysql_has_cut_is_asked_for_again() -> None:
    row = ("u1", 1, "u2", 5, 1, 2, 3, "text", 0, b"body")
    whole = window([row, (*row[:1], 2, *row[2:])])
    with pytest.raises(Cut):
        received(WHOLE, (2, 8, whole.fields.decode(), whole.bodies[:-1]))
    with pytest.raises(Cut):
        received(WHOLE, (2, 8, whole.fields.split(b"\n")[0].decode(), whole.bodies))
    assert received(WHOLE, (0, 0, None, None)).rows == 0


def test_a_body_that_is_not_the_one_that_was_sent_is_found() -> None:
    row = ("u1", 1, "u2", 5, 1, 2, 3, "text", 0, b"body")
    one = window([row])
    with pytest.raises(Garbled, match="CRC"):
        to_table(one._replace(bodies=b"bodY"))
    with pytest.raises(Garbled, match="were told"):
        to_table(one._replace(bodies=b"bodY!"))
