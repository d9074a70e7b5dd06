"""Who was on line when: sessions from the events of the presence topic, in its order. Pure.

A session ends by its log-out; by a later log-in of the same device; or, where its edge was killed, at the latest when a
later run of that edge is first heard of.
"""

from __future__ import annotations

from collections.abc import Iterable

from chat.records import PresenceEvent
from chat.tools.trace.facts import Session


def sessions(events: Iterable[PresenceEvent], users: set[int]) -> list[Session]:
    """Of these users, in the order of their log-ins."""
    found: dict[str, Session] = {}
    current: dict[tuple[int, str], str] = {}  # (user, device) → its session that has not ended
    runs: dict[str, int] = {}  # edge → incarnation last heard of
    for event in events:
        if event.event not in ("login", "logout") or not event.edge:
            continue
        before = runs.get(event.edge)
        if event.incarnation != before and (before is None or event.event == "login"):  # a late log-out is no news of a run
            runs[event.edge] = event.incarnation
            for session in [found[key] for key in current.values()]:
                if session.edge == event.edge and session.incarnation != event.incarnation:
                    _end(found, current, session, event.at, "its edge was restarted")
        if event.user not in users:
            continue
        if event.event == "login":
            if (key := current.get((event.user, event.device))) is not None:
                _end(found, current, found[key], event.at, "replaced by a later log-in")
            found[event.session] = _of(event, event.at)
            current[event.user, event.device] = event.session
        elif event.session not in found:
            found[event.session] = _of(event, None)._replace(until=event.at, ended="logged out")
        elif found[event.session].until is None:
            _end(found, current, found[event.session], event.at, "logged out")
    return list(found.values())


def _of(event: PresenceEvent, since: int | None) -> Session:
    return Session(event.user, event.device, event.session, event.edge, event.incarnation, since)


def _end(found: dict[str, Session], current: dict[tuple[int, str], str], session: Session, at: int, how: str) -> None:
    found[session.session] = session._replace(until=max(at, session.since or at), ended=how)
    if current.get((session.user, session.device)) == session.session:
        del current[session.user, session.device]
