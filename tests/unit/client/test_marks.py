"""How far own messages have come, in whatever order the news comes."""

from __future__ import annotations

import itertools

import pytest

from chat.client import marks as marks_module
from chat.client.marks import Marks
from chat.client.outbox import Changes, Entry, Failed

ENTRY = Entry(1, "u2", 7, 0, "hello", 0)


def test_each_state_once():
    marks = Marks()
    assert [o.state for o in marks.changed(Changes(put=(ENTRY,)))] == ["sending"]
    assert [o.state for o in marks.changed(Changes(accepted=(ENTRY,)))] == ["accepted"]
    assert [o.state for o in marks.delivered("u2", 7, 0)] == ["delivered"]
    own = marks.find("u2", 7, 0)
    assert own is not None
    assert marks.shown(own, 500) == []
    assert marks.delivered("u2", 7, 0) == []
    assert marks.read("u2", 499) == []
    assert [o.state for o in marks.read("u2", 500)] == ["read"]


@pytest.mark.parametrize("order", list(itertools.permutations(["accepted", "delivered", "shown", "read"])))
def test_the_end_is_the_same_in_any_order(order: tuple[str, ...]):
    marks = Marks()
    [own] = marks.changed(Changes(put=(ENTRY,)))
    news = {
        "accepted": lambda: marks.changed(Changes(accepted=(ENTRY,))),
        "delivered": lambda: marks.delivered("u2", 7, 3),
        "shown": lambda: marks.shown(own, 500),
        "read": lambda: marks.read("u2", 600),
    }
    states = [moved.state for what in order for moved in news[what]()]
    assert states[-1] == "read"
    assert len(states) == len(set(states))
    assert "sending" not in states


def test_failed_and_numbered_anew():
    marks = Marks()
    second = Entry(2, "u2", 7, 1, "second", 0)
    marks.changed(Changes(put=(ENTRY, second)))
    moved = marks.changed(Changes(put=(second._replace(seq=0),), failed=(Failed(ENTRY, "blocked", True),)))
    assert [(o.state, o.why) for o in moved] == [("failed", "blocked")]
    found = marks.find("u2", 7, 0)
    assert found is not None
    assert found.entry.text == "second"
    assert marks.find("u2", 7, 1) is None


def test_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(marks_module, "KEPT", 10)
    marks = Marks()
    for n in range(50):
        marks.changed(Changes(put=(Entry(n, "u2", 7, n, "x", 0),)))
    assert len(list(marks)) == 10
    assert marks.find("u2", 7, 0) is None
    assert marks.changed(Changes(accepted=(Entry(0, "u2", 7, 0, "x", 0),))) == []
