"""Did it arrive, and if not, why? Pure.

Judged are the devices that were on line when the message came in: those of the recipients, and the sender's others. A device
has it when it has acknowledged the timeline up to the first record of the message. The device that sent it need not: it
cannot be told from another of the sender's at the same edge, so one of them there is let pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from chat.tools.trace.facts import Ack, Facts, Handed, Session, Way
from chat.tools.trace.words import clock, count, listed, several, span

#: A message this young may still be on its way without anything being wrong.
YOUNG_MS: Final = 2_000
#: Names told in a sentence.
MOST: Final = 5


class State(StrEnum):
    DELIVERED = "delivered"  # every device that was on line has it, and one of a recipient's at least
    WAITING = "waiting"  # no device of a recipient has it: none was on line
    UNDER_WAY = "under_way"  # young
    NOT_ROUTED = "not_routed"  # no router has come so far
    NOT_CHOSEN = "not_chosen"  # a router has, but did not hand it to the edge where the device was
    NOT_ACKNOWLEDGED = "not_acknowledged"  # the edge had it, the device has not acknowledged
    HALF = "half"  # one of its two records is in the log: it was not accepted
    DEAD = "dead"  # persist could not store it
    NOT_FOUND = "not_found"
    UNKNOWN = "unknown"


class Standing(NamedTuple):
    """A device and what it has of a way. `session`: that was open when the message came in, or the last before it."""

    user: int
    device: str
    ack: Ack | None
    online: bool
    session: Session | None
    later: Session | None  # the first log-in after it


class Verdict(NamedTuple):
    state: State
    words: Sequence[str]

    @property
    def arrived(self) -> bool:
        return self.state is State.DELIVERED


def standings(facts: Facts, way: Way) -> list[Standing]:
    """Of all devices that are to have what lies on `way`."""
    at = facts.accepted or 0
    known: dict[tuple[int, str], None] = {}
    for user in way.readers:
        for one in (facts.devices or {}).get(user, ()):
            if one.created_at <= at:
                known[user, one.device] = None
    for session in facts.sessions:
        if session.user in way.readers and (session.since is None or session.since <= at):
            known[session.user, session.device] = None
    for timeline, user, device in facts.acks:
        if timeline == way.timeline and user in way.readers:
            known[user, device] = None
    found = []
    for user, device in known:
        mine = [s for s in facts.sessions if (s.user, s.device) == (user, device)]
        before = [s for s in mine if s.since is None or s.since <= at]
        open_ = [s for s in before if s.open_at(at)]
        later = next((s for s in mine if s.since is not None and s.since > at), None)
        ack = facts.acks.get((way.timeline, user, device))
        latest: list[Session | None] = [None, *before, *open_]
        found.append(Standing(user, device, ack, bool(open_), latest[-1], later))
    return found


def judge(facts: Facts) -> Verdict:
    main = facts.main
    if main is None or not any(_there(way) for way in facts.ways):
        return _nowhere(facts)
    if not main.stored and (dead := next((d for d in facts.dead if _is_dead(d.timeline, d.pos, main)), None)):
        return Verdict(
            State.DEAD,
            [
                f"persist could not store the record in {main.timeline}: {dead.why}",
                f"it is dead record {dead.number}: `chat admin dead list`, then `retry` or `skip`",
                *_devices(facts, main, standings(facts, main))[1],
            ],
        )
    if (half := _half(facts)) is not None:
        return half
    own = next((way for way in facts.ways if way.role == "own"), None)
    state, words = _devices(facts, main, standings(facts, main))
    if own is not None:
        theirs, more = _devices(facts, own, standings(facts, own))
        if theirs not in (State.DELIVERED, State.WAITING):
            words += [f"the sender's own devices: {line}" for line in more]
            state = theirs if state is State.DELIVERED else state
    return Verdict(state, [*words, _storage(facts, main)])


def _there(way: Way) -> bool:
    return bool(way.copies) or way.stored or bool(way.handed)


def _is_dead(timeline: str, pos: int, way: Way) -> bool:
    return timeline == way.timeline and way.pos == pos


def _nowhere(facts: Facts) -> Verdict:
    if any(way.passed and way.role != "own" for way in facts.ways):
        return Verdict(
            State.UNKNOWN,
            [
                "it was stored once, but its record is neither in the log nor among the rows any more: archived "
                "(does [archive] url say here where that is?), or deleted"
            ],
        )
    if facts.unknown:
        return Verdict(State.NOT_FOUND, ["not found; but not everything was looked at, see what is not known"])
    return Verdict(
        State.NOT_FOUND,
        [
            "neither in the log nor stored: it was never accepted. Its client keeps it in its outbox and sends it again, "
            "unless it was refused; or the id is wrong"
        ],
    )


def _half(facts: Facts) -> Verdict | None:
    """Only one of two records is there, and that is sure."""
    if len(facts.ways) != 2:
        return None
    missing = [way for way in facts.ways if not _there(way)]
    if len(missing) != 1 or missing[0].passed or any(way.stored for way in facts.ways if way.passed is None):
        return None
    lost, way = missing[0], next(way for way in facts.ways if _there(way))
    if not way.copies:
        return None  # from MySQL alone: the other may be archived
    whose = "the recipient's" if lost.role == "to" else "the sender's"
    words = [
        f"only {way.timeline} has a record of it, {lost.timeline} ({whose} timeline) has none: it was not accepted. "
        "Its client was told nothing, keeps it in its outbox, and sends it again after a reconnect"
    ]
    if facts.searched_to is not None:
        words.append("or the other record lies behind what was read of the log, see what is not known")
    if way.role == "to":
        words += _devices(facts, way, standings(facts, way))[1]
    return Verdict(State.HALF, words)


# ------------------------------------------------------------------ devices


def _devices(facts: Facts, way: Way, all_: list[Standing]) -> tuple[State, list[str]]:
    have = [s for s in all_ if s.ack is not None]
    lacking = [s for s in all_ if s.ack is None and s.online]
    away = [s for s in all_ if s.ack is None and not s.online]
    senders = [s for s in lacking if s.user == facts.sender and way.role != "self"]
    if len(senders) == 1 and _sent_there(way, senders[0]):
        lacking.remove(senders[0])
        if way.role == "own":
            have = [*have, senders[0]]
    unsure = way.role == "group" and facts.devices is None
    others = have if way.role in ("own", "self") else [s for s in have if s.user != facts.sender]
    words = []
    if others:
        words.append(_have(facts, way, others))
    if unsure:
        return State.UNKNOWN, [*words, f"who else is in group {way.timeline[1:]} is not known"]
    if lacking:
        state, why = _why(facts, way, lacking)
        return state, words + why + _away(facts, way, away)
    if others:
        return State.DELIVERED, words + _away(facts, way, away)
    if way.role == "group" and way.readers == [facts.sender]:
        return State.DELIVERED, ["nobody else is in the group"]
    if not away and way.role != "own":
        return _nobody(facts, way)
    return State.WAITING, _away(facts, way, away) + _no_choice(way)


def _sent_there(way: Way, standing: Standing) -> bool:
    edges = {copy.edge for copy in way.copies} - {None}
    return not edges or standing.session is None or standing.session.edge in edges


def _have(facts: Facts, way: Way, have: list[Standing]) -> str:
    times = [s.ack.at for s in have if s.ack and s.ack.at is not None]
    if len(have) > MOST:
        last = f", the last after {span(max(times) - (facts.accepted or 0))}" if times and facts.accepted else ""
        return f"{count(len(have), 'device')} of {count(len({s.user for s in have}), 'user')} have it{last}"
    told = []
    for s in have:
        after = f" ({span(s.ack.at - facts.accepted)})" if s.ack and s.ack.at and facts.accepted else ""
        told.append(f"{_device(facts, s)}{after}")
    return f"{listed(told)} {'has' if len(told) == 1 else 'have'} it"


def _why(facts: Facts, way: Way, lacking: list[Standing]) -> tuple[State, list[str]]:
    """Why devices that were on line have not acknowledged."""
    young = facts.accepted is not None and facts.now - facts.accepted < YOUNG_MS
    names = listed([_device(facts, s) for s in lacking], MOST)
    verb = "has" if len(lacking) == 1 else "have"
    if way.routed is False and not way.handed:
        state = State.UNDER_WAY if young else State.NOT_ROUTED
        return state, [
            f"{names} {verb} not acknowledged: no router has come so far, they are {count(way.unrouted, 'record')} short of "
            "it. Does one run? It is delivered when one goes on; a sync brings it before, once it is stored"
        ]
    if young:
        return State.UNDER_WAY, [f"{names} {verb} not acknowledged yet: it is {span(facts.now - (facts.accepted or 0))} old"]
    reached = [s for s in lacking if _reached(way, s)]
    if reached or (not way.handed and way.routed is None):
        words = [f"{names} {verb} not acknowledged"]
        words += [_since(facts, way, s) for s in reached[:MOST]]
        if not reached:
            words.append("whether a router has handed it on is not known")
        return State.NOT_ACKNOWLEDGED, words
    words = [_not_chosen(facts, way, s) for s in lacking[:MOST]]
    if len(lacking) > MOST:
        words.append(f"and {len(lacking) - MOST} devices more")
    return State.NOT_CHOSEN, words


def _reached(way: Way, standing: Standing) -> Handed | None:
    """The delivery that the edge of the device's session got."""
    session = standing.session
    if session is None:
        return None
    fit = (h for h in way.handed if h.edge == session.edge and h.incarnation in (None, session.incarnation))
    return next(fit, None)


