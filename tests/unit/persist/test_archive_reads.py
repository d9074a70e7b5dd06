"""Reading the archive, without a database: the pattern of a search, the memory, what is said of files."""

from __future__ import annotations

import random
import re
import secrets

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.persist.archive.lru import Lru
from chat.persist.archive.needle import FOLDING_ENDS, pattern
from chat.persist.archive.pieces import moves
from chat.persist.archive.scan import contains
from chat.protocol import Message, encode


def body(text: str) -> bytes:
    return encode(Message(sender=1, to=2, stream=1, seq=0, sent_at=1, kind="text", text=text))


def test_nothing_folds_beyond_the_end() -> None:
    assert all(chr(n).casefold() == chr(n) for n in range(FOLDING_ENDS, 0x110000))


ODD = "sSſßẞﬀﬁﬆKkK\u0130iıǰµμΣσςÅÅ'\"\\\n\t/天气🎉aA0 %_[](){}.*+?^$|-\x7f\u2028"


@given(st.lists(st.text(ODD, max_size=8), min_size=1, max_size=20), st.text(ODD, min_size=1, max_size=3))
def test_the_pattern_misses_none(texts: list[str], needle: str) -> None:
    folded = needle.casefold()
    bodies = [body(text) for text in texts]
    found = pc.match_substring_regex(pa.array(bodies).cast(pa.string()), pattern(folded)).to_pylist()
    for text, encoded, may in zip(texts, bodies, found, strict=True):
        assert contains(encoded, folded) == (folded in text.casefold())
        assert may or not contains(encoded, folded)


def test_the_pattern_finds_little_else() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghilmnopqrstuvwxyz", k=6)) for _ in range(2_000)]
    bodies = pa.array([body(" ".join(rng.choices(words, k=8))) for _ in range(1_000)]).cast(pa.string())
    assert not pc.any(pc.match_substring_regex(bodies, pattern("kjkj"))).as_py()


def test_every_letter_case_is_in_the_pattern() -> None:
    assert re.fullmatch(r"\[k.*\].*", pattern("k"))
    assert "212a" in pattern("k")


def test_memory_keeps_what_was_used_last() -> None:
    memory = Lru(100)
    for n in range(5):
        memory.put(n, str(n), 30)
        memory.get(0)
    assert [n for n in range(5) if memory.get(n) is not None] == [0, 3, 4]
    assert memory.bytes == 90
    memory.put(9, "too large", 101)
    assert memory.get(9) is None
    memory.put(0, "again", 10)
    assert (memory.bytes, len(memory)) == (70, 3)


@pytest.mark.parametrize(
    ("bound", "before", "further"),
    [(10, None, True), (9, (11, 5), True), (10, (11, 0), False), (10, (11, 1), True), (11, (11, 5), False)],
)
def test_a_horizon_moves_or_not(bound: int, before: tuple[int, int] | None, further: bool) -> None:
    assert moves(bound, before) == further
