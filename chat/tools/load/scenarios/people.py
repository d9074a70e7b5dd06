"""Devices for a scenario's users, all of them registered; and pairs that write to each other."""

from __future__ import annotations

from collections.abc import Sequence

from chat.tools.load.device import Device
from chat.tools.load.run import Run


def gather(run: Run, number: int) -> list[Device]:
    """`number` devices, off; users that have no token yet are registered and log in once."""
    devices = run.fleet.add(run.accounts.first(number))
    new = [device for device in devices if not device.account.token]
    if new:
        run.phase(f"registering {len(new)} users")
        run.visit(new)
    return devices


def pair(run: Run, senders: Sequence[Device], recipients: Sequence[Device], partners: int) -> None:
    """Each sender gets `partners` tracks to different recipients, spread evenly over them, never to himself."""
    size, total = run.options.size, len(recipients)
    for at, sender in enumerate(senders):
        for number in range(partners):
            other = recipients[(at * partners + number * (total // 2 + 1) + 1) % total].account.user
            if other == sender.account.user:
                other = recipients[(at * partners + number * (total // 2 + 1) + 2) % total].account.user
            sender.tracks.append(run.ledger.open(sender.account.user, [other], to=other, group=None, size=size))
