"""Commands of this project in processes of their own, and the report that they print."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import trio

from chat.errors import SetupError
from chat.tools.control import ask
from chat.tools.load.report import Report
from chat.tools.state import State

#: One run, preparations included; each of its phases has its own, shorter limit.
RUN_S: Final = 3_600.0


def chat(*words: str) -> list[str]:
    return [sys.executable, "-m", "chat", *words]


async def run_report(words: Sequence[str]) -> Report:
    """`chat WORDS… --json`. Raises SetupError where no report came of it."""
    with trio.move_on_after(RUN_S):
        done = await trio.run_process(
            [*chat(*words), "--json"], capture_stdout=True, check=False, deliver_cancel=_interrupt
        )  # fmt: skip
        try:
            return msgspec.json.decode(done.stdout, type=Report)
        except msgspec.DecodeError:
            raise SetupError(f"{shlex.join(['chat', *words])} ended with {done.returncode}") from None
    raise SetupError(f"{shlex.join(['chat', *words])} was not done after {RUN_S:g} s")


async def tell(state: State, request: dict[str, Any], otherwise: str) -> None:
    """Have the supervisor do something. Raises SetupError, which begins with `otherwise`, where it does not."""
    answer = await ask(state, request)
    if answer != {"ok": True}:
        raise SetupError(f"{otherwise}: {answer}")


async def _interrupt(process: trio.Process) -> None:
    """It closes its connections and keeps its users file; then it is ended for good."""
    process.send_signal(signal.SIGINT)
    with trio.move_on_after(5) as patience:
        patience.shield = True
        await process.wait()
    process.kill()
