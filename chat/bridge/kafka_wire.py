"""Kafka's protocol on trio's own sockets. aiokafka gives the layouts of requests, responses and record batches, which are
plain code without a loop; what it does with asyncio costs four times as much under trio-asyncio as here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, Final

import structlog
import trio
from aiokafka import errors
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.api import Request

from chat.bridge.kafka_hot import Call
from chat.bridge.kafka_metadata import TopicsRequest
from chat.bridge.link import Link, turn
from chat.config import KafkaConfig
from chat.records import TopicPartition

_log = structlog.get_logger(__name__)

_READ_BYTES: Final = 1 << 16
_CLIENT: Final = "chat"
_CLIENT_BYTES: Final = _CLIENT.encode()
#: A broker that is not there after this long is frozen, or cut off: another may be asked.
OPEN_SECONDS: Final = 3.0
#: What a link raises when it breaks.
BROKEN = (OSError, trio.ClosedResourceError, trio.BrokenResourceError)


class Wire:
    """A connection to one broker, which answers in the order it was asked.

    `ask` is for any number of tasks, one after the other. `send` and `receive` apart are for one task that waits for an
    answer in several goes: cancelling `receive` loses nothing.
    """

    def __init__(self, link: Link, versions: dict[int, tuple[int, int]] | None = None) -> None:
        self._link = link
        self._versions = versions or {}
        self._turn = trio.Lock()
        self._due: deque[tuple[int, Callable[[bytes, int], Any]]] = deque()
        self._number = 0
        self._buffer = bytearray()

    @classmethod
    async def open(cls, host: str, port: int) -> Wire:
        """Raises what `BROKEN` lists: TimeoutError after OPEN_SECONDS."""
        with trio.move_on_after(OPEN_SECONDS):
            link = await Link.tcp(host, port)
            try:
                versions = await cls(link).ask(ApiVersionRequest())
            except BaseException:
                link.close()
                raise
            return cls(link, {key: (low, high) for key, low, high in versions.api_versions})
        raise TimeoutError(f"{host}:{port} does not answer")

    @property
    def usable(self) -> bool:
        return not self._link.closed and (bool(self._due) or self._turn.locked() or not self._link.stale())

    async def ask(self, request: Request[Any] | Call) -> Any:
        """The response. Cancelled or failed in the middle, the connection is closed."""
        async with turn(self._turn):
            try:
                await self.send(request)
                return await self.receive()
            except BaseException:
                self.close()
                raise

    async def send(self, request: Request[Any] | Call, seconds: float = math.inf) -> None:
        """Raises trio.TooSlowError where the broker does not take it within `seconds`."""
        self._number += 1
        if isinstance(request, Call):
            data, read = self._hot(request)
        else:
            data, read = self._cold(request)
        self._due.append((self._number, read))
        try:
            await self._link.send(data, seconds)
        except BaseException:
            self.close()
            raise

    def _hot(self, call: Call) -> tuple[bytes, Callable[[bytes, int], Any]]:
        key, version = call.api
        low, high = self._versions.get(key, (version, version))
        if not low <= version <= high:
            raise errors.IncompatibleBrokerVersion(
                f"the broker speaks versions {low} to {high} of request {key}, not {version}"
            )
        return call.frame(self._number, _CLIENT_BYTES), call.read

    def _cold(self, request: Request[Any]) -> tuple[bytes, Callable[[bytes, int], Any]]:
        laid_out = request.prepare(self._versions)
        header = laid_out.build_request_header(self._number, _CLIENT).encode()
        body = laid_out.encode()

        def read(data: bytes, _: int) -> Any:
            answer = BytesIO(data)
            answer.seek(4)
            laid_out.parse_response_header(answer)
            return laid_out.RESPONSE_TYPE.decode(answer)

        return b"%b%b%b" % ((len(header) + len(body)).to_bytes(4, "big"), header, body), read

    async def receive(self) -> Any:
        """The response to the oldest request."""
        data = self._whole()
        while not data:
            came = await self._link.receive(_READ_BYTES)
            if not self._buffer and len(came) == 4 + int.from_bytes(came[:4], "big"):
                data = came  # one answer, and whole: the rule
            else:
                self._buffer += came
                data = self._whole()
        number, read = self._due.popleft()
        if int.from_bytes(data[4:8], "big") != number:
            self.close()
            raise errors.CorrelationIdError(f"an answer to another request than {number}")
        return read(data, 8)

    def _whole(self) -> bytes:
        """The oldest answer, if all of it is there."""
        buffer = self._buffer
        if len(buffer) < 4 or len(buffer) < (end := 4 + int.from_bytes(buffer[:4], "big")):
            return b""
        data = bytes(buffer[:end])
        del buffer[:end]
        return data

    def close(self) -> None:
        self._link.close()


class Brokers:
    """What is known of the cluster, and a connection to each broker that was needed."""

    def __init__(self, config: KafkaConfig) -> None:
        self._bootstrap = [_host_port(where) for where in config.bootstrap.split(",")]
        self._nodes: dict[int, tuple[str, int]] = {}
        self._wires: dict[tuple[str, int], Wire] = {}
        self._opening = trio.Lock()
        self._leaders: dict[TopicPartition, int] = {}

    def leader(self, partition: TopicPartition) -> int | None:
        """None where the partition is not known (yet), -1 where it has no leader (now)."""
        return self._leaders.get(partition)

    def address(self, node: int) -> tuple[str, int]:
        where = self._nodes.get(node)
        if where is None:
            raise errors.NodeNotReadyError(f"node {node} is not known")
        return where

    async def node(self, node: int) -> Wire:
        """Raises what `BROKEN` lists, KafkaError."""
        return await self._wire(self.address(node))

    async def any(self) -> Wire:
        """A connection to whichever broker answers."""
        failure: BaseException = errors.NodeNotReadyError("no broker is known")
        ready = [where for where, wire in self._wires.items() if wire.usable]
        for where in dict.fromkeys([*ready, *self._nodes.values(), *self._bootstrap]):
            try:
                return await self._wire(where)
            except (*BROKEN, errors.KafkaError) as error:
                failure = error
        raise errors.KafkaConnectionError(f"no broker can be reached, last {failure!r}") from failure

    async def refresh(self, topics: Iterable[str]) -> None:
        """Ask who leads the partitions of these topics."""
        wanted = set(topics)
        answer = await (await self.any()).ask(TopicsRequest(sorted(wanted)))
        self._nodes = {node: (host, port) for node, host, port, *_ in answer.brokers}
        self._leaders = {p: leader for p, leader in self._leaders.items() if p.topic not in wanted}
        for code, name, _id, _internal, partitions, *_tags in answer.topics:
            if code == 0:
                for _code, number, leader, *_more in partitions:
                    self._leaders[TopicPartition(name, number)] = leader

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()

    async def _wire(self, where: tuple[str, int]) -> Wire:
        wire = self._wires.get(where)
        if wire is not None and wire.usable:
            return wire
        async with self._opening:
            wire = self._wires.get(where)
            if wire is not None:
                if wire.usable:
                    return wire
                wire.close()
            wire = self._wires[where] = await Wire.open(*where)
            _log.debug("kafka_connected", broker=f"{where[0]}:{where[1]}")
            return wire


def _host_port(where: str) -> tuple[str, int]:
    host, _, port = where.strip().rpartition(":")
    return (host.strip("[]"), int(port)) if host else (where.strip(), 9092)
