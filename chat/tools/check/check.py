"""The run of a check: people and groups, traffic, until all has come, and the comparison."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Final

import trio

from chat import protocol
from chat.client.outbox import OutboxFull
from chat.client.sdk import Client
from chat.errors import SetupError
from chat.tools.check.history import compare, persistently
from chat.tools.check.ledger import Ledger, Sent
from chat.tools.check.options import CheckOptions
from chat.tools.check.people import Device, come_and_go, new_password, stay, until
from chat.tools.check.report import CheckReport

_LOOK: Final = 0.25  # seconds
_LATE: Final = 15.0  # seconds for what comes only after a new log-in
_NEWCOMERS: Final = 0.15  # of the messages' turns, with churn: a new device appears (up to twice as many as at first)


Watch = Callable[[Ledger, Sequence[Device]], None]


async def check(
    options: CheckOptions,
    *,
    disturb: Callable[[], Awaitable[None]] | None = None,
    say: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> CheckReport:
    """Traffic for `options.duration`, and for as long as `disturb` goes on. `watch` is called once, before the traffic, with
    what is then written in as it happens: the ledger and the devices. Raises SetupError where the people cannot be brought
    on line before the traffic. Cancel-safe; nothing is left but the users and what they wrote."""
    run = _Run(options, say or (lambda line: None))
    return await run.all(disturb, watch)


class _Run:
    def __init__(self, options: CheckOptions, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.random = Random(options.seed)
        self.tag = secrets.token_hex(4)
        self.password = new_password()
        self.devices: list[Device] = []
        self.users: list[int] = []
        self.names = [f"check-{self.tag}-{at}" for at in range(options.users)]
        self.ledger = Ledger({})
        self.going = False
        self.newcomers = 0
        self._count = 0

    async def all(self, disturb: Callable[[], Awaitable[None]] | None, watch: Watch | None) -> CheckReport:
        options = self.options
        try:
            with trio.fail_after(options.setup):
                await self._set_up()
        except trio.TooSlowError:
            raise SetupError(f"users and groups are not there after {options.setup:g} s") from None
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(options.setup):
                    await self._bring_on_line(nursery)
            except trio.TooSlowError:
                raise SetupError(f"not all devices are on line after {options.setup:g} s") from None
            began = trio.current_time()
            if watch is not None:
                watch(self.ledger, self.devices)
            await self._traffic(nursery, disturb)
            ended = trio.current_time()
            await self._settle()
            settled = trio.current_time()
            conversations = await self._histories()
            nursery.cancel_scope.cancel()
        report = self._report(began, ended, settled, conversations)
        for device in self.devices:
            device.close()
        return report

    # -------------------------------------------------------------- before

    async def _set_up(self) -> None:
        """Users, and groups whose members all know of it, with devices that are used for nothing else."""
        self.say(f"registering {self.options.users} users")
        options = self.options
        async with self._on_line([Device(options.servers, n, self.password, None, "set-up") for n in self.names]) as devices:
            for device in devices:
                assert device.client is not None
                await device.client.wait_connected()
                self.users.append(device.client.user)
            for number in range(options.groups):
                owner = devices[number % len(devices)].client
                assert owner is not None
                members = self.random.sample(self.users, min(options.group_size, len(self.users)))
                others = [user for user in members if user != owner.user]
                request = protocol.GroupCreate(name=f"check {number}", members=others)
                made = await persistently(owner, request, protocol.GroupReply)
                self.ledger.members[made.group] = frozenset(members) | {owner.user}
            for device in devices:
                assert device.client is not None
                await self._member(device.client)

    async def _member(self, client: Client) -> None:
        """His groups know of him."""
        mine = {group for group, members in self.ledger.members.items() if client.user in members}
        while True:
            answer = await persistently(client, protocol.Groups(), protocol.GroupsReply)
            if mine <= {group.group for group in answer.groups}:
                return
            await trio.sleep(_LOOK)

    @asynccontextmanager
    async def _on_line(self, devices: list[Device]) -> AsyncIterator[list[Device]]:
        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(stay, device, self.random)
            await until(lambda: all(device.client is not None for device in devices))
            yield devices
            nursery.cancel_scope.cancel()
        for device in devices:
            device.close()

    async def _bring_on_line(self, nursery: trio.Nursery) -> None:
        self.say(f"{self.options.devices} devices of each log in")
        for at, name in enumerate(self.names):
            for number in range(self.options.devices):
                device = self._device(name, self.users[at], number)
                assert device.screen is not None
                stays = not self.options.churn or at < self.options.steady
                nursery.start_soon(stay if stays else self._churner(), device, self.random)
        await until(lambda: all(device.screen and device.screen.since is not None for device in self.devices))
        for device in self.devices:
            assert device.screen is not None
            device.screen.since = 0.0  # nothing has been sent yet

    def _device(self, name: str, user: int, number: int) -> Device:
        device = Device(self.options.servers, name, self.password, self.ledger, f"device {number}")
        device.screen = self.ledger.screen(user, f"{user}.{number}", None)
        self.devices.append(device)
        return device

    def _churner(self) -> Callable[[Device, Random], Awaitable[None]]:
        async def churn(device: Device, random: Random) -> None:
            await come_and_go(device, random, lambda: self.going)

        return churn

    # -------------------------------------------------------------- traffic

    async def _traffic(self, nursery: trio.Nursery, disturb: Callable[[], Awaitable[None]] | None) -> None:
        options = self.options
        self.say(f"{options.rate:g} messages a second for {options.duration:g} s")
        self.going = True
        disturbing = disturb is not None
        async with trio.open_nursery() as inner:
            if disturb is not None:

                async def until_disturbed() -> None:
                    nonlocal disturbing
                    assert disturb is not None
                    await disturb()
                    disturbing = False

                inner.start_soon(until_disturbed)
            begin = trio.current_time()
            told = begin
            due = begin
            while due < begin + options.duration or disturbing:
                await trio.sleep_until(due)
                self._compose()
                if options.churn and self.random.random() < _NEWCOMERS / max(options.rate, 1) and self._room():
                    at = self.random.randrange(min(self.options.steady, len(self.names) - 1), len(self.names))
                    device = self._device(self.names[at], self.users[at], 100 + self.newcomers)
                    self.newcomers += 1
                    nursery.start_soon(self._churner(), device, self.random)
                due += 1 / options.rate
                if due - told >= 1:
                    told = due
                    self._progress()
        self.going = False

    def _room(self) -> bool:
        return self.newcomers < self.options.users * self.options.devices

    def _compose(self) -> None:
        """One message from a device that is at work, on line or not."""
        ready = [d for d in self.devices if d.client is not None and d.client.user and d.screen]
        if not ready:
            return
        device = self.random.choice(ready)
        client, screen = device.client, device.screen
        assert client is not None
        assert screen is not None
        conversation = self._target(client.user)
        self._count += 1
        token = f"{self.tag}.{self._count}"
        text = token + " " + "x" * max(0, self.options.size - len(token) - 1)
        seen = screen.newest.get(conversation, 0)
        self.ledger.compose(Sent(
            token, client.user, conversation, text, trio.current_time(), seen, device=screen.name,
        ))  # fmt: skip
        try:
            client.send_text(conversation, text, receipt=self.random.random() < 0.1)
        except OutboxFull:
            del self.ledger.sent[token]

    def _target(self, user: int) -> str:
        groups = [group for group, members in self.ledger.members.items() if user in members]
        if groups and self.random.random() < self.options.group_share:
            return f"g{self.random.choice(groups)}"
        at = self.users.index(user)
        step = self.random.randint(1, max(1, min(self.options.partners, len(self.users) - 1)))
        return f"u{self.users[(at + step) % len(self.users)]}"

    def _progress(self) -> None:
        ledger = self.ledger
        accepted = sum(1 for sent in ledger.sent.values() if sent.accepted is not None)
        shown = len(ledger.shown_at)
        on_line = sum(1 for device in self.devices if device.client is not None and device.client.connected)
        self.say(
            f"{on_line}/{len(self.devices)} on line, {len(ledger.sent)} sent, {accepted} accepted, {shown} shown, "
            f"{len(ledger.findings)} findings"
        )

    # -------------------------------------------------------------- after

    def _all_there(self) -> bool:
        return not self.ledger.unaccepted() and not self.ledger.missing()

    async def _settle(self) -> None:
        """Everything is accepted and shown; what is not is asked for by a new log-in, and counts as late if that helps."""
        self.say("until everything has come")
        with trio.move_on_after(self.options.settle):
            await until(self._all_there, _LOOK)
            return
        missing = self.ledger.missing()
        for device in self.devices:
            if any(screen is device.screen for screen, _ in missing):
                device.cut()
        with trio.move_on_after(_LATE):
            await until(self._all_there, _LOOK)
        still = {(screen.name, sent.token) for screen, sent in self.ledger.missing()}
        for screen, sent in missing:
            kind = "lost" if (screen.name, sent.token) in still else "late"
            self.ledger.find(kind, f"{screen.name}: {sent.token} of {sent.sender} in {sent.conversation}")
        for sent in self.ledger.unaccepted():
            self.ledger.find("unaccepted", f"{sent.token} of {sent.device} in {sent.conversation}")

    async def _histories(self) -> int:
        self.say("comparing histories")
        for sent in self.ledger.sent.values():
            if sent.failed and not sent.forgotten:
                self.ledger.find("refused", f"{sent.token} of {sent.device} in {sent.conversation}: {sent.failed}")
        found = 0
        for user in self.users:
            device = next(d for d in self.devices if d.screen is not None and d.screen.user == user)
            found += await compare(self.ledger, user, device, self.options.settle)
        return found

    def _report(self, began: float, ended: float, settled: float, conversations: int) -> CheckReport:
        ledger = self.ledger
        during = [began, *sorted(at for at in ledger.shown_at if began <= at <= ended), ended]
        report = CheckReport(
            seed=self.options.seed, users=len(self.users), devices=len(self.devices), sent=len(ledger.sent),
            accepted=sum(1 for sent in ledger.sent.values() if sent.accepted is not None), shown=len(ledger.shown_at),
            seconds=round(ended - began, 2), settled_s=round(settled - ended, 2),
            disconnects=sum(device.disconnects for device in self.devices),
            mean_ms=round(sum(ledger.delays) / len(ledger.delays) * 1000, 2) if ledger.delays else 0.0,
            max_ms=round(max(ledger.delays, default=0.0) * 1000, 2),
            longest_silence_s=round(max(b - a for a, b in pairwise(during)), 3), conversations=conversations,
        )  # fmt: skip
        report.found([(finding.kind, finding.what) for finding in ledger.findings])
        return report
