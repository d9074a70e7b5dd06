"""A broker that takes connections and says nothing: frozen, or behind a network that drops packets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from chat.bridge import kafka_fetch, kafka_wire
from chat.bridge.kafka_reader import open_log_reader
from chat.bridge.kafka_wire import Brokers, Wire
from chat.bridge.link import Link
from chat.config import KafkaConfig
from chat.errors import PartAway
from chat.records import TopicPartition

PLACE = TopicPartition("chat.messages", 0)


@pytest.fixture
async def frozen() -> AsyncIterator[str]:
    """Its address."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(8)  # the kernel completes connections; nobody ever answers on them
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_poll_of_a_frozen_broker_ends_in_part_away(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_fetch, "WAIT_MS", 0)
    config = KafkaConfig(bootstrap=frozen, request_timeout_ms=100)
    async with open_log_reader(config) as reader:
        await reader.assign({PLACE: 0})
        with trio.fail_after(5):
            for _ in range(2):
                with pytest.raises(PartAway):
                    await reader.poll(0.05, 10)


async def test_opening_a_frozen_broker_is_given_up(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_wire, "OPEN_SECONDS", 0.05)
    host, port = frozen.split(":")
    with trio.fail_after(5), pytest.raises(TimeoutError):
        await Wire.open(host, int(port))


async def test_one_frozen_broker_does_not_hide_the_others(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_wire, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(Wire, "usable", property(lambda wire: True))
    opened: list[int] = []
    really = Wire.open

    async def open_wire(host: str, port: int) -> Wire:
        opened.append(port)
        return await really(host, port) if port != 1 else Wire(Link(socket.socket()))

    monkeypatch.setattr(Wire, "open", open_wire)
    brokers = Brokers(KafkaConfig(bootstrap=f"{frozen},127.0.0.1:1"))
    with trio.fail_after(5):
        for _ in range(2):
            await brokers.any()
    brokers.close()
    assert opened == [int(frozen.split(":")[1]), 1]
