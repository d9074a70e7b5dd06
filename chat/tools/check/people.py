"""Users with several devices. A device keeps its store and its screen while its connections, and its client, come and go."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio

from chat.client import events as ev
from chat.client.sdk import Client
from chat.client.store import Store
from chat.tools.check.ledger import Ledger, Screen

_ON: Final = (1.0, 8.0)  # seconds that a device stays
_OFF: Final = (0.2, 3.0)
_LEAVE_WITHIN: Final = 3.0


class Device:
    """`screen` is where what it shows is kept; without one it is for setting up only."""

    def __init__(self, servers: Sequence[str], name: str, password: str, ledger: Ledger | None, label: str) -> None:
        self.name, self.label = name, label
        self.store = Store(":memory:")
        self.screen: Screen | None = None
        self.client: Client | None = None
        self.disconnects = 0
        self._servers, self._password, self._ledger = list(servers), password, ledger
        self._scope: trio.CancelScope | None = None
        self._seconds = trio.current_time

    async def run(self, random: Random) -> None:
        """One client, from its start until it has left or is cut off."""
        random.shuffle(self._servers)
        self.client = Client(
            self._servers, self.name, self.store, password=self._password, register=True, label=self.label,
            listener=self._event,
        )  # fmt: skip
        try:
            with trio.CancelScope() as self._scope:
                await self.client.run()
        finally:
            self.client = None

    async def leave(self) -> None:
        """In good order."""
        if self.client is not None:
            with trio.move_on_after(_LEAVE_WITHIN):
                await self.client.leave()
        self.cut()

    def cut(self) -> None:
        """Without a word."""
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        self.store.close()

    @property
    def caught_up(self) -> bool:
        return self.client is not None and self.client.caught_up

    def lose_state(self) -> None:
        """It remembers who it is, and nothing else; what it showed before was shown by another, so to speak."""
        device, token = self.store.device, self.store.get("token")
        self.store.close()
        self.store = Store(":memory:")
        self.store.put("device", device)
        self.store.put("token", token)
        if self.screen is not None and self._ledger is not None:
            self.screen.since = None
            self._ledger.forget(self.screen.name)
            self.screen = self._ledger.screen(self.screen.user, f"{self.screen.name}'", None)

    def _event(self, event: ev.Event) -> None:
        if isinstance(event, ev.Disconnected):
            self.disconnects += 1
        ledger, screen = self._ledger, self.screen
        if ledger is None or screen is None:
            return
        if isinstance(event, ev.EntryChanged):
            token = event.entry.text.split(" ", 1)[0]
            if event.state == "failed":
                ledger.refused(token, event.why)
            elif event.state != "sending":
                ledger.accepted(token, self._seconds())
        elif isinstance(event, ev.MessageShown) and event.message.kind == "text":
            message = event.message
            assert isinstance(message.stream, int)
            assert isinstance(message.seq, int)
            ledger.show(
                screen, text=str(message.text), sender=message.sender, conversation=event.conversation,
                stream=message.stream, seq=message.seq, sent_at=message.sent_at, at=self._seconds(),
            )  # fmt: skip


async def stay(device: Device, random: Random) -> None:
    """On line until cancelled; a client that is told not to come back is followed by another."""
    while True:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ready, device)
            await device.run(random)
            nursery.cancel_scope.cancel()
        await trio.sleep(0.1)


async def come_and_go(device: Device, random: Random, going: Callable[[], bool]) -> None:
    """As `stay`, but off line now and then while `going()`: in good order, without a word, or with its state lost."""
    while True:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay, device, random)
            await trio.sleep(random.uniform(*_ON))
            if not going():
                await trio.sleep_forever()
            if random.random() < 0.5:
                await device.leave()
            nursery.cancel_scope.cancel()
        if random.random() < 0.1:
            device.lose_state()
        await trio.sleep(random.uniform(*_OFF))


async def until(condition: Callable[[], bool], every: float = 0.05) -> None:
    """Wait for what follows from many things; bounded by the caller."""
    while not condition():  # noqa: ASYNC110 - no single event tells it
        await trio.sleep(every)


async def _ready(device: Device) -> None:
    """From when on the device has to show everything."""
    screen = device.screen
    if screen is None or screen.since is not None:
        return
    await until(lambda: device.client is not None)
    client = device.client
    assert client is not None
    await client.wait_until(lambda: client.caught_up)
    screen.since = trio.current_time()


def new_password() -> str:
    return secrets.token_urlsafe(16)
