"""What every consuming role does around its work: signals, /metrics, the word that it is ready."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import structlog
import trio
from prometheus_client import CollectorRegistry

from chat.admin.http import serve_http
from chat.notify import READY, notify
from chat.stopping import stop_on_signals

log = structlog.get_logger()


class Worker(Protocol):
    """`run` works until `stop` is set, finishes what is under way, and returns; it calls `on_ready` once."""

    ready: bool

    async def run(self, stop: trio.Event, on_ready: Callable[[], None]) -> None: ...


class Role(NamedTuple):
    """`metrics`: host:port of /metrics, /healthz, /readyz; empty: none."""

    kind: str
    name: str
    metrics: str
    registry: CollectorRegistry


async def serve_role(
    role: Role,
    worker: Worker,
    *,
    beside: Sequence[Callable[[], Awaitable[object]]],
    stop: trio.Event | None,
    task_status: trio.TaskStatus[None],
    **said: Any,
) -> None:
    """Run the worker until SIGTERM, or until `stop` is set (then signals are left alone). `beside`: what runs meanwhile,
    until cancelled. `said` goes into the line that tells of readiness. Raises SetupError."""

    def ready() -> None:
        settle_memory()
        log.info("ready", role=role.kind, name=role.name, **said)
        notify(READY)
        task_status.started()

    async with trio.open_nursery() as nursery:
        if stop is None:
            stop = trio.Event()
            await nursery.start(stop_on_signals, stop)
        if role.metrics:
            await nursery.start(serve_http, role.metrics, role.registry, lambda: "" if worker.ready else "starting")
        for task in beside:
            nursery.start_soon(task)
        await worker.run(stop, ready)
        nursery.cancel_scope.cancel()


def settle_memory() -> None:
    """What is there at start stays: the collector need not look at it. Young objects die by themselves (frames and records
    are in no cycle), so it may look seldom: at an edge with 12,000 connections each full look is tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
