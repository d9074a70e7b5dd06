"""The rules of a sync's answer, without a database."""

from __future__ import annotations

import json

import pytest

from chat.edge.pages import Answer, Span, answer, fitting, is_in, sees, span_after
from chat.edge.paging import pack, unpack
from chat.errors import ChatError
from chat.persist.history import Page, StreamHead
from chat.persist.queries import Ends, Interval
from chat.persist.row import Row
from chat.positions import position
from chat.records import partition_of

STAYS = [Interval(10, 20), Interval(30, 40), Interval(50, None)]


def row(pos: int, size: int = 2) -> Row:
    return Row(pos, pos, "text", 1, 1, pos, 0, b'{"text":"' + b"x" * size + b'"}')


@pytest.mark.parametrize(
    ("after", "span"),
    [
        (0, Span(9, 21)),
        (9, Span(9, 21)),
        (10, Span(10, 21)),
        (19, Span(19, 21)),
        (20, Span(29, 41)),
        (45, Span(49, None)),
        (99, Span(99, None)),
    ],
)
def test_spans(after: int, span: Span) -> None:
    assert span_after(after, STAYS) == span
    assert span_after(after, None) == Span(after, None)


def test_no_span_behind_the_last_stay() -> None:
    assert span_after(40, STAYS[:2]) is None
    assert span_after(0, []) is None


def test_sees() -> None:
    assert [n for n in range(60) if sees(STAYS[:2], n)] == [*range(10, 21), *range(30, 41)]
    assert sees(None, 1)
    assert is_in(STAYS)
    assert not is_in(STAYS[:2])


def made(page: Page, after: int = 0, **more: object) -> Answer:
    own = not page.stays
    span = span_after(after, None if own else page.stays)
    fields: dict[str, object] = {"end": page.upto, "span": span, "limit": 3, "own": own, "me": 1, "fresh": False}
    return answer(page, after=after, **(fields | more))  # type: ignore[arg-type]


def positions(given: Answer) -> list[int]:
    return [json.loads(f)["pos"] for f in given.frames]


def test_upto_is_never_beyond_the_snapshot() -> None:
    given = made(Page([row(1), row(5)], 4, [], None, False), end=9)
    assert (positions(given), given.upto, given.complete) == ([1], 4, False)


def test_complete_needs_an_end() -> None:
    page = Page([row(1)], 4, [], None, False)
    assert made(page).complete
    assert made(page, end=3).complete
    assert not made(page, end=5).complete
    assert not made(page, end=None).complete


def test_cut_by_rows_and_by_bytes() -> None:
    given = made(Page([row(n) for n in (1, 3, 5, 7)], 9, [], [], False), fresh=True)
    assert (positions(given), given.upto, given.complete, given.heads) == ([1, 3, 5], 6, False, None)
    given = made(Page([row(n, 600_000) for n in (1, 3)], 9, [], [], False))
    assert (positions(given), given.upto, given.complete) == ([1], 2, False)


def test_a_stay_in_between_ends_the_page() -> None:
    given = made(Page([row(12)], 60, STAYS, [], False), fresh=True)
    assert (positions(given), given.upto, given.complete, given.heads) == ([12], 30, False, None)
    given = made(Page([row(52)], 60, STAYS, [], False), 49, fresh=True)
    assert (positions(given), given.upto, given.complete, given.heads) == ([52], 60, True, [])


def test_stays_of_the_snapshot_count() -> None:
    """They were read anew with the rows: he has left, or has come back, meanwhile."""
    given = made(Page([row(55), row(58)], 60, [Interval(50, 56)], [], False), 50, span=Span(50, None))
    assert (positions(given), given.upto) == ([55], 60)
    given = made(Page([], 60, [Interval(10, 20), Interval(50, None)], [], False), 20, span=None)
    assert (positions(given), given.upto, given.complete) == ([], 50, False)


def test_heads_name_the_other_end() -> None:
    heads = [StreamHead("u2", 2, 7, 3, 9), StreamHead("u2", 1, 8, 4, 9), StreamHead("u1", 1, 9, 5, 9)]
    given = made(Page([], 60, [], heads, False), fresh=True)
    assert given.heads is not None
    assert [json.loads(h) for h in given.heads] == [
        {"from": 2, "stream": 7, "next": 3, "to": 1},
        {"from": 1, "stream": 8, "next": 4, "to": 2},
        {"from": 1, "stream": 9, "next": 5, "to": 1},
    ]


def test_one_row_always_fits() -> None:
    assert len(fitting([row(1, 70_000), row(2)], 5, budget=10)) == 1
    assert fitting([], 5) == []


def test_ends_follow_the_newest_generation() -> None:
    old = [("t", 0, 0, 100), ("t", 1, 0, 200), ("receipts", 0, 0, 9)]
    assert Ends(old, "t", 0).upto("u1", 1) == position(0, 200)
    assert Ends([], "t", 0).upto("u1", 1) == position(0, 0)
    new = [*old, *(("t.1", n, 1, 10 + n) for n in range(8))]
    assert Ends(new, "t", 0).upto("u1", 1) == position(1, 10 + partition_of("u1", 8))
    assert Ends(old, "t.1", 1).upto("u1", 1) == position(1, 0)


def test_cursors() -> None:
    assert unpack(pack("h", "u7", 3), "h", str, int) == ["u7", 3]
    for bad in (pack("h", "u7"), pack("s", "u7", 3), pack("h", 3, "u7"), pack("h", "u7", 2**53), "", "=", "é", "!" * 9):
        with pytest.raises(ChatError, match="cursor"):
            unpack(bad, "h", str, int)


def test_no_heads_from_before_where_the_device_is() -> None:
    """A device that lost its state asks from its cursor, which persist may not have reached."""
    heads = [StreamHead("u2", 2, 9, 3, 5)]
    assert made(Page([], 40, None, heads, False), 60, fresh=True, end=70).heads is None
    assert made(Page([], 61, None, heads, False), 60, fresh=True).heads is not None
