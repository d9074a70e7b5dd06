"""Niceness, with real processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from chat.tools import priority
from chat.tools.priority import lower


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, as a part of the cluster is."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as child:
        try:
            yield child
        finally:
            child.kill()


async def test_the_process_and_its_session() -> None:
    with sleeper() as child, trio.fail_after(10):
        assert await lower(child.pid, 7)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 7
        assert _of_the_session(child.pid) in (None, "7")


async def test_one_that_has_gone() -> None:
    with sleeper() as child:
        pass
    assert not await lower(child.pid, 7)


async def test_a_kernel_that_does_not_group_by_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeper() as child:
        (tmp_path / str(child.pid) / "task").mkdir(parents=True)
        monkeypatch.setattr(priority, "PROC", tmp_path)
        monkeypatch.setattr(Path, "write_text", _refuse(errno.ENOENT, 1))
        assert await lower(child.pid, 7)


@pytest.mark.parametrize(("refusals", "done"), [(3, True), (1_000, False)])
async def test_a_kernel_that_wants_to_be_asked_less_often(
    refusals: int, done: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    with sleeper() as child:
        monkeypatch.setattr(Path, "write_text", _refuse(errno.EAGAIN, refusals))
        assert await lower(child.pid, 7) is done
        assert trio.current_time() < 5


async def test_a_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeper() as child:
        monkeypatch.setattr(Path, "write_text", _refuse(errno.EPERM, 1))
        assert not await lower(child.pid, 7)


def _of_the_session(pid: int) -> str | None:
    group = Path(f"/proc/{pid}/autogroup")  # "/autogroup-12 nice 7"
    return group.read_text().split()[-1] if group.exists() else None


def _refuse(number: int, times: int) -> object:
    left = iter(range(times))

    def write_text(path: Path, text: str) -> int:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return len(text)

    return write_text
