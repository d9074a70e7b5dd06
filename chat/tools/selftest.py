"""Does a running cluster pass messages on? A throw-away user at the front writes to one at each edge, and is answered; every
message must be shown once, in order, at both ends, and be in both histories once. The user at the front is on one edge: so
with several edges messages cross from edge to edge.

Used at the end of `chat up`, and as `chat selftest`.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import defaultdict
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
    reached: bool  # the front has let someone in

    @property
    def ok(self) -> bool:
        return bool(self.pairs) and all(pair.ok for pair in self.pairs)

    def __str__(self) -> str:
        return "\n".join(map(str, self.pairs))


class _End:
    """One of the two."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.shown: defaultdict[str, list[str]] = defaultdict(list)  # by conversation
        self.newest = 0.0  # when the last was shown
        self.trouble = ""
        name = f"selftest-{secrets.token_hex(6)}"
        self.client = Client(
            [address], name, Store(":memory:"), password=secrets.token_urlsafe(16), register=True, label="self-test",
            listener=self._event,
        )  # fmt: skip

    def _event(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown) and event.message.kind == "text" and isinstance(event.message.text, str):
            self.shown[event.conversation].append(event.message.text)
            self.newest = time.monotonic()
        elif isinstance(event, ev.Disconnected):
            self.trouble = f"{self.address}: {event.ended}"

    async def ready(self) -> None:
        await self.client.wait_until(lambda: self.client.caught_up)


async def selftest(front: str, edges: Sequence[str]) -> Report:
    """`front` is nginx, `edges` the edges' direct addresses; without any, all users are at the front. Never raises for what
    is wrong with the cluster: the report says it. Takes at most 30 s a pair. Cancelling is safe."""
    pairs: list[Pair] = []
    async with trio.open_nursery() as nursery:
        near = _End(front)
        nursery.start_soon(near.client.run)
        for edge in [e for e in edges if e != front] or [front]:
            far = _End(edge)
            nursery.start_soon(far.client.run)
            pairs.append(await _pair(near, far))
            await far.client.leave()
        await near.client.leave()
        nursery.cancel_scope.cancel()
    return Report(pairs, near.client.edge != "")


async def _pair(near: _End, far: _End) -> Pair:
    pair = Pair(f"{near.address} <-> {far.address}")
    step = "log-in"
    try:
        with trio.fail_after(TIMEOUT):
            for end in (near, far):
                await end.ready()
            pair.edges = [near.client.edge, far.client.edge]
            step = "messages"
            texts = await _exchange(pair, near, far)
            step = "history"
            for end, other in ((near, far), (far, near)):
                await _history(pair, end, other, texts)
    except trio.TooSlowError:
        trouble = "; ".join(end.trouble for end in (near, far) if end.trouble)
        pair.problem = f"{step}: not done after {TIMEOUT:g} s{' (' if trouble else ''}{trouble}{')' if trouble else ''}"
    except (LoggedOut, ChatError, RequestTimeout, ConnectionLost) as error:
        pair.problem = f"{step}: {error}"
    pair.ok = not pair.problem
    return pair


async def _exchange(pair: Pair, near: _End, far: _End) -> list[str]:
    """Messages in turn, each sent when the one before is shown; returns them."""
    ends = {near: f"u{far.client.user}", far: f"u{near.client.user}"}  # each with the conversation as it names it
    texts: list[str] = []
    for number in range(ROUNDS):
        for sender, receiver in ((near, far), (far, near)):
            texts.append(f"message {number} from {sender.client.name}")
            began = time.monotonic()
            sender.client.send_text(ends[sender], texts[-1])
            await _shown(receiver, ends[receiver], len(texts))
            pair.times_ms.append((receiver.newest - began) * 1000)
    for end, conversation in ends.items():
        await _shown(end, conversation, len(texts))
        await end.client.wait_until(lambda client=end.client: len(client.sending) == 0)  # type: ignore[misc]
        if end.shown[conversation] != texts:
            pair.problem = f"messages: {end.client.name} at {end.address} has shown {end.shown[conversation]}"
    return texts


async def _shown(end: _End, conversation: str, count: int) -> None:
    await end.client.wait_until(lambda: len(end.shown[conversation]) >= count)


async def _history(pair: Pair, end: _End, other: _End, texts: Sequence[str]) -> None:
    """What was shown is in the history once, when it is persisted."""
    found: list[object] = []
    while len(found) < len(texts):
        page = await end.client.history(f"u{other.client.user}")
        found = [m.text for m in reversed(page.messages) if m.kind == "text"]
        if len(found) < len(texts):
            await trio.sleep(0.1)
    if found != list(texts):
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
    return 0 if report.ok else 1 if report.reached else 3
