"""What a device did, as lines. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from chat.tools.replay.explain.device import Said
from chat.tools.replay.lines import Lines

_GOOD: Final = "\x1b[32m"
_BAD: Final = "\x1b[31m"
_HELD: Final = "\x1b[33m"
_OFF: Final = "\x1b[0m"
_COLOURS: Final = {"shown": _GOOD, "waits": _HELD, "remembered": _HELD, "missed": _BAD, "reconnect": _BAD, "dead": _BAD}


class SaidLine(Struct, omit_defaults=True):
    """For machines. `did` as `device.Said` says; `time` in milliseconds, the record's own."""

    time: int
    did: str
    timeline: str = ""
    position: int = 0
    id: str = ""
    by: str = ""
    detail: str = ""


def for_machines(said: list[Said]) -> bytes:
    lines = [SaidLine(s.time, s.did, s.timeline, s.pos, s.id, s.by, s.detail) for s in said]
    return msgspec.json.Encoder().encode_lines(lines)


def for_people(said: list[Said], lines: Lines, *, colours: bool) -> bytes:
    made = []
    for one in said:
        shade = _COLOURS.get(one.did, "") if colours else ""
        pos = str(one.pos) if one.pos else "·"
        how = f"{one.did} by {one.by}" if one.did == "shown" and one.by in ("sync", "fetch") else one.did
        about = "" if one.message is None else f" | {lines.said(one.message)}"
        did = f"{shade}{how:<14}{_OFF if shade else ''}"
        made.append(f"{lines.time(one.time)} {one.timeline or '·':<6} {pos:>8} {did} {one.detail}{about}".rstrip() + "\n")
    return "".join(made).encode("utf-8", "backslashreplace")
