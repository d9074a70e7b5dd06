"""One epoll and timers: the whole engine of the load.

Who waits on sockets gives the reactor an object with `ready(events)`; who waits on time gives it a function. Nothing here
runs concurrently: a callback is done before the next begins.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import select
import time
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Final, Protocol

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
_EVENTS: Final = 512  # taken from the kernel at once


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: interval, then first expiry, each in seconds and nanoseconds."""

    _fields_ = [("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("at_s", ctypes.c_long), ("at_ns", ctypes.c_long)]


class Timer:
    """A timerfd of the monotonic clock; see timerfd_create(2). Python has it from 3.13 on."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._library.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._pointer = ctypes.byref(self._spec)

    def set(self, when: float) -> None:
        """Be readable at `when`, monotonic seconds. It replaces what was set before."""
        spec = self._spec
        spec.at_s = int(when)
        spec.at_ns = int((when - spec.at_s) * 1e9)
        self._library.timerfd_settime(self.fd, 1, self._pointer, None)  # 1: TFD_TIMER_ABSTIME

    def close(self) -> None:
        os.close(self.fd)


class Ready(Protocol):
    def ready(self, events: int) -> None: ...


class Reactor:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._timer = Timer()
        self._epoll.register(self._timer.fd, READ | select.EPOLLET)  # edge-triggered: it need not be read
        self._waiting: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        #: Called in each round with the time; says when it wants to be called again at the latest (monotonic seconds).
        self.pace: Callable[[float], float | None] | None = None

    def close(self) -> None:
        self._epoll.close()
        self._timer.close()

    def add(self, fd: int, handler: Ready, events: int) -> None:
        self._epoll.register(fd, events)
        self._waiting[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        del self._waiting[fd]
        self._epoll.unregister(fd)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call it once, at `when` (monotonic seconds) or soon after."""
        heapq.heappush(self._timers, (when, next(self._number), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(monotonic() + seconds, call)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Turn until `until()` is true (looked at after every round) or `limit` seconds are over; says which."""
        end = monotonic() + limit
        while not until():
            now = monotonic()
            if now >= end:
                return False
            self._turn(now, min(end, now + 0.25))
        return True

    def _turn(self, now: float, wake: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2]()
        if timers:
            wake = min(wake, timers[0][0])
        if self.pace is not None:
            due = self.pace(now)
            if due is not None:
                wake = min(wake, due)
        for fd, events in self._wait(max(0.0, wake - monotonic())):
            handler = self._waiting.get(fd)  # an earlier event of this round may have closed it
            if handler is not None:
                handler.ready(events)

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """epoll counts in milliseconds and rounds up, which would be seen in the latencies: the last part of a wait is
        left to the timer, which counts in nanoseconds and is one more descriptor of the epoll."""
        if 0 < seconds < 0.02:
            self._timer.set(monotonic() + seconds)
            seconds = 0.1
        return self._epoll.poll(seconds, _EVENTS)
