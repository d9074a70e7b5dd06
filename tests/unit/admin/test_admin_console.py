"""How the operator's commands show things, and ask."""

from __future__ import annotations

import json

import click
import pytest

from chat.admin.accounts import number_of
from chat.admin.console import must_agree, plain, show, when


def test_nothing_in_a_cell_moves_the_cursor() -> None:
    assert plain("a\x1b[2J\n\u202eb") == "a\\x1b[2J\\x0a\\x202eb"
    assert plain(None) == "-"


def test_a_table_is_aligned_by_what_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "群", "n": 1}, {"name": "abc", "n": 22}], False, "nobody")
    assert capsys.readouterr().out.splitlines() == ["name  n", "群    1", "abc   22"]


def test_nothing_is_told_apart_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    show([], False, "nobody")
    show([], True, "nobody")
    captured = capsys.readouterr()
    assert captured.err == "nobody\n"
    assert json.loads(captured.out) == []


def test_a_program_has_to_say_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    must_agree(True, "Sure?")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(click.UsageError, match="--yes"):
        must_agree(False, "Sure?")


@pytest.mark.parametrize(("said", "number"), [("id:42", 42), ("42", None), ("id:", None), ("id:4x", None), ("ida", None)])
def test_a_number_is_marked_as_one(said: str, number: int | None) -> None:
    assert number_of(said) == number


def test_times() -> None:
    assert when(0) == "1970-01-01T00:00:00Z"
    assert when(None) is None
    assert when(1 << 80) == f"{1 << 80} ms"
