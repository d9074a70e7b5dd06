"""What reaches a terminal: harmless, and as wide as it says."""

from __future__ import annotations

import pytest

from chat.client.text import clean, clock, cut, pad, tail, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\x", "x"),
        ("\x9b2Jx", "x"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("cut \x1b[3", "cut 3"),
        ("a\x00b\x08c\x7fd", "abcd"),
        ("one\ntwo\r\nthree\n", "one ⏎ two ⏎ three"),
        ("\ttab", " tab"),
        ("abc\u202edef\u2066", "abcdef"),
        ("中文 e\u0301 👍🏽", "中文 e\u0301 👍🏽"),
        ("\ud800", ""),
    ],
)
def test_clean(text: str, shown: str):
    assert clean(text) == shown
    assert clean(shown) == shown


def test_nothing_of_any_control_character_is_left():
    everything = "".join(map(chr, range(0x20))) + "".join(map(chr, range(0x7F, 0xA0)))
    for char in everything:
        assert not set(clean(f"a{char}b")) - set("ab ⏎"), hex(ord(char))


@pytest.mark.parametrize("columns", range(1, 12))
def test_cut_and_pad_count_columns(columns: int):
    for text in ("中文字很长很长", "ascii text", "e\u0301e\u0301", "混mix混", ""):
        assert width(cut(text, columns)) <= columns
        assert width(pad(text, columns)) == columns
        assert width(tail(text, columns)) <= columns
        assert text.endswith(tail(text, columns))


def test_clock_says_the_date_when_it_is_another():
    now = 1_700_000_000.0
    assert len(clock(int(now * 1000), now)) == len("12:34")
    assert len(clock(int((now - 3 * 86_400) * 1000), now)) == len("2023-11-11 12:34")
