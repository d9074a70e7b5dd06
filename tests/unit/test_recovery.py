"""What the chaos suite measures, and how it is told."""

from __future__ import annotations

import pytest

from tests.harness.recovery import Presence, Seen, measure
from tests.harness.table import BEGIN, END, render, replace_between


def test_what_was_late_and_when_it_ended() -> None:
    shown = [Seen(9.0, 9.01), Seen(9.9, 12.0), Seen(10.5, 12.5), Seen(13.0, 13.01), Seen(14.0, 14.02)]
    presence = Presence()
    presence.look(10.1, [True, True])
    presence.look(10.2, [True, False])
    presence.look(11.7, [True, True])
    found = measure(shown, presence, at=10.0, until=15.0, returned=11.0)
    assert (found.first_s, found.last_s, found.silence_s) == (2.5, 2.5, 2.0)
    assert (found.thrown_out, found.back_s, found.returned_s) == (1, 1.7, 1.0)
    assert (found.messages, found.max_ms) == (3, 2000.0)


def test_nothing_late_and_nobody_away() -> None:
    found = measure([Seen(10.0 + n / 10, 10.01 + n / 10) for n in range(10)], Presence(), at=10.0, until=11.0)
    assert (found.last_s, found.back_s, found.returned_s, found.thrown_out) == (None, None, None, 0)
    assert found.silence_s == pytest.approx(0.1)


def test_nobody_was_shown_anything() -> None:
    presence = Presence()
    presence.look(10.5, [False])
    found = measure([], presence, at=10.0, until=15.0)
    assert (found.first_s, found.last_s, found.silence_s, found.back_s) == (None, None, 5.0, None)


def test_the_table_replaces_the_one_before() -> None:
    row: dict[str, object] = {"first_s": 0.1, "last_s": None, "wrong": {}, "sent": 5}
    table = render({"kills": {"an edge": row}, "not told": {"x": row}})
    assert "| an edge | – | – | – | 0.1 | – |" in table
    text = f"before\n{BEGIN}\nold\n{END}\nafter"
    told = replace_between(replace_between(text, "x"), table)
    assert "old" not in told
    assert told.startswith("before\n")
    assert told.endswith("after")
    with pytest.raises(ValueError, match="no <!--"):
        replace_between("nothing", table)
