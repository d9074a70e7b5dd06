"""`chat talk`: the terminal client. In a pipe it reads lines from standard input and ends with it."""

from __future__ import annotations

import getpass
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import click
import trio

from chat.client.commands import typed
from chat.client.local.history import LocalHistory
from chat.client.local.keys import FILE, WrongPassword
from chat.client.screen import PlainScreen, Screen, TerminalScreen
from chat.client.sdk import Client, LoggedOut
from chat.client.store import Store, path_of
from chat.client.talk import Talk
from chat.client.text import clean
from chat.errors import Goodbye

DONE, FAILED, UNREACHABLE = 0, 1, 3
DEFAULT_SERVER: Final = "127.0.0.1:7000"


def addresses(text: str) -> list[str]:
    """`host:port,host:port`. Raises click.BadParameter."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found or not all(re.fullmatch(r".+:\d{1,5}", address) for address in found):
        raise click.BadParameter(f"{text!r} is not host:port")
    return found


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "chat"


@click.command("talk")
@click.argument("name")
@click.option(
    "--server", envvar="CHAT_SERVER", default=DEFAULT_SERVER, show_default=True, help="host:port; several by commas."
)
@click.option("--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its first line.")
@click.option("--register", is_flag=True, help="Make the account first, if it does not exist.")
@click.option("--to", "target", help="Whom to write to: NAME or #GROUP.")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="Where this device keeps what it must not forget."
)
@click.option(
    "--history/--no-history", "keep", envvar="CHAT_LOCAL_HISTORY", default=True, show_default=True,
    help="Keep what is said on this device, sealed with the password.",
)  # fmt: skip
@click.option("--plain", is_flag=True, help="Plain lines even on a terminal.")
@click.option("--wait", default=30.0, show_default=True, help="In a pipe: seconds to wait for the last to be accepted.")
def talk(  # noqa: PLR0917  # click gives them by name
    name: str, server: str, password_file: Path | None, register: bool, target: str | None, state: Path | None, keep: bool,
    plain: bool, wait: float,
) -> int:  # fmt: skip
    """Chat as NAME. Type lines, or commands: /help.

    The password is taken from CHAT_PASSWORD, from --password-file, or asked for. Later starts log in with the token kept in
    the state folder; the password then opens the local history. Exit code: 0 all is accepted, 1 something failed, 2 usage,
    3 the server was not reached.
    """
    servers = addresses(server)
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not plain
    path = path_of(state or _state_folder(), servers[0], name)
    store, history = Store(path), None
    try:
        folder = path.with_suffix(".history")
        password, register = _credentials(store, name, password_file, register, folder if keep else None)
        if keep and password is not None:
            history = _open(folder, password)
        elif keep:
            _complain("no password, so the local history stays closed (CHAT_PASSWORD or --password-file opens it)")
        client = Client(servers, name, store, password=password, register=register, label="chat talk", history=history)
        with ExitStack() as stack:
            colours = not os.environ.get("NO_COLOR")
            screen: Screen = (
                stack.enter_context(TerminalScreen.open(colours))
                if interactive
                else PlainScreen(sys.stdin, sys.stdout, colours and sys.stdout.isatty())
            )
            code = trio.run(_talk, client, screen, target, wait)
    finally:
        store.close()
        if history is not None:
            history.close()
    if client.finished and client.finished.code != Goodbye.ASKED and not client.logged_out:
        _complain(client.finished.reason)
    elif code == UNREACHABLE:
        _complain(f"{server} was not reached within {wait:g} s")
    return code


def _credentials(
    store: Store, name: str, file: Path | None, register: bool, history: Path | None
) -> tuple[str | None, bool]:
    """The password, None where the token is enough; and whether to register. `history`: a folder that it opens too."""
    password = os.environ.get("CHAT_PASSWORD") or None
    if file is not None:
        password = file.read_text().partition("\n")[0].rstrip("\r")
    if password is not None:
        return password, register
    if store.get("token") is not None and not register:
        if history is None or not sys.stdin.isatty():
            return None, register
        password = getpass.getpass(f"Password of {name}, for the local history (empty: without): ") or None
        if password and not (history / FILE).exists() and getpass.getpass("Once more: ") != password:
            raise click.UsageError("the two passwords differ")
        return password, register
    if not sys.stdin.isatty():
        hint = "CHAT_PASSWORD or --password-file; --register makes the account"
        raise click.UsageError(f"no password for {name}: {hint}")
    if not register:
        answer = input(f"{name} is not logged in here. Is it an account already? [Y/n] ")
        register = answer.strip().lower().startswith("n")
    password = getpass.getpass(f"Password of {name}: ")
    if register and getpass.getpass("Once more: ") != password:
        raise click.UsageError("the two passwords differ")
    return password, register


def _open(folder: Path, password: str) -> LocalHistory:
    """Raises SetupError, click.UsageError."""
    try:
        return LocalHistory.open(folder, password)
    except WrongPassword as error:
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"{error}. On a terminal the earlier one can be given; --no-history goes on without."
            ) from None
        _complain(str(error))
    earlier = getpass.getpass("The earlier password: ")
    history = LocalHistory.open(folder, earlier)
    if input("Seal it with the new password from now on? [Y/n] ").strip().lower().startswith("n"):
        return history
    history.change_password(earlier, password)
    return history


def _complain(text: str) -> None:
    print(f"chat talk: {clean(text)}", file=sys.stderr)


async def _talk(client: Client, screen: Screen, target: str | None, wait: float) -> int:
    talk = Talk(client, screen)
    code = DONE
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(talk.follow)
        code = await _until_signal(_converse, talk, target, wait)
        await client.leave()
        nursery.cancel_scope.cancel()
    return code


async def _until_signal(converse: Callable[[Talk, str | None, float], Awaitable[int]], *args: Any) -> int:
    """What `converse` returns; Ctrl-C and SIGTERM end it in good order."""
    code = DONE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                nonlocal code
                code = 128 + await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            code = await converse(*args)
            nursery.cancel_scope.cancel()
    return code


async def _converse(talk: Talk, target: str | None, wait: float) -> int:
    client, screen = talk.client, talk.screen
    if not screen.interactive:
        with trio.move_on_after(wait):
            await _begin(talk, target)
        if not client.connected and not client.finished:
            return UNREACHABLE
    async with trio.open_nursery() as nursery:

        async def stop_when_finished() -> None:
            with suppress(LoggedOut):
                await client.wait_until(lambda: False)
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_when_finished)
        if screen.interactive:  # what is typed meanwhile is heard
            nursery.start_soon(_begin, talk, target)
        await screen.read(lambda line: typed(talk, line))
        nursery.cancel_scope.cancel()
    if client.finished or screen.interactive:
        return FAILED if client.finished and not client.logged_out else DONE
    with trio.move_on_after(wait), suppress(LoggedOut):
        return DONE if await talk.finish() else FAILED
    _complain(f"{len(client.sending)} not accepted within {wait:g} s; kept, and sent at the next start")
    return FAILED


async def _begin(talk: Talk, target: str | None) -> None:
    with suppress(LoggedOut):
        if talk.screen.interactive:
            await talk.begin(target)
        await talk.client.wait_connected()
        if target and talk.current is None:
            await typed(talk, f"/to {target}")
        elif talk.screen.interactive and not target:
            await typed(talk, "/list")
