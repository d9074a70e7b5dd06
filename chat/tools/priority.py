"""Processes that nobody on line waits for yield to those that somebody does (docs/decisions/0098)."""

from __future__ import annotations

import errno
import os
from typing import Final

import trio

from chat.tools.running import PROC

#: Without privileges the kernel takes one autogroup's value per tenth of a second, of all processes together.
_AGAIN_S: Final = 0.15
_TRIES: Final = 20


async def lower(pid: int, nice: int) -> bool:
    """Give a process that was just started, its threads and its session the niceness `nice` (0 to 19, see nice(1)). Where
    the kernel groups processes by session (sched(7), autogroup), a process's own value counts only within its session,
    so the session gets it too: `pid` must lead one. False where the kernel refuses or the process has gone. Waits up to
    3 s; cancel-safe."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, nice)  # of the first thread alone, from which those to come have it
        for thread in (PROC / str(pid) / "task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
    except OSError:
        return False
    for _ in range(_TRIES):
        try:
            (PROC / str(pid) / "autogroup").write_text(f"{nice}\n")
        except FileNotFoundError:  # a kernel without, or the process has gone
            return True
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return False
        else:
            return True
        await trio.sleep(_AGAIN_S)
    return False
