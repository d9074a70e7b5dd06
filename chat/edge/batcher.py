"""Many wait, one works: what has gathered is served by one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from chat.errors import Unavailable

Q = TypeVar("Q")
A = TypeVar("A")


class _Waiting(Generic[Q, A]):
    __slots__ = ("answer", "done", "question")

    def __init__(self, question: Q) -> None:
        self.question = question
        self.answer: A | Exception | None = None
        self.done = trio.Event()


class Batcher(Generic[Q, A]):
    """`work` gets up to `size` questions that wait, in the order asked, and returns an answer or an exception for each.
    `workers` calls of it run at a time; nothing lingers, so an idle batcher serves one at once. At most `room` wait:
    beyond that `ask` refuses. What `work` raises is raised in every `ask` of its batch."""

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        size: int,
        room: int,
        workers: int,
        seconds: float,
        part: str,
    ) -> None:
        self._work = work
        self._size = size
        self._workers = workers
        self._seconds = seconds
        self._part = part  # named in the refusal
        self._put, self._take = trio.open_memory_channel[_Waiting[Q, A]](room)

    async def ask(self, question: Q) -> A:
        """The answer. Raises Unavailable when too many wait or the bounded time is over. Cancel-safe: the answer of who
        is gone is dropped."""
        waiting = _Waiting[Q, A](question)
        try:
            self._put.send_nowait(waiting)
        except trio.WouldBlock:
            raise Unavailable(self._part, "too many are waiting; try again") from None
        with trio.move_on_after(self._seconds):
            await waiting.done.wait()
        answer = waiting.answer
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise Unavailable(self._part)
        return answer

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self._workers):
                nursery.start_soon(self._serve)
            task_status.started()

    async def _serve(self) -> None:
        while True:
            batch = [await self._take.receive()]
            while len(batch) < self._size:
                try:
                    batch.append(self._take.receive_nowait())
                except trio.WouldBlock:
                    break
            answers: Sequence[A | Exception]
            try:
                answers = await self._work([w.question for w in batch])
            except Exception as error:  # noqa: BLE001  # raised again in each that waits
                answers = [error] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answer = answer
                waiting.done.set()
