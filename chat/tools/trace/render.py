"""A trace for people and for machines."""

from __future__ import annotations

from typing import Any

import msgspec

from chat.admin.console import plain
from chat.client.text import colour, pad, width
from chat.tools.trace.facts import Facts, Way
from chat.tools.trace.hops import Hop, hops
from chat.tools.trace.verdict import State, Verdict, standings
from chat.tools.trace.words import day, moment

_COLOURS = {State.DELIVERED: "green", State.WAITING: "yellow", State.UNDER_WAY: "yellow", State.UNKNOWN: "yellow"}


def lines(facts: Facts, verdict: Verdict, colours: bool) -> list[str]:
    """For people. Times are UTC; `+`: milliseconds since the message was taken in."""
    said = [_title(facts)]
    found = hops(facts)
    zero = facts.accepted
    rows = [(_time(hop, facts), _after(hop, zero), hop.what, hop.process, hop.text) for hop in found]
    widths = [max((width(row[n]) for row in rows), default=0) for n in range(4)]
    for row in rows:
        cells = [
            pad(plain(cell), w) if n != 1 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        said.append("  " + "  ".join([*cells, plain(row[4])]))
    said.append(colour(verdict.state.value.replace("_", " "), _COLOURS.get(verdict.state, "red"), colours))
    said += [f"  {plain(line)}" for line in verdict.words]
    if facts.unknown:
        said.append("not known")
        said += [f"  {plain(line)}" for line in facts.unknown]
    return said


def _title(facts: Facts) -> str:
    main = facts.main
    where = facts.accepted
    to = ""
    if main is not None:
        to = f" → {facts.name(int(main.timeline[1:]))}" if main.role in ("to", "self") else f" → group {main.timeline[1:]}"
    what = str(facts.id) if facts.id else f"{facts.kind} at {main.timeline}@{main.pos}" if main else ""
    who = f"  {plain(facts.name(facts.sender))}{plain(to)}" if facts.sender else ""
    return f"{what}{who}" + (f"  {day(where)}" if where is not None else "")


def _time(hop: Hop, facts: Facts) -> str:
    at = moment(hop.at)
    if at is None:
        return ""
    date = "" if day(hop.at) == day(facts.accepted) else f"{at:%Y-%m-%d} "
    return f"{date}{at:%H:%M:%S}.{at.microsecond // 1000:03}"


def _after(hop: Hop, zero: int | None) -> str:
    return "" if hop.at is None or zero is None else f"{hop.at - zero:+,}"


def as_json(facts: Facts, verdict: Verdict) -> bytes:
    """One object."""
    return msgspec.json.encode(
        {
            "id": str(facts.id) if facts.id else None,
            "kind": facts.kind,
            "sender": facts.sender,
            "accepted_at": facts.accepted,
            "verdict": verdict.state.value,
            "arrived": verdict.arrived,
            "words": verdict.words,
            "unknown": facts.unknown,
            "hops": [hop._asdict() for hop in hops(facts)],
            "ways": [_way(facts, way) for way in facts.ways],
            "dead": [dead._asdict() for dead in facts.dead],
            "searched_to": facts.searched_to,
        }
    )


def _way(facts: Facts, way: Way) -> dict[str, Any]:
    return {
        "timeline": way.timeline,
        "role": way.role,
        "positions": [copy.pos for copy in way.copies],
        "stored_position": way.row,
        "archived_position": way.archived,
        "persist_passed": way.passed,
        "persist_behind": way.behind,
        "router_passed": way.routed,
        "router_behind": way.unrouted,
        "handed": [one._asdict() for one in way.handed],
        "slices": [one._asdict() for one in way.slices],
        "devices": [
            {
                "user": one.user,
                "device": one.device,
                "label": facts.label(one.user, one.device),
                "on_line": one.online,
                "edge": one.session.edge if one.session else None,
                "session": one.session.session if one.session else None,
                "acknowledged": one.ack is not None,
                "acknowledged_at": one.ack.at if one.ack else None,
            }
            for one in standings(facts, way)
        ],
    }
