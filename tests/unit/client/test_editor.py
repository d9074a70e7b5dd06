"""The input line."""

from __future__ import annotations

import pytest

from chat.client.editor import EndOfInput, LineEditor


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("hello", "hello"),
        ("helo\x1b[Dl", "hello"),
        ("hello\x7f\x7fy", "hely"),
        ("world\x01hello \x05!", "hello world!"),
        ("one two\x17three", "one three"),
        ("gone\x15kept", "kept"),
        ("kept gone\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x0b", "kept"),
        ("中文\x7f字", "中字"),
        ("ab\x1b[H\x1b[3~", "b"),
        ("a\x1b[15~b\x1b[1;5Cc", "abc"),  # keys that mean nothing here
        ("x\x1b[200~two\nlines\x1b[201~y", "xtwo linesy"),
        ("a\x00\x9bb", "ab"),
    ],
)
def test_keys(typed: str, line: str):
    editor = LineEditor()
    assert editor.feed(typed) == []
    assert editor.line == line
    assert editor.feed("\r") == [line]
    assert editor.line == ""


def test_one_character_at_a_time_is_the_same():
    typed = "one\x1b[D\x1b[200~p\nq\x1b[201~\x1b[3~\rtwo\n"
    whole, single = LineEditor(), LineEditor()
    assert whole.feed(typed) == [line for char in typed for line in single.feed(char)] == ["onp q", "two"]


def test_earlier_lines():
    editor = LineEditor()
    editor.feed("first\rsecond\rdraft")
    for keys, line in (("\x1b[A", "second"), ("\x1b[A", "first"), ("\x1b[A", "first"), ("\x1b[B\x1b[B", "draft")):
        editor.feed(keys)
        assert editor.line == line


def test_the_end_of_input():
    editor = LineEditor()
    editor.feed("x\x01\x04")
    assert editor.line == ""
    with pytest.raises(EndOfInput):
        editor.feed("\x04")


@pytest.mark.parametrize("columns", [4, 5, 10, 80])
def test_the_cursor_is_in_view(columns: int):
    editor = LineEditor()
    for char in "ascii 中文字 and more 中":
        editor.feed(char)
        seen, at = editor.view(columns)
        assert at < columns
        assert seen in editor.line
    editor.feed("\x01")
    assert editor.view(columns)[1] == 0
