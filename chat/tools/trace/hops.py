"""The way of a message as hops, in the order of their times. Pure.

A hop whose time nobody writes down (an edge's write to a socket, a transaction of persist) has none, and stands behind the
hop that it follows from.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from chat.tools.trace.facts import Facts, Handed, Way
from chat.tools.trace.verdict import standings

#: Devices whose hops are told one by one; of a large group the verdict has the numbers.
MOST_DEVICES: Final = 40
_HOW: Final = {"redis": "found in Redis", "all": "to every edge: Redis was away"}


class Hop(NamedTuple):
    """`at`: milliseconds since 1970, by the clock of the process that said it; None: not written down. `process`: who did
    it, or where it lies."""

    at: int | None
    what: str
    process: str
    text: str


class _Placed(NamedTuple):
    after: int  # time that it is sorted by
    rank: int
    hop: Hop


def hops(facts: Facts) -> list[Hop]:
    found: list[_Placed] = []
    _accepted(facts, found)
    for way in facts.ways:
        _routed(way, found)
        _stored(facts, way, found)
    shown = 0
    for way in facts.ways:
        for one in standings(facts, way):
            if one.ack is None and not one.online:
                continue
            shown += 1
            if shown > MOST_DEVICES:
                break
            _device(facts, way, one.user, one.device, found)
    for dead in facts.dead:
        text = f"dead record {dead.number}: position {dead.pos} of {dead.timeline}: {dead.why}"
        found.append(_Placed(_last(found), 6, Hop(None, "dead", "persist", text)))
    for user in facts.read:
        found.append(_Placed(_last(found), 9, Hop(None, "read", "MySQL", f"{facts.name(user)} has read up to it")))
    return [one.hop for one in sorted(found, key=lambda one: one[:2])]


def _accepted(facts: Facts, found: list[_Placed]) -> None:
    edges = {copy.sent_at: copy.edge for way in facts.ways for copy in way.copies if copy.edge}
    first = min((copy.sent_at for way in facts.ways for copy in way.copies), default=None)
    times: dict[int, None] = {}
    for way in facts.ways:
        for number, copy in enumerate(way.copies):
            times[copy.sent_at] = None
            text = f"position {copy.pos} of {way.timeline}"
            if number:
                text += ": a second record, its client has sent it again; persist and devices drop it"
            found.append(_Placed(copy.sent_at, 1, Hop(copy.sent_at, "in the log", copy.place, text)))
    for at in times:
        again = at != first
        text = f"from {facts.name(facts.sender)}{_device_there(facts, edges.get(at), at)}" + (
            ", sent again" if again else ""
        )
        found.append(_Placed(at, 0, Hop(at, "taken in", edges.get(at) or "an edge", text)))
    if not times and facts.sent_at is not None:
        found.append(
            _Placed(facts.sent_at, 0, Hop(facts.sent_at, "taken in", "an edge", f"from {facts.name(facts.sender)}"))
        )


def _device_there(facts: Facts, edge: str | None, at: int) -> str:
    """The sender's device, where only one was at that edge."""
    if edge is None:
        return ""
    here = {s.device for s in facts.sessions if s.user == facts.sender and s.edge == edge and s.open_at(at)}
    return f"'s device {facts.label(facts.sender, here.pop())}" if len(here) == 1 else ""


def _routed(way: Way, found: list[_Placed]) -> None:
    seen: set[tuple[str, int]] = set()
    fetched: set[tuple[str | None, int]] = set()
    for handed in way.handed:
        router = handed.router or "a router"
        if handed.fetched is not None and (handed.router, handed.fetched) not in fetched:
            fetched.add((handed.router, handed.fetched))
            hop = Hop(handed.fetched, "fetched", router, f"position {handed.pos} of {way.timeline}")
            found.append(_Placed(handed.fetched, 2, hop))
        text = f"for {way.timeline}, {_how(handed)}"
        if (handed.edge, handed.pos) in seen:
            text += ", again: the router had to begin anew"
        elif way.copies and handed.pos != way.copies[0].pos:
            text += f", its second record ({handed.pos})"
        seen.add((handed.edge, handed.pos))
        found.append(_Placed(handed.at, 3, Hop(handed.at, "handed on", router, f"to {handed.edge} {text}")))


def _how(handed: Handed) -> str:
    if handed.how is not None:
        return _HOW.get(handed.how, handed.how)
    return _HOW["all"] if handed.incarnation is None else _HOW["redis"]


def _device(facts: Facts, way: Way, user: int, device: str, found: list[_Placed]) -> None:
    who = f"{facts.name(user)}'s device {facts.label(user, device)}"
    edge = ""
    for session in facts.sessions:
        if (session.user, session.device) != (user, device):
            continue
        for handed in way.handed:
            if handed.edge != session.edge or handed.incarnation not in (None, session.incarnation):
                continue
            if session.open_at(handed.at):
                edge = session.edge
                text = f"to session {session.session} of {who}"
                found.append(_Placed(handed.at, 4, Hop(None, "written", session.edge, text)))
                break
    ack = facts.acks.get((way.timeline, user, device))
    if ack is None:
        return
    at = ack.at
    if not edge and at is not None:
        edge = next((s.edge for s in facts.sessions if (s.user, s.device) == (user, device) and s.open_at(at)), "")
        if any(s.since is not None and s.since > (facts.accepted or 0) for s in facts.sessions if s.edge == edge):
            who += ", by sync"
    text = f"by {who}: it has {way.timeline} up to {ack.pos}"
    found.append(_Placed(at if at is not None else _last(found), 7, Hop(at, "acknowledged", edge or "an edge", text)))


def _stored(facts: Facts, way: Way, found: list[_Placed]) -> None:
    after = max([facts.sent_at or 0, *(c.sent_at for c in way.copies[:1]), *(h.at for h in way.handed[:1])])
    if way.row is not None:
        found.append(_Placed(after, 5, Hop(None, "stored", "MySQL", f"a row at position {way.row} of {way.timeline}")))
    for slice_ in way.slices:
        sure = "" if slice_.sure else ", as the index tells"
        text = f"{way.timeline} in slice {slice_.number}, {slice_.file}{sure}"
        found.append(_Placed(slice_.at, 8, Hop(slice_.at, "archived", "archiver", text)))


def _last(found: list[_Placed]) -> int:
    return max((one.after for one in found), default=0)
