"""A scene of the chaos suite: steady traffic by the checker, something cruel meanwhile, the verdict, the recovery.

    async def cruel(scene: Scene) -> None:
        await scene.shown(60)                # steady
        scene.kill("edge-1")
        await scene.recovered()              # all parts run, all are on line, what is written now is shown

    report = await play(cluster, "kill -9 of an edge", cruel)

What is measured is told to a file, `.chat-chaos/recovery.json` (CHAT_CHAOS_FOLDER); `make recovery-table` puts it into the
documents. CHAT_SEED makes the choices of a run again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio

from chat.tools.check import CheckOptions, CheckReport, check
from chat.tools.check.ledger import Ledger, Screen
from chat.tools.check.people import Device
from chat.tools.state import state_of
from tests.harness.cluster import Cluster
from tests.harness.recovery import LATE_S, Presence, Recovery, Seen, measure

#: All limits on time are multiplied by it, for machines that are busy with other things.
PATIENCE: Final = float(os.environ.get("CHAT_PATIENCE", "1"))
FOLDER: Final = Path(os.environ.get("CHAT_CHAOS_FOLDER", ".chat-chaos"))

#: Enough that their timelines lie in all partitions.
STEADY, DEVICES = 8, 2
_LOOK: Final = 0.02
_RECOVERED_S: Final = 60.0


class Scene:
    """What a disturbance sees and does. `at`: when it began, by trio's clock."""

    def __init__(self, cluster: Cluster, seed: int, devices: int) -> None:
        self.cluster = cluster
        self.random = Random(seed)
        self.at: float | None = None
        self.returned: float | None = None
        self.presence = Presence()
        self.ledger = Ledger({})
        self._devices: Sequence[Device] = ()
        self._steady = devices

    def watch(self, ledger: Ledger, devices: Sequence[Device]) -> None:
        self.ledger, self._devices = ledger, devices

    @property
    def devices(self) -> Sequence[Device]:
        """Of those who stay."""
        return self._devices[: self._steady]

    @property
    def users(self) -> list[int]:
        return sorted({screen.user for screen in self.ledger.screens})

    def seen(self) -> list[Seen]:
        """By those who stay, of those who stay: what others write waits until they are on line."""
        names = {screen.name for screen in self._screens}
        return [
            Seen(sent.composed, shown.at)
            for screen in self._screens
            for shown in screen.shown
            if (sent := self.ledger.sent[shown.token]).device in names
        ]

    @property
    def _screens(self) -> list[Screen]:
        return [device.screen for device in self.devices if device.screen]

    def late(self, at: float, most: int = 12) -> list[str]:
        """What those who stay were shown late, in words: to find out why."""
        lines = []
        names = {screen.name for screen in self._screens}
        for screen in self._screens:
            for shown in screen.shown:
                sent = self.ledger.sent[shown.token]
                if sent.device in names and shown.at >= at and shown.at - sent.composed > LATE_S:
                    accepted = "never" if sent.accepted is None else f"{sent.accepted - at:.2f}"
                    lines.append(
                        f"  {shown.token} of {sent.device} in {sent.conversation}: composed {sent.composed - at:.2f}, "
                        f"accepted {accepted}, shown {shown.at - at:.2f} by {screen.name}"
                    )
        return sorted(lines)[:most] + [f"  … {len(lines)} in all"] * (len(lines) > most)

    # ---- what is done

    def begin(self) -> None:
        """Recovery is measured from here; the first call counts."""
        if self.at is None:
            self.at = trio.current_time()

    def kill(self, *names: str) -> dict[str, int]:
        """kill -9 of all at once; the pids they had."""
        self.begin()
        return {name: self.cluster.kill(name) for name in names}

    async def back(self, pids: dict[str, int], seconds: float = 60) -> None:
        """All of them run again."""
        for name, pid in pids.items():
            await self.cluster.back(name, pid, seconds * PATIENCE)
        self.has_returned()

    def has_returned(self) -> None:
        """What was taken away is there again, as of now."""
        self.returned = trio.current_time()

    # ---- what is waited for

    async def shown(self, count: int, seconds: float = 60) -> None:
        """Until `count` more messages have been shown."""
        goal = len(self.ledger.shown_at) + count
        await self.until(lambda: len(self.ledger.shown_at) >= goal, f"{count} more messages shown", seconds)

    async def passed(self, seconds: float) -> None:
        """Until the traffic has gone on for so long: longer than leases and time-outs, which nothing else tells."""
        await trio.sleep(seconds)

    async def recovered(self, seconds: float = _RECOVERED_S) -> None:
        """All parts run, those who stay are on line and have caught up, and what is written from now on is shown; and that
        holds for a moment."""
        await self.cluster.until(self._all_run, seconds * PATIENCE)
        await self.until(self._all_here, "all on line and caught up", seconds)
        now = trio.current_time()

        def flowing() -> bool:
            """On each of them, so that one whom nothing reaches is found."""
            sent = self.ledger.sent
            return all(any(sent[s.token].composed >= now for s in reversed(screen.shown[-50:])) for screen in self._screens)

        await self.until(flowing, "what is written is shown", seconds)
        await self.until(self._all_here, "all on line and caught up", seconds)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        with trio.move_on_after(seconds * PATIENCE):
            while not condition():  # noqa: ASYNC110 - it is about other processes too
                await trio.sleep(_LOOK)
            return
        states = {e.name: state_of(e) for e in self.cluster.processes.processes}
        raise AssertionError(f"not after {seconds * PATIENCE:g} s: {what}; the parts: {states}")

    def _all_run(self) -> bool:
        found = self.cluster.processes
        return found.ready and all(state_of(entry) == "running" for entry in found.processes)

    def _all_here(self) -> bool:
        return all(d.client is not None and d.client.connected and d.caught_up for d in self.devices)

    async def look_on(self) -> None:
        while True:
            if self.at is not None:
                self.presence.look(trio.current_time(), [d.client is not None and d.client.connected for d in self.devices])
            await trio.sleep(_LOOK)


