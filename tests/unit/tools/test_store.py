"""What a big store is made of: the same again by the same seed, and as persist would have stored it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from chat.errors import SetupError
from chat.persist.parse import Parsed, parse_messages
from chat.protocol import decode_message
from chat.records import Consumed, TimelineRecord, TopicPartition
from chat.tools.store.corpus import Corpus
from chat.tools.store.fill import corpus_of, fill_town, name_of
from chat.tools.store.town import SPAN_MS, Size, Town

SIZE = Size(users=40, groups=3, rows=4_000)
SINCE = 1_700_000_000_000
PLACE = TopicPartition("chat.messages", 0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return corpus_of(None)


def town(corpus: Corpus, number: int = 0, seed: int = 1) -> Town:
    return Town(number, corpus, seed=seed, since=SINCE, size=SIZE)


def texts(records: Iterator[TimelineRecord]) -> list[bytes]:
    return [r.record.value for r in records]


def test_the_same_seed_makes_the_same_and_another_another(corpus: Corpus) -> None:
    one = texts(town(corpus).records())
    assert one == texts(town(corpus).records())
    assert one != texts(town(corpus, seed=2).records())
    assert one != texts(town(corpus, number=1).records())


def test_towns_do_not_touch_each_other(corpus: Corpus) -> None:
    one, two = town(corpus, 0), town(corpus, 1)
    assert not set(one.users) & set(two.users)
    assert not {g.number for g in one.groups} & {g.number for g in two.groups}
    assert one.users[-1] + 1 == two.users[0]


def test_all_is_stored_in_order_without_a_hole(corpus: Corpus) -> None:
    """Nothing is dead, nothing is a duplicate; a stream's messages are 0, 1, 2 … in each timeline."""
    records = list(town(corpus).records())
    parsed = Parsed([], [], [])
    consumed = [
        Consumed(n, r.record.timestamp, r.record.key, r.record.value, r.record.headers) for n, r in enumerate(records)
    ]
    parse_messages(parsed, PLACE, 0, consumed)
    assert not parsed.dead
    seqs: Counter[tuple[str, str, int, int]] = Counter()
    last: Counter[str] = Counter()
    for entry in parsed.entries:
        sent_at = entry.message.sent_at
        assert SINCE <= sent_at <= SINCE + SPAN_MS + 86_400_000
        if entry.message.kind == "text":
            key = (entry.timeline, entry.conversation, entry.message.sender, entry.stream or 0)
            assert entry.seq == seqs[key]
            seqs[key] += 1
            assert sent_at > last[entry.timeline]
            last[entry.timeline] = sent_at
    kinds = Counter(e.message.kind for e in parsed.entries)
    assert kinds["text"] > SIZE.rows / 2
    assert min(kinds[k] for k in ("friend_accepted", "group_joined", "group_left", "read")) > 0


def test_a_direct_message_is_in_both_timelines(corpus: Corpus) -> None:
    where: dict[tuple[int, int, int], set[str]] = {}
    for timeline, record in town(corpus).records():
        said = decode_message(record.value)
        if said.kind == "text" and said.to is not None:
            assert isinstance(said.stream, int)
            assert isinstance(said.seq, int)
            where.setdefault((said.stream, said.to, said.seq), set()).add(timeline)
    halves = [found for found in where.values() if len(found) != 2]
    assert len(halves) <= 1  # the last row of the town may be the first of the two


def test_a_town_is_written_as_one_transaction_that_moves_the_offsets(corpus: Corpus) -> None:
    begin = {PLACE: 7, PLACE._replace(partition=1): 0}
    filled = fill_town(town(corpus), corpus, 1, begin)
    assert filled.rows == SIZE.rows
    assert sum(filled.moves.values()) - 7 >= SIZE.rows  # marks are no rows
    tables = {s.sql.split()[2 if s.sql.startswith("INSERT") else 1] for s in filled.statements}
    assert {
        "users",
        "chat_groups",
        "offsets",
        "messages",
        "streams",
        "cursors",
        "read_marks",
        "friends",
        "members",
    } <= tables
    assert len(name_of(corpus, 999_999, 10_000_000)) <= 32


def test_logs_without_a_conversation_are_refused() -> None:
    with pytest.raises(SetupError, match="--data"):
        Corpus([b"nothing is said here\n"])
