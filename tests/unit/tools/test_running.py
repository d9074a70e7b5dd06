"""Processes, with small real ones."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from chat.tools.parts import Part
from chat.tools.running import Identity, Running, group_of, is_alive, is_paused, kill, look

#: A leader that starts a child in its group, tells its pid, and waits.
FAMILY = """
import subprocess, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


def start(tmp_path: Path, *command: str) -> Running:
    part = Part(name="x", role="edge", address="", command=command, folder=tmp_path)
    return Running.start(part, tmp_path / "x.log", dict(os.environ), "")


async def until_written(path: Path) -> str:
    with trio.fail_after(10):
        while not (text := path.read_text()).endswith("\n"):  # noqa: ASYNC110, ASYNC240
            await trio.sleep(0.01)
    return text


async def test_the_exit_code(tmp_path: Path) -> None:
    with trio.fail_after(10):
        assert await start(tmp_path, "sh", "-c", "exit 3").exited() == 3
        running = start(tmp_path, "sleep", "60")
        running.signal(signal.SIGKILL)
        assert await running.exited() == -signal.SIGKILL
    running.signal(signal.SIGTERM)  # it is gone: nobody else gets it


async def test_with_its_leader_the_group_goes(tmp_path: Path) -> None:
    running = start(tmp_path, sys.executable, "-c", FAMILY)
    child = look(int(await until_written(tmp_path / "x.log")))
    assert child is not None
    assert child.identity in group_of(running.identity)
    running.signal(signal.SIGKILL)
    with trio.fail_after(10):
        await running.exited()
        while is_alive(child.identity):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_an_adopted_process_is_watched_to_its_end(tmp_path: Path) -> None:
    started = start(tmp_path, "sleep", "60")
    adopted = Running.adopt(started.identity)
    assert adopted is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(started.exited)  # its parent, who reaps it
        nursery.start_soon(adopted.stop, 5.0)
        with trio.fail_after(10):
            assert await adopted.exited() is None
    assert Running.adopt(started.identity) is None


async def test_a_number_that_went_to_another_is_not_adopted(tmp_path: Path) -> None:
    running = start(tmp_path, "sleep", "60")
    stranger = Identity(running.pid, running.identity.started - 1)
    assert Running.adopt(stranger) is None
    assert not kill(stranger, signal.SIGKILL)
    assert group_of(stranger) == []
    assert is_alive(running.identity)
    await end(running)


async def end(running: Running) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.exited)
        with trio.fail_after(10):
            await running.stop(5)


async def test_a_paused_process_is_seen_and_can_be_stopped(tmp_path: Path) -> None:
    running = start(tmp_path, "sleep", "60")
    running.signal(signal.SIGSTOP)
    with trio.fail_after(10):
        while not is_paused(running.identity):  # noqa: ASYNC110
            await trio.sleep(0.01)
    await end(running)


async def test_who_does_not_hear_sigterm_is_killed(tmp_path: Path) -> None:
    running = start(tmp_path, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    await until_written(tmp_path / "x.log")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.stop, 0.1)
        with trio.fail_after(10):
            assert await running.exited() == -signal.SIGKILL


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        start(tmp_path, "/nowhere")