Cruel = Callable[[Scene], Awaitable[None]]


class Played(msgspec.Struct, frozen=True):
    report: CheckReport
    recovery: Recovery


def new_seed() -> int:
    """CHAT_SEED, or any; the checker's report tells it."""
    given = os.environ.get("CHAT_SEED")
    return int(given) if given else secrets.randbelow(2**31)


async def play(cluster: Cluster, name: str, cruel: Cruel, *, section: str = "kills", **options: Any) -> Played:
    """Traffic, `cruel`, the verdict: asserted is that nothing is lost, doubled, out of order, missing in a history. The
    recovery is written down under `name`."""
    seed = options.pop("seed", None) or new_seed()
    asked = {
        "servers": [cluster.front], "users": 11, "groups": 2, "group_size": 5, "devices": DEVICES, "rate": 25.0,
        "churn": True, "steady": STEADY, "duration": 1.0, "settle": 60.0 * PATIENCE, "setup": 60.0 * PATIENCE, "seed": seed,
        **options,
    }  # fmt: skip
    scene = Scene(cluster, seed, asked["steady"] * asked["devices"])
    ended = 0.0
    print(f"{name}: CHAT_SEED={seed}, {cluster.folder}")

    async def disturb() -> None:
        nonlocal ended
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.look_on)
            await scene.shown(60)
            await cruel(scene)
            ended = trio.current_time()
            nursery.cancel_scope.cancel()

    report = await check(CheckOptions(**asked), disturb=disturb, watch=scene.watch)
    print(report)
    at = ended if scene.at is None else scene.at
    recovery = measure(scene.seen(), scene.presence, at, ended, scene.returned)
    print(recovery)
    for line in scene.late(at):
        print(line)
    keep(section, name, seed, report, recovery)
    assert report.ok, f"{name}, CHAT_SEED={seed}\n{report}"
    return Played(report, recovery)


def keep(section: str, name: str, seed: int, report: CheckReport, recovery: Recovery, **more: Any) -> None:
    """Write it down beside what other tests, and other runs, have found."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "recovery.json"
    found = msgspec.json.decode(path.read_bytes()) if path.is_file() else {}
    verdict = {"sent": report.sent, "shown": report.shown, "disconnects": report.disconnects, "wrong": report.wrong}
    found.setdefault(section, {})[name] = {"seed": seed, **verdict, **msgspec.to_builtins(recovery), **more}
    written = path.with_suffix(".new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    written.replace(path)
