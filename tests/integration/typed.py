"""`chat …` as it is typed: in a process of its own, with nothing of this one's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from subprocess import CompletedProcess

import trio


async def chat(*words: str, settings: Mapping[str, str], code: int = 0) -> CompletedProcess[str]:
    """Its output; it must end with `code`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    with trio.fail_after(90):
        done = await trio.run_process(
            [sys.executable, "-m", "chat", *words],
            env=environ | settings,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    said = CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert said.returncode == code, said
    return said
