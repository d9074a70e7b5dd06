"""Migrations, heads in memory, the check of offsets, trimming, and the SQL as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import SetupError
from chat.persist.batch import Changes, Stream
from chat.persist.heads import Heads
from chat.persist.janitor import trims
from chat.persist.migrate import Migration, load, pending, split_statements
from chat.persist.offsets import Found, Row, judge_messages, judge_receipts
from chat.persist.store import transaction
from chat.records import TopicPartition

P, Q = TopicPartition("chat.messages", 0), TopicPartition("chat.messages", 1)


# ------------------------------------------------------------------ migrations


def test_statements_are_split_at_their_semicolons_only() -> None:
    sql = """-- first; comment
    CREATE TABLE a (x INT, -- a; b
      y VARCHAR(9) DEFAULT ';--'' \\'#');; # more; of it
    /* INSERT; */ INSERT INTO `a;b` VALUES ("x;/*", 2 - -1)"""
    first, second = split_statements(sql)
    assert first.split() == ["CREATE", "TABLE", "a", "(x", "INT,", "y", "VARCHAR(9)", "DEFAULT", "';--''", "\\'#')"]
    assert second == 'INSERT INTO `a;b` VALUES ("x;/*", 2 - -1)'


@given(st.lists(st.sampled_from(["'", '"', "`", ";", "--", "\n", " ", "#", "/*", "*/", "a", "\\"]), max_size=30))
def test_splitting_ends(parts: list[str]) -> None:
    list(split_statements("".join(parts)))


#: The last five: a change that looks first whether it was made, and what fills a new column where it is empty.
REPEATABLE = (
    "CREATE TABLE IF NOT EXISTS ", "CREATE OR REPLACE VIEW ", "SET @change = IF(", "PREPARE change_it", "EXECUTE change_it",
    "DEALLOCATE PREPARE change_it", "UPDATE members ",
)  # fmt: skip


def test_our_own_migrations_can_be_repeated() -> None:
    for migration in load():
        assert migration.statements
        for statement in migration.statements:
            assert statement.startswith(REPEATABLE) or len(migration.statements) == 1


def test_numbers_must_follow_each_other(tmp_path: Path) -> None:
    for name in ("0001_a.sql", "0003_b.sql"):
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(SetupError, match="numbered"):
        load(tmp_path)
    (tmp_path / "0003_b.sql").rename(tmp_path / "second.sql")
    with pytest.raises(SetupError, match="number"):
        load(tmp_path)


def test_what_is_pending() -> None:
    one, two = Migration(1, "0001_a.sql", ("x",), "aa"), Migration(2, "0002_b.sql", ("y",), "bb")
    assert pending([one, two], {}) == [one, two]
    assert pending([one, two], {1: ("0001_a.sql", "aa")}) == [two]
    assert pending([one], {1: ("0001_a.sql", "aa"), 2: ("0002_newer.sql", "zz")}) == []
    with pytest.raises(SetupError, match="must not be edited"):
        pending([one], {1: ("0001_a.sql", "other")})


# ------------------------------------------------------------------ heads


def test_heads_are_bounded_and_forgotten_by_partition() -> None:
    heads = Heads(3)
    streams = [Stream(f"u{n}", "u9", 9, 1) for n in range(5)]
    for n, stream in enumerate(streams):
        heads.committed(stream, n, P if n % 2 else Q)
    assert list(heads) == streams[2:]
    heads.committed(streams[2], 7, Q)
    assert (heads[streams[2]], list(heads)[-1]) == (7, streams[2])
    heads.forget(Q)
    assert list(heads) == [streams[3]]


# ------------------------------------------------------------------ offsets


def test_offsets_that_fit() -> None:
    judge_messages(Found("t", "id", [0, 5], [9, 9]), {0: Row("id", 0), 1: Row("id", 9)})
    judge_messages(Found("t", "id", [0, 0], [9, 9]), {})


@pytest.mark.parametrize(
    ("found", "rows", "says"),
    [
        (Found("t", "id", [0], [9]), {0: Row("other", 3)}, "made anew.*new-generation"),
        (Found("t", "id", [0], [9]), {0: Row("id", 10)}, "ends at offset 9.*up to 10"),
        (Found("t", "id", [4], [9]), {0: Row("id", 3)}, "begins at offset 4.*UPDATE offsets"),
        (Found("t", "id", [4], [9]), {}, "begins at offset 4"),
        (Found("t", "id", [0, 0], [9, 9]), {0: Row("id", 3)}, "2 partitions, but MySQL knows 1"),
    ],
)
def test_offsets_that_do_not_fit_are_refused_by_name(found: Found, rows: dict[int, Row], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        judge_messages(found, rows)


def test_receipts_begin_at_their_start_where_they_do_not_fit() -> None:
    found = Found("t", "id", [3, 3, 3, 3, 3], [9, 9, 9, 9, 9])
    rows = {0: Row("id", 5), 1: Row("other", 5), 2: Row("id", 1), 3: Row("id", 10)}
    assert judge_receipts(found, rows) == {1: 3, 2: 3, 3: 3, 4: 3}


def test_only_what_is_stored_and_old_is_trimmed() -> None:
    r, s = TopicPartition("chat.messages", 2), TopicPartition("chat.messages", 3)
    stored = {P: 50, Q: 50, r: 50, s: 10}
    assert trims({P: 0, Q: 10, r: 50, s: 10}, stored, {P: 20, Q: 80, r: None, s: None}) == {P: 20, Q: 50}


# ------------------------------------------------------------------ SQL


def test_offsets_are_compared_first_and_each_must_move() -> None:
    (moved,) = transaction(Changes(), {Q: (5, 9), P: (0, 2)})
    assert moved.changes == 2
    assert moved.sql == (
        "UPDATE offsets SET next_offset = CASE WHEN topic = 'chat.messages' AND topic_partition = 0 THEN 2 "
        "WHEN topic = 'chat.messages' AND topic_partition = 1 THEN 9 END "
        "WHERE (topic = 'chat.messages' AND topic_partition = 0 AND next_offset = 0) "
        "OR (topic = 'chat.messages' AND topic_partition = 1 AND next_offset = 5)"
    )
