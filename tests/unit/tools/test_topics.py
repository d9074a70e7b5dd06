from __future__ import annotations

import pytest

from chat.config import KafkaConfig
from chat.errors import SetupError
from chat.records import Topics
from chat.tools.topics import EDGE, create_topics, load_topics
from tests.fakes.kafka import FakeKafka


def test_the_file_has_every_topic_of_a_namespace() -> None:
    names = Topics("x")
    assert {f"x.{name}" for name in load_topics()} == {
        names.messages, names.receipts, names.presence, names.dead, names.edge_prefix.rstrip("."),
    }  # fmt: skip


def test_messages_are_never_trimmed_by_kafka_itself() -> None:
    settings = load_topics()["messages"].settings
    assert (settings["retention.ms"], settings["retention.bytes"], settings["cleanup.policy"]) == ("-1", "-1", "delete")


def test_batches_fit_every_topic() -> None:
    for name, spec in load_topics().items():
        assert int(spec.settings["max.message.bytes"]) > KafkaConfig().max_batch_bytes, name


async def test_the_missing_ones_are_made_once() -> None:
    async with FakeKafka().open_log_admin() as admin:
        made = await create_topics(admin, "x", 1)
        assert sorted(made) == sorted(f"x.{name}" for name in load_topics() if name != EDGE)
        assert await admin.partitions("x.messages") == load_topics()["messages"].partitions
        assert await create_topics(admin, "x", 1) == []


async def test_another_number_of_partitions_is_refused() -> None:
    async with FakeKafka().open_log_admin() as admin:
        await admin.create_topic("x.messages", 7, 1, {})
        with pytest.raises(SetupError, match=r"x\.messages has 7 partitions"):
            await create_topics(admin, "x", 1)


async def test_the_first_generation_is_history_once_it_has_a_follower() -> None:
    kafka = FakeKafka()
    async with kafka.open_log_admin() as admin:
        await admin.create_topic("x.messages.1", 7, 1, {})
        assert "x.messages" not in await create_topics(admin, "x", 1)
        await admin.create_topic("x.messages", 7, 1, {})
        assert await create_topics(admin, "x", 1) == []
