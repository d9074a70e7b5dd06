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
    runs: dict[str, int] = {}  # edge → incarnation last heard of
    for event in events:
        if event.event not in ("login", "logout") or not event.edge:
            continue
        if event.incarnation != runs.get(event.edge):
            if event.event == "logout" and event.edge in runs:
                pass  # the end of what an earlier run held, told late
            else:
                runs[event.edge] = event.incarnation
                _end(found, event.at, "its edge was restarted", edge=event.edge, but=event.incarnation)
        if event.user not in users:
            continue
        if event.event == "login":
            _end(found, event.at, "replaced by a later log-in", user=event.user, device=event.device)
            found[event.session] = _of(event, event.at)
        elif (session := found.get(event.session)) is None:
            found[event.session] = _of(event, None)._replace(until=event.at, ended="logged out")
        else:
            until = event.at if session.until is None else min(session.until, event.at)
            found[event.session] = session._replace(until=until, ended=session.ended or "logged out")
    return list(found.values())


def _of(event: PresenceEvent, since: int | None) -> Session:
    return Session(event.user, event.device, event.session, event.edge, event.incarnation, since)


def _end(
    found: dict[str, Session], at: int, how: str, *, edge: str = "", but: int = 0, user: int = 0, device: str = ""
) -> None:
    for key, session in found.items():
        if session.until is not None:
            continue
        if (edge and session.edge == edge and session.incarnation != but) or (
            user and session.user == user and session.device == device
        ):
            found[key] = session._replace(until=max(at, session.since or at), ended=how)
