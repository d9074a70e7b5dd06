"""The one door between trio and asyncio.

`open_bridge` is around a process's life; inside it, `call` runs an asyncio coroutine function from trio.

**Cancellation.** A driver that is cancelled between a request and its answer is in an undefined state, so `call` shields:
a trio cancellation waits until the driver is done or `seconds` are over. Only the time limit cancels the driver; its
adapter then throws the driver's connection away. After a shielded call the result is returned even where the caller was
cancelled meanwhile: it learns of that at its next checkpoint, with the result in hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import structlog
import trio
import trio_asyncio

T = TypeVar("T")
Args = TypeVarTuple("Args")

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_bridge() -> AsyncIterator[None]:
    """An asyncio loop on top of trio's. Every adapter is opened inside and closed before the end."""
    for driver in ("aiokafka", "aiomysql", "asyncio"):  # they log each try; what matters reaches us as an exception
        logging.getLogger(driver).setLevel(logging.CRITICAL)
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_report)
        yield


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a driver's background task left unhandled. It is told, and does not end the process: every call's own
    outcome comes by its own way."""
    error = context.get("exception")
    _log.error("driver_background_error", message=context.get("message"), error=repr(error) if error else None)


async def call(seconds: float, function: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
    """Run the asyncio coroutine `function(*args)`; TimeoutError after `seconds`.

    Raises Cancelled before it begins, never in the middle (see above).
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.move_on_after(seconds, shield=True):
        return await _run(function, args)
    raise TimeoutError(f"no answer within {seconds:g} s")


async def _run(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    try:
        return await trio_asyncio.run_aio_coroutine(function(*args))  # type: ignore[no-any-return]
    except asyncio.CancelledError as error:  # the driver cancelled itself; must not look like a cancellation of ours
        raise ConnectionError("the driver gave the call up") from error


class Background:
    """Asyncio tasks that close drivers which were thrown away. Each is bounded; `finish` waits for all."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, close: Callable[[], Awaitable[object]]) -> None:
        task = asyncio.ensure_future(self._bounded(close))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bounded(self, close: Callable[[], Awaitable[object]]) -> None:
        try:
            await asyncio.wait_for(_coroutine(close), self._seconds)
        except Exception as error:  # noqa: BLE001 - whatever a broken driver says while it is closed changes nothing
            _log.debug("driver_close_failed", error=repr(error))

    async def finish(self) -> None:
        """Trio: return when all are done, at the latest after their bound."""
        with trio.CancelScope(shield=True):
            if self._tasks:
                await call(self._seconds + 1, asyncio.wait, list(self._tasks))


async def _coroutine(close: Callable[[], Awaitable[object]]) -> None:
    await close()
