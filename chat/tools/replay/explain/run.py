"""`chat replay --as`: the device's work on a case, in the order of the log or as its edges delivered. Pure but for where
`gather` and `command` get things from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chat.tools.replay.explain.device import Device, Said
from chat.tools.replay.explain.gather import Came, Case, Session

#: After the last record: gaps that are open are asked for.
AFTER_MS = 10_000


def in_log_order(case: Case, me: int, *, from_nothing: bool) -> Iterator[list[Said]]:
    """As if the device had been on line all the time and every delivery had come, once and in order."""
    device = Device(me, case.tracks, fresh=from_nothing)
    first = (case.silent or case.loud)[0][1].time if case.silent or case.loud else 0
    yield device.log_in(max(0, first - 1), "from nothing" if from_nothing else _begins(case))
    for timeline, arrived in case.silent:
        device.record(timeline, arrived)
    last = first
    for timeline, arrived in case.loud:
        yield device.record(timeline, arrived)
        last = max(last, arrived.time)
    yield device.end(last + AFTER_MS)


def as_delivered(
    case: Case, me: int, sessions: Sequence[Session], came: Sequence[Came], *, from_nothing: bool
) -> Iterator[list[Said]]:  # fmt: skip
    """As the topics of edges and the device's log-ins have it. What no delivery or sync brought is told at the end."""
    device = Device(me, case.tracks, fresh=from_nothing)
    first = case.loud[0][1].time if case.loud else 0
    at: Session | None = None
    for session in sessions:
        if session.time < first:
            at = session if session.login else None if at is not None and at.session == session.session else at
    if at is not None:
        yield device.log_in(max(0, first - 1), f"at {at.edge} since before the range; {_begins(case)}")
    events: list[tuple[int, int, Session | Came]] = [(s.time, 0, s) for s in sessions if s.time >= first]
    events += [(c.time, 1, c) for c in came]
    events.sort(key=lambda e: e[:2])
    last = first
    for time, _, event in events:
        last = max(last, time)
        if isinstance(event, Came):
            if at is not None and event.edge == at.edge and event.incarnation in (None, at.incarnation):
                yield device.delivery(time, event.timeline, event.message)
        elif event.login:
            if at is not None:
                yield device.log_out(time, f"at {at.edge}: replaced")
            at = event
            yield device.log_in(time, f"at {event.edge}, session {event.session}")
        elif at is not None and event.session == at.session:
            yield device.log_out(time, f"at {at.edge}")
            at = None
    last = max([last, *(r.time for _, r in case.loud)])
    yield device.end(last + AFTER_MS)
    yield [said for timeline, arrived in case.loud if (said := device.missed(timeline, arrived)) is not None]


def _begins(case: Case) -> str:
    return "has " + ", ".join(f"{t} up to {track.begin}" for t, track in case.tracks.items()) if case.tracks else ""
