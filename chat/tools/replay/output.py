"""Standard output and standard error of a replay: one write a batch, progress where nothing else is to be seen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import BinaryIO, Final

import click
import trio

#: Between two words of progress.
EVERY_S: Final = 5.0
#: Write what waits before sleeping for longer than this.
NOTICEABLE_S: Final = 0.002


class Output:
    """Bytes to standard output. Writing is done in a thread: a reader that is slow (a pager) keeps nothing else waiting, and
    ctrl-C is heard."""

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        self.wrote_at = float("-inf")  # trio's clock
        self.bytes = 0

    async def write(self, data: bytes) -> None:
        """Cancelled: an unknown part of it is written."""
        if data:
            await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)
            self.bytes += len(data)
            self.wrote_at = trio.current_time()

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()


async def tell_progress(output: Output, said: Callable[[], str]) -> None:
    """A line on standard error every few seconds, for as long as this runs, unless lines appear on a terminal anyway."""
    while True:
        await trio.sleep(EVERY_S)
        seen = sys.stdout.isatty() and trio.current_time() - output.wrote_at < EVERY_S
        if not seen:
            click.echo(f"chat replay: {said()}", err=True)
