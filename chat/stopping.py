"""SIGTERM and SIGINT as an event: a role finishes what it is doing and ends by itself."""

from __future__ import annotations

import signal

import structlog
import trio

log = structlog.get_logger()


async def stop_on_signals(stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Set `stop` at the first signal; the second one ends the process at once, as without us."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            stop.set()
            break
    await trio.sleep_forever()
