"""Does a running cluster pass messages on? Two throw-away users, one at the front, one at each edge in turn, write to each
other; every message must be shown once, in order, and be in the history once.

Used at the end of `chat up`, and as `chat selftest`.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import click
import trio

from chat.client import events as ev
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.sdk import Client, LoggedOut
from chat.client.store import Store
from chat.client.terminal import DEFAULT_SERVER, addresses
from chat.errors import ChatError

ROUNDS: Final = 5  # messages each way
TIMEOUT: Final = 30.0  # seconds for each pair


@dataclass
class Pair:
    """What came out for the front and one edge. Times in milliseconds, from sending to showing at the other end."""

    way: str
    ok: bool = False
    edges: list[str] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    problem: str = ""

    def __str__(self) -> str:
        if not self.ok:
            return f"{self.way}: FAILED: {self.problem}"
        mean, most = sum(self.times_ms) / len(self.times_ms), max(self.times_ms)
        way = f"{self.way} ({' <-> '.join(self.edges)})"
        return f"{way}: {len(self.times_ms)} messages, once and in order; mean {mean:.1f} ms, max {most:.1f} ms"


@dataclass
class Report:
    pairs: list[Pair]

    @property
    def ok(self) -> bool:
        return bool(self.pairs) and all(pair.ok for pair in self.pairs)

    def __str__(self) -> str:
        return "\n".join(map(str, self.pairs))


class _End:
    """One of the two."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.shown: list[tuple[str, float]] = []
        self.trouble = ""
        name = f"selftest-{secrets.token_hex(6)}"
        self.client = Client(
            [address], name, Store(":memory:"), password=secrets.token_urlsafe(16), register=True, label="self-test",
            listener=self._event,
        )  # fmt: skip

    def _event(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown) and event.message.kind == "text" and isinstance(event.message.text, str):
            self.shown.append((event.message.text, time.monotonic()))
        elif isinstance(event, ev.Disconnected):
            self.trouble = f"{self.address}: {event.ended}"

    async def ready(self) -> None:
        await self.client.wait_until(lambda: self.client.caught_up)


async def selftest(front: str, edges: Sequence[str]) -> Report:
    """`front` is nginx, `edges` the edges' direct addresses; without any, both users are at the front. Never raises for what
    is wrong with the cluster: the report says it. Takes at most 30 s a pair. Cancelling is safe."""
    others = [e for e in edges if e != front] or [front]
    return Report([await _pair(front, other) for other in others])


async def _pair(front: str, other: str) -> Pair:
    pair = Pair(f"{front} <-> {other}")
    ends = [_End(front), _End(other)]
    step = "log-in"
    try:
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                try:
                    for end in ends:
                        nursery.start_soon(end.client.run)
                    for end in ends:
                        await end.ready()
                    pair.edges = [end.client.edge for end in ends]
                    step = "messages"
                    await _exchange(pair, ends)
                    step = "history"
                    await _history(pair, ends)
                    for end in ends:
                        await end.client.leave()
                except (LoggedOut, ChatError, RequestTimeout, ConnectionLost) as error:
                    pair.problem = f"{step}: {error}"
                nursery.cancel_scope.cancel()
    except trio.TooSlowError:
        trouble = "; ".join(end.trouble for end in ends if end.trouble)
        pair.problem = f"{step}: not done after {TIMEOUT:g} s{' (' if trouble else ''}{trouble}{')' if trouble else ''}"
    pair.ok = not pair.problem
    return pair


async def _exchange(pair: Pair, ends: Sequence[_End]) -> None:
    expected: list[str] = []
    for number in range(ROUNDS):
        for sender, receiver in (ends, ends[::-1]):
            text = f"message {number} from {sender.client.name}"
            expected.append(text)
            began = time.monotonic()
            sender.client.send_text(f"u{receiver.client.user}", text)
            await receiver.client.wait_until(lambda e=expected, r=receiver: len(r.shown) >= len(e))  # type: ignore[misc]
            pair.times_ms.append((receiver.shown[-1][1] - began) * 1000)
    for end in ends:
        await end.client.wait_until(lambda e=end: len(e.client.sending) == 0 and len(e.shown) >= len(expected))  # type: ignore[misc]
        if [text for text, _ in end.shown] != expected:
            pair.problem = f"messages: {end.client.name} at {end.address} has shown {[t for t, _ in end.shown]}"


async def _history(pair: Pair, ends: Sequence[_End]) -> None:
    """What was shown is in the history once, when it is persisted."""
    for end, other in (ends, ends[::-1]):
        wanted = [text for text, _ in end.shown]
        while True:
            page = await end.client.history(f"u{other.client.user}")
            found = [m.text for m in reversed(page.messages) if m.kind == "text"]
            if len(found) >= len(wanted):
                break
            await trio.sleep(0.1)
        if found != wanted and not pair.problem:
            pair.problem = f"history: {end.client.name} finds {found}"


@click.command("selftest")
@click.option("--server", default=DEFAULT_SERVER, show_default=True, envvar="CHAT_SERVER", help="The front: host:port.")
@click.option(
    "--edges", default="", help="The edges' direct addresses, host:port by commas; default: all through the front."
)
@click.option("--json", "as_json", is_flag=True, help="A report for machines.")
def selftest_command(server: str, edges: str, as_json: bool) -> int:
    """Send messages between the front and each edge, both ways, and check that each is shown once and in order."""
    report = trio.run(selftest, addresses(server)[0], addresses(edges) if edges else [])
    if as_json:
        pairs = [vars(pair) for pair in report.pairs]
        click.echo(json.dumps({"ok": report.ok, "pairs": pairs}))
    else:
        click.echo(str(report))
    return 0 if report.ok else 1
