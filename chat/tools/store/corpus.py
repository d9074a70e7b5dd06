"""What IRC logs give to a store: who speaks after whom, to whom, in how many words, and the words. Pure.

The words of a line are drawn anew, each for itself, as often as it occurs in the logs: a few hundred lines that were said
again a million times would pack better than what people write. Some are numbers, some are Chinese or emoji.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from chat.errors import SetupError
from chat.tools.irc import Say, parse, plan

#: Of a line: not all of it in English.
_OTHER: Final = 0.04
_PHRASES: Final = (
    "你好", "明天见", "我在路上", "今天开会改到下午三点", "收到，谢谢", "这个问题我再看一下", "周末一起吃饭吗？",
    "服务器重启了", "好的", "👍", "😂😂", "🎉", "❤️", "🙏 谢谢大家",
)  # fmt: skip
#: Of a word: a number instead, as in addresses, times, prices.
_NUMBER: Final = 0.06


class Line(NamedTuple):
    speaker: int  # a person of its log
    to: int | None  # whom it is addressed to
    words: int


class Corpus:
    """Raises SetupError where the logs have no conversation in them."""

    def __init__(self, logs: Sequence[bytes]) -> None:
        texts: Counter[str] = Counter()
        self.logs: list[list[Line]] = []
        for data in logs:
            said = [step for step in plan(parse(data)).steps if isinstance(step, Say)]
            lines = []
            for step in said:
                words = step.text.split()
                texts.update(words)
                lines.append(Line(step.person, step.to, max(1, len(words))))
            if lines:
                self.logs.append(lines)
        if not texts:
            raise SetupError("no line of a conversation is in the logs: give others with --data")
        self._words = list(texts)
        self._weights = list(accumulate(texts.values()))
        digest = sha256()
        for data in sorted(logs):
            digest.update(sha256(data).digest())
        #: Says which logs they were.
        self.digest = digest.hexdigest()[:6]

    def text(self, random: Random, words: int) -> str:
        if random.random() < _OTHER:
            return random.choice(_PHRASES)
        draw, weights, known = random.random, self._weights, self._words
        total = weights[-1]
        return " ".join([
            known[bisect(weights, draw() * total)] if draw() >= _NUMBER else f"{random.getrandbits(20)}"
            for _ in range(words)
        ])  # fmt: skip
