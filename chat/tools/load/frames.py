"""What a device does with each type of frame but `message`: one table. `now` is in microseconds of the monotonic clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from chat import protocol
from chat.errors import Goodbye
from chat.protocol import encode, frame
from chat.tools.load import wire
from chat.tools.load.states import OPENING, READY, SYNCING

if TYPE_CHECKING:
    from chat.tools.load.device import Device

# ---------------------------------------------------------------- opening


def _welcome(device: Device, event: protocol.Welcome, now: int) -> None:
    device.fleet.welcomed(event)
    account = device.account
    device.state = OPENING
    if account.token:
        device.write(frame(encode(protocol.Resume(token=account.token, device=account.device))))
    elif account.user:
        _log_in(device)
    else:
        device.write(frame(encode(protocol.Register(name=account.name, password=device.fleet.accounts.secret))))


def _log_in(device: Device) -> None:
    account, secret = device.account, device.fleet.accounts.secret
    request = protocol.Login(name=account.name, password=secret, device=account.device, label="chat load")
    device.write(frame(encode(request)))


def _registered(device: Device, event: protocol.Registered, now: int) -> None:
    device.account.user = event.user
    _log_in(device)


def _logged_in(device: Device, event: protocol.LoggedIn, now: int) -> None:
    device.account.user, device.account.token = event.user, event.token
    device.state = SYNCING
    for timeline in (f"u{event.user}", *(f"g{group}" for group in event.groups)):
        device.follow(timeline, event.cursors.get(timeline, 0)).pass_over(device.fleet.read.get(timeline, 0))
    for chain in device.chains.values():
        device.sync(chain)
    for track in device.tracks:
        device.flush(track)


def _opening_refused(device: Device, event: protocol.Error) -> None:
    account = device.account
    if event.code == "exists":
        _log_in(device)
    elif event.code == "token_expired":
        account.token = ""
        device.lost("token_expired")
    elif event.code == "bad_credentials" and account.user:
        account.user = 0  # the users file is of another cluster, or of one begun anew: register
        device.fleet.accounts.groups.clear()
        device.lost("unknown_here")
    else:
        device.fleet.fault(f"{event.code}: {event.message}")
        device.retry_after = (event.retry_after_ms or 0) / 1000
        device.lost(event.code)


# ---------------------------------------------------------------- messages


def _accepted(device: Device, event: protocol.Accepted, now: int) -> None:
    try:
        device.fleet.ledger.accepted(event.stream, event.seq, now)
    except ValueError as error:
        device.fleet.fault(str(error))


def _send_refused(device: Device, event: protocol.Error) -> None:
    ledger = device.fleet.ledger
    ledger.counts.refused[event.code] = ledger.counts.refused.get(event.code, 0) + 1
    track = ledger.stream_track(event.stream or 0)
    if track is None:
        return
    if not event.retriable:
        device.fleet.fault(f"send refused for good, {event.code}: {event.message}")
        return
    seq = event.expected if isinstance(event.expected, int) else cast(int, event.seq)
    pause = max((event.retry_after_ms or 0) / 1000, min(0.02 * 2**track.holds, 1.0))
    first = track.held_until <= monotonic()
    track.refused(seq, monotonic() + pause)
    if first:
        device.flush_later(track)


def _synced(device: Device, event: wire.Synced, now: int) -> None:
    chain = device.chains.get(event.timeline)
    if chain is None or not chain.asked:
        return
    for message in chain.answer(event):
        device.fleet.ledger.took(device.account.user, message, now)
    device.sync(chain)
    if device.state == SYNCING and all(chain.synced for chain in device.chains.values()):
        device.state = READY
        device.attempts = 0
        device.fleet.device_ready(device)


def _resync(device: Device, event: protocol.Resync, now: int) -> None:
    for timeline in list(device.chains) if event.timelines is None else event.timelines:
        chain = device.follow(timeline, 0)
        chain.hint()
        device.sync(chain)


# ---------------------------------------------------------------- the rest


def _error(device: Device, event: protocol.Error, now: int) -> None:
    rid = str(event.rid)
    if event.stream is not None:
        _send_refused(device, event)
    elif rid in device.chains:
        device.chains[rid].failed()
        device.sync(device.chains[rid])
    elif rid in device.answers:
        device.answers.pop(rid)(event)
    elif device.state == OPENING:
        _opening_refused(device, event)
    else:
        device.fleet.fault(f"{event.code}: {event.message}")


def _answer(device: Device, event: protocol.Ok | protocol.GroupReply | protocol.HistoryReply, now: int) -> None:
    then = device.answers.pop(str(event.rid), None)
    if then is not None:
        then(event)


def _goodbye(device: Device, event: protocol.GoodbyeFrame, now: int) -> None:
    device.leaving, device.retry_after = event.code, (event.retry_after_ms or 0) / 1000
    if event.code != Goodbye.ASKED:
        device.fleet.said_goodbye(event.code)
    device.lost("goodbye")


def _ignore(device: Device, event: Any, now: int) -> None:
    """`moved`, `replaced`: the goodbye follows."""


ON: Final[Mapping[type, Callable[[Device, Any, int], None]]] = {
    protocol.Welcome: _welcome,
    protocol.Registered: _registered,
    protocol.LoggedIn: _logged_in,
    protocol.Error: _error,
    protocol.Accepted: _accepted,
    wire.Synced: _synced,
    protocol.Resync: _resync,
    protocol.GoodbyeFrame: _goodbye,
    protocol.Ok: _answer,
    protocol.GroupReply: _answer,
    protocol.HistoryReply: _answer,
    protocol.Moved: _ignore,
    protocol.Replaced: _ignore,
    protocol.HeartbeatReply: _ignore,
}
