"""Where the terminal client writes, and reads its lines from: a terminal, or a pipe.

On a terminal the last two rows are alive: a status row and the input line; what is written goes above them and scrolls as
usual. In a pipe a line written is a line, and the status is not shown.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

import trio

from chat.client.editor import EndOfInput, LineEditor
from chat.client.text import cut, width

_ERASE_BELOW: Final = "\x1b[J"
_PASTE_ON: Final = "\x1b[?2004h"
_PASTE_OFF: Final = "\x1b[?2004l"


class Screen(Protocol):
    colours: bool
    interactive: bool

    def write(self, *lines: str) -> None:
        """Lines that are clean; escape sequences in them are the program's own."""
        ...

    def status(self, text: str, prompt: str) -> None: ...

    async def read(self, take: Callable[[str], Awaitable[bool]]) -> None:
        """Call `take` with each line typed, until the end of input or until it returns False. One line at a time: what is
        typed meanwhile waits."""
        ...


class PlainScreen:
    """Standard input and output as they are."""

    interactive = False

    def __init__(self, source: TextIO, target: TextIO, colours: bool) -> None:
        self._source, self._target, self.colours = source, target, colours
        if isinstance(target, codecs.StreamReaderWriter) or hasattr(target, "reconfigure"):
            target.reconfigure(errors="replace")

    def write(self, *lines: str) -> None:
        for line in lines:
            self._target.write(line + "\n")
        self._target.flush()

    def status(self, text: str, prompt: str) -> None:
        return

    async def read(self, take: Callable[[str], Awaitable[bool]]) -> None:
        # A thread, since a file on standard input cannot be waited for; one that waits for a terminal is left behind.
        while line := await trio.to_thread.run_sync(self._source.readline, abandon_on_cancel=True):
            if not await take(line.rstrip("\r\n")):
                return


class TerminalScreen:
    """A terminal in character mode. Use `open`."""

    interactive = True

    def __init__(self, colours: bool) -> None:
        self.colours = colours
        self._editor = LineEditor()
        self._status = ""
        self._prompt = "> "
        self._drawn = False

    @classmethod
    @contextmanager
    def open(cls, colours: bool) -> Iterator[TerminalScreen]:
        """Takes the terminal over; it is as before afterwards, whatever happens."""
        before = termios.tcgetattr(0)
        screen = cls(colours)
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a TextIOWrapper, on a terminal
        tty.setcbreak(0, termios.TCSADRAIN)  # Ctrl-C stays a signal
        sys.stdout.write(_PASTE_ON)
        try:
            screen._draw()
            yield screen
        finally:
            sys.stdout.write(screen._erase() + _PASTE_OFF)
            sys.stdout.flush()
            termios.tcsetattr(0, termios.TCSADRAIN, before)

    def write(self, *lines: str) -> None:
        sys.stdout.write(self._erase() + "".join(line + "\n" for line in lines))
        self._draw()

    def status(self, text: str, prompt: str) -> None:
        if (text, prompt) != (self._status, self._prompt):
            self._status, self._prompt = text, prompt
            self._redraw()

    async def read(self, take: Callable[[str], Awaitable[bool]]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with trio.open_signal_receiver(signal.SIGWINCH) as resized:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_size, resized)
                while True:
                    await trio.lowlevel.wait_readable(0)
                    data = os.read(0, 4096)
                    try:
                        lines = self._editor.feed(decoder.decode(data)) if data else None
                    except EndOfInput:
                        lines = None
                    self._redraw()
                    if lines is None or not await _each(lines, take):
                        break
                nursery.cancel_scope.cancel()

    async def _follow_size(self, resized: AsyncIterator[int]) -> None:
        async for _ in resized:
            self._redraw()

    def _redraw(self) -> None:
        sys.stdout.write(self._erase())
        self._draw()

    def _erase(self) -> str:
        drawn, self._drawn = self._drawn, False
        return f"\x1b[A\r{_ERASE_BELOW}" if drawn else f"\r{_ERASE_BELOW}"

    def _draw(self) -> None:
        columns = max(os.get_terminal_size(1).columns - 1, 8)  # the last column would wrap
        status = cut(self._status, columns)
        prompt = cut(self._prompt, columns // 2)
        seen, at = self._editor.view(columns - width(prompt))
        invert = ("\x1b[7m", "\x1b[0m") if self.colours else ("", "")
        sys.stdout.write(f"{invert[0]}{status}{invert[1]}\n{prompt}{seen}\r")
        if width(prompt) + at:
            sys.stdout.write(f"\x1b[{width(prompt) + at}C")
        sys.stdout.flush()
        self._drawn = True


async def _each(lines: list[str], take: Callable[[str], Awaitable[bool]]) -> bool:
    for line in lines:
        if not await take(line):
            return False
    return True
