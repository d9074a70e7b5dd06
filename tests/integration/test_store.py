"""A big store, small: written straight into MySQL, gone on from, and told from another's database."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from chat.bridge import open_database, open_log_admin
from chat.config import Config, EdgeConfig
from chat.errors import SetupError
from chat.generations import message_topics
from chat.persist.offsets import check_offsets
from chat.ports import Statement
from chat.records import Topics
from chat.tools.store.fill import corpus_of, make
from chat.tools.store.town import Size

pytestmark = pytest.mark.servers
SIZE = Size(users=20, groups=2, rows=1_000)


def quiet(line: str) -> None:
    """Nobody looks on."""


async def rows(config: Config, sql: str) -> list[tuple[Any, ...]]:
    async with open_database(config.mysql) as database:
        (result,) = await database.read([Statement(sql)])
        return list(result.rows)


async def test_a_store_is_made_and_made_larger(config: Config) -> None:
    config = replace(config, edge=EdgeConfig(lease_ms=200))
    corpus = corpus_of(None)
    made = await make(config, corpus, rows=1_500, seed=3, size=SIZE, say=quiet)
    assert (made.rows, made.new_rows) == (2_000, 2_000)
    first = await rows(config, "SELECT timeline, position, body FROM messages ORDER BY timeline, position")
    assert len(first) == 2_000
    again = await make(config, corpus, rows=2_000, seed=3, size=SIZE, say=quiet)
    assert (again.rows, again.new_rows) == (2_000, 0)
    more = await make(config, corpus, rows=3_000, seed=3, size=SIZE, say=quiet)
    assert (more.rows, more.new_rows) == (3_000, 1_000)
    kept = await rows(config, "SELECT timeline, position, body FROM messages ORDER BY timeline, position")
    assert set(first) < set(kept)
    # No place of the log is taken twice, and streams are as their last message says.
    ((places, taken),) = await rows(config, "SELECT COUNT(DISTINCT position), COUNT(*) FROM messages WHERE timeline = 'u1'")
    assert places == taken > 0
    wrong = await rows(
        config,
        "SELECT s.timeline FROM streams s JOIN (SELECT timeline, conversation, sender, stream, MAX(seq) + 1 AS next,"
        " MAX(position) AS last FROM messages WHERE kind = 'text' GROUP BY timeline, conversation, sender, stream) m"
        " USING (timeline, conversation, sender, stream) WHERE m.next <> s.next_seq OR m.last <> s.last_position",
    )
    assert wrong == []
    ((users, members, cursors),) = await rows(
        config, "SELECT (SELECT COUNT(*) FROM users), (SELECT COUNT(*) FROM members), (SELECT COUNT(*) FROM cursors)"
    )
    assert users == 3 * SIZE.users
    assert members > 3 * SIZE.groups
    assert cursors > users
    # Persist can start: what is stored is of a generation that it does not read any more.
    topics = Topics(config.kafka.namespace)
    async with open_database(config.mysql) as database, open_log_admin(config.kafka) as admin:
        generations = await message_topics(admin, topics)
        assert generations == [topics.messages, f"{topics.messages}.1"]
        assert await check_offsets(database, admin, topics, generations) == [f"{topics.messages}.1", topics.receipts]
    with pytest.RaisesGroup(pytest.RaisesExc(SetupError, match="not of this store"), flatten_subgroups=True):
        await make(config, corpus, rows=4_000, seed=4, size=SIZE, say=quiet)
