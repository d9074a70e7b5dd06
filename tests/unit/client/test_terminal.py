"""`chat talk` on a real (pseudo) terminal, and its lines against the fake edge."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from chat.client.commands import COMMANDS, typed
from chat.client.sdk import Client
from chat.client.store import Store
from chat.client.talk import Talk
from chat.message_id import parse_id
from tests.fakes.edge import FakeEdge
from tests.unit.client.test_sdk import Device, running


class Recorder:
    """A screen that remembers."""

    colours = False
    interactive = True

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen = ""

    def write(self, *lines: str) -> None:
        self.lines += [re.sub(r"^\[[^]]*\] ", "", line) for line in lines]

    def status(self, text: str, prompt: str) -> None:
        self.seen = f"{text} | {prompt}"


async def until(true) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 - it is about what other tasks have written
            await trio.sleep(0.005)


async def test_lines_and_commands():
    async with FakeEdge.serving() as edge:
        bob = Device(edge, "bob")
        screen = Recorder()
        client = Client([edge.address], "alice", Store(":memory:"), password="correct horse", register=True)
        talk = Talk(client, screen)
        async with running(bob), trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            nursery.start_soon(talk.follow)
            await client.wait_connected()
            assert await typed(talk, "nobody hears this")
            assert screen.lines[-1].startswith("! to whom?")
            await typed(talk, "/to bob")
            await typed(talk, "hello")
            await until(lambda: "→ bob: hello  ✓" in screen.lines)
            await until(lambda: "✓✓: hello" in screen.seen)
            bob.client.send_text(f"u{client.user}", "\x1b[2Jevil\nsecond 中文")
            await until(lambda: "bob: evil ⏎ second 中文" in screen.lines)
            await bob.until(lambda: bob.marks("\x1b[2Jevil\nsecond 中文")[-1] == "read")
            await typed(talk, "/create tea bob --open")
            await typed(talk, "in the group")
            await until(lambda: "→ #tea: in the group  ✓" in screen.lines)
            assert screen.seen.endswith("#tea> ")
            bob.client.send_text(f"u{client.user}", "elsewhere")
            await until(lambda: "bob (1)" in screen.seen)
            edge.refuse = ["blocked"]
            await typed(talk, "refused")
            await until(lambda: any(line.startswith("→ #tea: refused  ✗ failed (blocked)") for line in screen.lines))
            await typed(talk, "/retry")
            await until(lambda: "→ #tea: refused  ✓" in screen.lines)
            for command in ("/list", "/friends", "/add bob", "/groups", "/members", "/history 3", "/outbox", "/help"):
                before = talk.failures
                await typed(talk, command)
                assert talk.failures == before, screen.lines[-1]
            await typed(talk, "/ids 3")
            name, _, line = screen.lines[-1].partition("  ")
            assert parse_id(name).conversation == talk.current
            assert line.endswith("→ #tea: refused")
            for wrong in ("/nonsense", "/to", "/to nobody-known", "/join tea", "/to #none", "/history x", "/ids x"):
                before = talk.failures
                await typed(talk, wrong)
                assert talk.failures == before + 1, wrong
            assert not await typed(talk, "/quit")
            assert len(screen.lines) == len([line for line in screen.lines if "\x1b" not in line])
            nursery.cancel_scope.cancel()
        assert all(command.what for command in COMMANDS.values())


async def test_what_was_not_written_is_written_first_at_the_next_start(tmp_path: Path):
    async with FakeEdge.serving() as edge:
        alice = Device(edge, "alice")
        store = Store(tmp_path / "bob.sqlite")
        deaf = Device(edge, "bob", store)
        async with running(alice, deaf):
            alice.client.send_text(f"u{deaf.client.user}", "received, not written")
            await deaf.until(lambda: deaf.texts == ["received, not written"])
        for expected in (["alice: received, not written"], []):
            screen = Recorder()
            talk = Talk(Client([edge.address], "bob", store, password="correct horse"), screen)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk.client.run)
                nursery.start_soon(talk.follow)
                await until(lambda t=talk: t.client.caught_up and t.client.all_taken())
                assert [line for line in screen.lines if ": " in line] == expected
                nursery.cancel_scope.cancel()


# ------------------------------------------------------------------ a terminal


class Terminal:
    def __init__(self, process: int, descriptor: int) -> None:
        self.process, self.descriptor, self.output = process, descriptor, ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def see(self, part: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while part not in self.output:
            left = end - time.monotonic()
            assert left > 0, f"{part!r} is not in {self.output!r}"
            if select.select([self.descriptor], [], [], left)[0]:
                try:
                    self.output += os.read(self.descriptor, 65_536).decode(errors="replace")
                except OSError:  # the other side has closed
                    assert part in self.output, f"{part!r} is not in {self.output!r}"


@contextmanager
def terminal(colours: bool, code: int, *command: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 40))
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "CHAT_PASSWORD": "correct horse", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    if colours:
        environment.pop("NO_COLOR", None)
    else:
        environment["NO_COLOR"] = "1"
    files = [(os.POSIX_SPAWN_DUP2, slave, number) for number in range(3)]
    process = os.posix_spawn(sys.executable, [sys.executable, *command], environment, file_actions=files)
    found = Terminal(process, master)
    try:
        yield found
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
        found.process = 0
        assert termios.tcgetattr(slave) == before, "the terminal is left as it was"
    finally:
        if found.process:
            os.kill(found.process, 9)
            os.waitpid(found.process, 0)
        os.close(master)
        os.close(slave)


def on_a_terminal(address: str, folder: Path, colours: bool, end: str, code: int) -> str:
    command = ["-m", "chat", "talk", "alice", "--server", address, "--register", "--state", str(folder)]
    with terminal(colours, code, *command) as screen:
        screen.see("connected to fake")
        screen.type("/to alice\r")
        screen.see("alice> ")
        screen.type("note to my self\x1b[D\x1b[D\x1b[D\x1b[D\x7f 中文\r")
        screen.see("→ alice: note to my 中文self  ✓")
        screen.type("\x1b[A")  # the earlier line again
        screen.see("note to my 中文self\r")
        screen.type("\x15" + end)
        if code:
            screen.see(end)
            os.kill(screen.process, signal.SIGINT)
        return screen.output
    raise AssertionError


@pytest.mark.parametrize(("colours", "end", "code"), [(True, "\x04", 0), (False, "/quit\r", 0), (True, "half a line", 130)])
async def test_on_a_terminal(tmp_path: Path, colours: bool, end: str, code: int):
    async with FakeEdge.serving() as edge:
        with trio.fail_after(60):
            output = await trio.to_thread.run_sync(on_a_terminal, edge.address, tmp_path, colours, end, code)
    assert bool(re.search(r"\x1b\[[0-9;]*m", output)) is colours
