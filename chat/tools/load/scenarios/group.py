"""Messages in groups whose members are all on line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from chat import protocol
from chat.errors import SetupError
from chat.tools.load.device import Device
from chat.tools.load.run import Run
from chat.tools.load.scenarios.people import gather

_SENDERS: Final = 16  # of each group
_AT_ONCE: Final = protocol.LIMIT_MAX  # members that group_create takes
_MEMBERSHIP_ROUNDS: Final = 10


def run(run: Run) -> None:
    options = run.options
    if not 2 <= options.group_size <= options.connections:
        raise SetupError(f"groups of {options.group_size} need as many --connections, not {options.connections}")
    number = options.connections // options.group_size
    devices = gather(run, number * options.group_size)
    parts = [devices[at * options.group_size :][: options.group_size] for at in range(number)]
    groups = _ensure(run, parts)
    _pass_over_joins(run, {members[0]: group for group, members in zip(groups, parts, strict=True)})
    run.connect(devices)
    _await_membership(run, parts, groups)
    senders: list[Device] = []
    for group, members in zip(groups, parts, strict=True):
        users = [member.account.user for member in members]
        for sender in members[:_SENDERS]:
            user = sender.account.user
            others = [other for other in users if other != user]
            sender.tracks.append(run.ledger.open(user, others, to=None, group=group, size=options.size))
            senders.append(sender)
    run.traffic(senders, rate=options.rate, duration=options.duration, warmup=options.warmup)
    run.settle()


def _ensure(run: Run, parts: Sequence[Sequence[Device]]) -> list[int]:
    """The groups of these members; those that do not exist yet are made while few are on line, since every join is told
    to every member who is."""
    known = run.accounts.groups.setdefault(str(run.options.group_size), [])
    for members in parts[len(known) :]:
        run.phase(f"making a group of {len(members)}")
        known.append(_create(run, members))
        run.visit(members[1 + _AT_ONCE :], partial(_join, run, known[-1]))
    return known[: len(parts)]


def _create(run: Run, members: Sequence[Device]) -> int:
    made: list[int] = []

    def create(device: Device, done: Callable[[], None]) -> None:
        def answered(event: Any) -> None:
            if isinstance(event, protocol.GroupReply):
                made.append(event.group)
            else:
                run.fleet.fault(f"group_create: {event.code}: {event.message}")
            done()

        others = [member.account.user for member in members[1 : 1 + _AT_ONCE]]
        device.ask(protocol.GroupCreate(name=f"load {len(members)}", members=others, open=True), answered)

    run.visit(members[:1], create)
    if not made:
        raise SetupError(f"the group could not be made: {dict(run.fleet.faults)}")
    return made[0]


def _join(run: Run, group: int, device: Device, done: Callable[[], None]) -> None:
    def answered(event: Any) -> None:
        if isinstance(event, protocol.Error) and event.retriable:
            run.reactor.after(0.5, ask)
            return
        if isinstance(event, protocol.Error) and event.code != "exists":
            run.fleet.fault(f"group_join: {event.code}: {event.message}")
        done()

    def ask() -> None:
        device.ask(protocol.GroupJoin(group=group), answered)

    ask()


def _pass_over_joins(run: Run, groups: Mapping[Device, int]) -> None:
    """The joins have been read by all: ten thousand members would begin with ten thousand notices each. `groups` by a
    member who asks how far they go."""

    def ask(device: Device, done: Callable[[], None]) -> None:
        def answered(event: Any) -> None:
            if isinstance(event, protocol.HistoryReply):
                run.fleet.read[f"g{groups[device]}"] = max((cast(int, m.pos) for m in event.messages), default=0)
            else:
                run.fleet.fault(f"history: {event.code}: {event.message}")
            done()

        device.ask(protocol.History(group=groups[device], limit=1), answered)

    run.visit(list(groups), ask)


def _await_membership(run: Run, parts: Sequence[Sequence[Device]], groups: Sequence[int]) -> None:
    """Membership follows the log: who logged in before his was stored, logs in again."""
    for _ in range(_MEMBERSHIP_ROUNDS):
        outside = [
            device for group, part in zip(groups, parts, strict=True) for device in part if group not in device.group_chains
        ]
        if not outside:
            return
        run.phase(f"{len(outside)} not in their group yet")
        run.fleet.leave(outside)
        run.wait(0.5)
        run.connect(outside)
    raise SetupError("users are not in their groups: the users file is of another cluster; name a new one with --users-file")