def _since(facts: Facts, way: Way, standing: Standing) -> str:
    session, handed = standing.session, _reached(way, standing)
    assert session is not None
    assert handed is not None
    who = _device(facts, standing)
    if session.until is not None:
        again = f"; it logged in again at {clock(standing.later.since)}" if standing.later and standing.later.since else ""
        return (
            f"{session.edge} had it at {clock(handed.at)}, but the session of {who} ended at {clock(session.until)} "
            f"({session.ended}) before it acknowledged: it gets it by sync at its next log-in{again}"
        )
    return (
        f"{session.edge} had it at {clock(handed.at)} and holds a session of {who} since {clock(session.since)}: the device "
        "does not read, or its connection is dead and not found out yet, or its edge stands still"
    )


def _not_chosen(facts: Facts, way: Way, standing: Standing) -> str:
    session, who = standing.session, _device(facts, standing)
    where = f"{session.edge} (incarnation {session.incarnation})" if session else "an edge that is not known"
    ended = f", until {clock(session.until)} ({session.ended})" if session and session.until is not None else ""
    if way.handed:
        edges = listed(sorted({h.edge for h in way.handed}), MOST)
        chose = f"a router handed it to {edges} only"
        if session and any(h.edge == session.edge for h in way.handed):
            chose = f"a router handed it to another run of {session.edge}"
    elif way.routed:
        chose = "a router has passed it and handed it to no edge" + _as_searched(facts)
    else:
        chose = "no delivery of it was found" + _as_searched(facts)
    return (
        f"{who} was on line at {where}{ended}, but {chose}: its location in Redis was missing or out of date. A sync brings "
        "it: at the next resync, periodic sync or log-in"
    )


