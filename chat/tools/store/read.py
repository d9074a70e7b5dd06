"""A user's connection that asks one thing after the other and measures how long each answer takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final

import msgspec
import trio

from chat import protocol
from chat.errors import SetupError
from chat.protocol import encode, frame
from chat.tools.load.accounts import Account
from chat.tools.load.wire import HELLO, cut

_READ: Final = 1 << 18
ANSWER_S: Final = 60.0
#: An answer as far as it must be known to be found: not what it brings.
_HEAD: Final = 64


class Answer(msgspec.Struct, kw_only=True):
    """What readers look at, of any answer."""

    type: str
    rid: int | str | None = None
    next: str | None = None
    messages: list[msgspec.Raw] = []
    conversations: list[dict[str, Any]] = []
    complete: bool = True
    upto: int = 0
    cursors: dict[str, int] = {}
    user: int = 0
    code: Any = None
    message: str = ""

    def ends(self) -> tuple[Spot, Spot]:
        """The first and the last message."""
        return _spot(self.messages[0]), _spot(self.messages[-1])


class Spot(msgspec.Struct):
    sent_at: int
    pos: int
    text: str = ""


_spot = msgspec.json.Decoder(Spot).decode
_decode = msgspec.json.Decoder(Answer).decode


class Reader:
    """Not for concurrent use."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._left = b""
        self._waiting: list[bytes] = []
        self._rid = 0

    async def ask(self, request: protocol.Request) -> tuple[float, Answer]:
        """Seconds from the request's first byte to the answer's last, and the answer. Raises SetupError where it is an error
        or does not come."""
        self._rid += 1
        request.rid = self._rid
        data = frame(encode(request))
        began = perf_counter()
        await self._send(data)
        while True:
            body = await self._next()
            if body.startswith(b'{"type":"message"'):
                continue
            took = perf_counter() - began
            answer = _decode(body)
            if answer.type == "goodbye":
                raise SetupError(f"the edge ended the connection: {answer.code}")
            if answer.rid == self._rid:
                if answer.type == "error":
                    raise SetupError(f"{type(request).__name__} was refused: {answer.code}: {answer.message}")
                return took, answer

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise SetupError(f"the connection is gone: {error}") from error

    async def _next(self) -> bytes:
        while not self._waiting:
            with trio.move_on_after(ANSWER_S) as patience:
                data = await self._stream.receive_some(_READ)
            if patience.cancelled_caught or not data:
                raise SetupError(f"no answer in {ANSWER_S:g} s" if patience.cancelled_caught else "the edge hung up")
            self._waiting, self._left = cut(self._left + data)
        return self._waiting.pop(0)


@asynccontextmanager
async def log_in(server: tuple[str, int], account: Account) -> AsyncIterator[Reader]:
    """As the account, by its token. Raises SetupError."""
    try:
        stream = await trio.open_tcp_stream(*server)
    except OSError as error:
        raise SetupError(f"{server[0]}:{server[1]} is not reached: {error}") from error
    async with stream:
        reader = Reader(stream)
        await reader._send(HELLO)
        await reader._next()  # welcome
        await reader.ask(protocol.Resume(token=account.token, device=account.device))
        yield reader
