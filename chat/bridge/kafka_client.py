"""What the Kafka adapters have in common: the driver's client, and the translation of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from aiokafka import errors
from aiokafka.client import AIOKafkaClient

from chat.config import KafkaConfig
from chat.errors import BadData, PartAway, PartError
from chat.ports import GroupMoved, NoSuchTopic

#: Waited between two tries of a request.
RETRY_SECONDS = 0.05

#: The data was refused, and is not in the log.
REFUSED: tuple[type[Exception], ...] = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTimestampError,
    errors.InvalidTopicError,
    errors.InvalidPartitionsError,
    errors.InvalidReplicationFactorError,
    errors.InvalidConfigurationError,
)

#: The group has gone on without this member, or is about to.
MOVED: tuple[type[Exception], ...] = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.RebalanceInProgressError,
)


def translate(error: BaseException) -> PartError:
    """The driver's error in the project's words."""
    said = str(error) or type(error).__name__
    if isinstance(error, PartError):
        return error
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return NoSuchTopic("kafka", said)
    if isinstance(error, REFUSED):
        return BadData("kafka", said)
    if isinstance(error, MOVED):
        return GroupMoved(said)
    return PartAway("kafka", said)


@contextmanager
def kafka_errors() -> Iterator[None]:
    """Around every call of the driver."""
    try:
        yield
    except (errors.KafkaError, OSError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
        raise translate(error) from error


def raise_for(code: int, about: object) -> None:
    """Raise the driver's exception of a Kafka error code, unless it is 0."""
    if code:
        raise errors.for_code(code)(str(about))


def client_settings(config: KafkaConfig) -> dict[str, Any]:
    """Settings that every driver object takes."""
    return {
        "bootstrap_servers": config.bootstrap.split(","),
        "request_timeout_ms": config.request_timeout_ms,
        "retry_backoff_ms": int(RETRY_SECONDS * 1000),
        "metadata_max_age_ms": 60_000,
    }


async def connect(config: KafkaConfig) -> AIOKafkaClient:
    """Asyncio: a client that knows the cluster's nodes."""
    client = AIOKafkaClient(**client_settings(config))
    try:
        await client.bootstrap()
    except BaseException:
        await client.close()
        raise
    return client


def any_node(client: AIOKafkaClient) -> Any:
    node = client.get_random_node()
    if node is None:
        raise errors.NodeNotReadyError("no broker is known yet")
    return node