def _as_searched(facts: Facts) -> str:
    return "" if facts.searched_to is None else f" (topics read up to {clock(facts.searched_to)})"


def _away(facts: Facts, way: Way, away: list[Standing]) -> list[str]:
    words = []
    for s in away[:MOST]:
        who = _device(facts, s)
        if s.session is not None and s.session.until is not None:
            line = f"{who} was off line since {clock(s.session.until)} ({s.session.ended})"
        elif s.session is None and facts.presence_from is not None:
            line = f"{who} has not acknowledged; whether it was on line is not known"
        else:
            line = f"{who} was off line"
        if s.later is not None and s.later.since is not None:
            line += f"; it is back since {clock(s.later.since)} and has not acknowledged yet"
        elif way.stored:
            line += "; it gets it by sync at its next log-in"
        words.append(line)
    if len(away) > MOST:
        words.append(f"{len(away) - MOST} devices more were off line")
    return words


def _no_choice(way: Way) -> list[str]:
    """Nobody on line costs the router nothing, so it leaves no trace of it: that it has passed is the trace."""
    if way.handed or way.role == "own":
        return []
    if way.routed:
        return ["a router has passed it and handed it to no edge: nobody was on line"]
    if way.routed is False:
        return [f"no router has come so far: they are {count(way.unrouted, 'record')} short of it"]
    return []


def _nobody(facts: Facts, way: Way) -> tuple[State, list[str]]:
    readers = [user for user in way.readers if user != facts.sender] or way.readers
    names = listed([facts.name(user) for user in readers], MOST)
    if facts.devices is None:
        return State.UNKNOWN, [f"no device of {names} has acknowledged or logged in, as far as the topics tell"]
    return State.WAITING, [f"{names} had no device then", *_no_choice(way)]


# ------------------------------------------------------------------ storage


def _storage(facts: Facts, way: Way) -> str:
    if way.row is not None:
        return "stored"
    if way.archived is not None:
        return f"stored, and archived since in {several(way.slices)}"
    if not facts.mysql:
        return "whether it is stored is not known: MySQL cannot be read"
    if way.passed is False:
        return f"not stored yet: persist is {count(way.behind, 'record')} short of it"
    if way.slices:
        return f"stored, and archived since: {several(way.slices)} may hold it"
    if way.passed:
        return "persist has passed it, but has no row of it: archived without an index of it, or deleted"
    return "whether it is stored is not known"


def _device(facts: Facts, standing: Standing) -> str:
    return f"{facts.name(standing.user)}'s device {facts.label(standing.user, standing.device)}"
