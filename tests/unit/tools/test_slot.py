"""A part under supervision, with a small real process that tells when it is ready as services do."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from chat.tools.parts import Once, Part
from chat.tools.slot import PAUSES, Slot
from chat.tools.state import State

READY = "from chat.notify import READY, notify; notify(READY); import time; time.sleep(60)"


def part(tmp_path: Path, code: str, once: Once | None = None) -> Part:
    command = (sys.executable, "-c", code)
    return Part(name="x", role="edge", address="", command=command, folder=tmp_path / "x", once=once, stop_s=5)


@asynccontextmanager
async def kept(tmp_path: Path, what: Part) -> AsyncIterator[Slot]:
    (tmp_path / ".chat" / "logs").mkdir(parents=True)
    slot = Slot(what, State(tmp_path / ".chat"), dict(os.environ), lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.keep)
        with trio.fail_after(30):
            yield slot
            await slot.stop()
        assert slot.state == "stopped"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_ready_when_it_says_so(tmp_path: Path) -> None:
    async with kept(tmp_path, part(tmp_path, READY)) as slot:
        await slot.ready.wait()
        assert slot.state == "running"
        assert slot.entry().pid == slot.running.pid if slot.running else False


async def test_one_that_is_killed_is_back_at_once(tmp_path: Path) -> None:
    async with kept(tmp_path, part(tmp_path, READY)) as slot:
        await slot.ready.wait()
        assert slot.running is not None
        before = slot.running.pid
        slot.running.signal(signal.SIGKILL)
        await until(lambda: slot.running is not None and slot.running.pid != before)
        await slot.ready.wait()
        assert slot.restarts == 1
        assert PAUSES[0] == 0


async def test_its_priority(tmp_path: Path) -> None:
    async with kept(tmp_path, replace(part(tmp_path, READY), nice=5)) as slot:
        await slot.ready.wait()
        assert slot.running is not None
        pid = slot.running.pid
        await until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 5)


async def test_one_that_ends_again_and_again_is_waited_for(tmp_path: Path) -> None:
    async with kept(tmp_path, part(tmp_path, "raise SystemExit(1)")) as slot:
        await until(lambda: slot.restarts >= 2 and slot.state == "waiting")
        assert slot.entry().pid is None


async def test_a_restart_waits_for_the_successor(tmp_path: Path) -> None:
    async with kept(tmp_path, part(tmp_path, READY)) as slot:
        await slot.ready.wait()
        before = slot.entry().pid
        await slot.restart()
        assert slot.state == "running"
        assert slot.entry().pid != before


async def test_what_is_needed_once_is_done_once_and_from_nothing(tmp_path: Path) -> None:
    half = tmp_path / "data"
    half.mkdir()
    (half / "left by one that was killed").touch()
    done = tmp_path / "formatted"
    once = Once((sys.executable, "-c", f"import os; os.mkdir({str(half)!r})"), done=done, clear=half)
    async with kept(tmp_path, part(tmp_path, READY, once)) as slot:
        await slot.ready.wait()
        assert done.exists()
        assert list(half.iterdir()) == []
        (half / "data of value").touch()
        await slot.restart()
        assert [path.name for path in half.iterdir()] == ["data of value"]


async def test_the_next_supervisor_takes_over(tmp_path: Path) -> None:
    (tmp_path / ".chat" / "logs").mkdir(parents=True)
    state, what = State(tmp_path / ".chat"), part(tmp_path, READY)
    first = Slot(what, state, dict(os.environ), lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.keep)
        with trio.fail_after(30):
            await first.ready.wait()
        nursery.cancel_scope.cancel()
    assert first.running is not None
    second = Slot(what, state, dict(os.environ), lambda: None)
    second.adopt(first.running, ready=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.keep)
        assert second.entry().pid == first.running.pid
        with trio.fail_after(30):
            await second.stop()
