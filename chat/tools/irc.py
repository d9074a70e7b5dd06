"""IRC channel logs, as lines and as what is done with them in a chat. Pure.

    [12:18] <nick> text                          a line said
    [12:18]  * nick shrugs, === nick shrugs      an action: a line said, its text begins with `* `
    === nick [user@host] has joined #channel     also `has left`, `has quit`
    === a is now known as b

Bytes that are not UTF-8 are read as Latin-1, line by line: what IRC clients of that time sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

_SAID: Final = re.compile(r"^\[\d\d:\d\d\] <([^>]*)> ?(.*)$", re.DOTALL)
_ACTION: Final = re.compile(r"^\[\d\d:\d\d\]  ?\* (\S+) ?(.*)$", re.DOTALL)
_CHANGE: Final = re.compile(r"^=== (\S+) (?:\[.*?\] +)?has (joined|left|quit)\b")
_RENAME: Final = re.compile(r"^=== (\S+) is now known as (\S+)")
_OTHER: Final = re.compile(r"^=== (\S+) (.+)$", re.DOTALL)
_ADDRESSED: Final = re.compile(r"^([^\s:,]+)[:,](?:\s|$)")
MAX_NAME: Final = 32


@dataclass(frozen=True)
class Said:
    nick: str
    text: str


@dataclass(frozen=True)
class Changed:
    nick: str
    what: Literal["joined", "left"]


@dataclass(frozen=True)
class Renamed:
    nick: str
    new: str


Line = Said | Changed | Renamed


def decode(raw: bytes) -> str:
    """One line. Control characters stay: who shows it cleans it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def parse(data: bytes) -> Iterator[Line]:
    """The lines of a log. What is none of the forms above (modes, topics, empty lines) is passed over."""
    speakers: set[str] = set()
    for raw in data.split(b"\n"):
        line = decode(raw.rstrip(b"\r"))
        if said := _SAID.match(line):
            speakers.add(said[1])
            yield Said(said[1], said[2])
        elif action := _ACTION.match(line):
            speakers.add(action[1])
            yield Said(action[1], f"* {action[2]}")
        elif renamed := _RENAME.match(line):
            speakers.add(renamed[2])
            yield Renamed(renamed[1], renamed[2])
        elif changed := _CHANGE.match(line):
            yield Changed(changed[1], "joined" if changed[2] == "joined" else "left")
        elif (other := _OTHER.match(line)) and other[1] in speakers and not other[1].startswith(("mode/", "topic")):
            yield Said(other[1], f"* {other[2]}")


# ------------------------------------------------------------------ the plan


@dataclass(frozen=True)
class Join:
    person: int


@dataclass(frozen=True)
class Leave:
    person: int


@dataclass(frozen=True)
class Say:
    """To the channel; `to` is the person it is addressed to, who also gets it as a direct message."""

    person: int
    text: str
    to: int | None


Step = Join | Leave | Say


@dataclass
class Plan:
    """Persons are numbered; `nicks` has every nick a person had, `first` who are in the channel when the log begins."""

    nicks: list[list[str]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def plan(lines: Iterable[Line]) -> Plan:
    """What is to be done, by those who speak. A person is followed through changes of his nick. Who speaks without having
    been seen to join was there from the beginning; who speaks after he has left joins again first."""
    kept = list(lines)
    plan = Plan()
    person_of: dict[str, int] = {}
    inside: set[int] = set()
    speaks = _speakers(kept)
    for index, line in enumerate(kept):
        person = person_of.get(line.nick)
        if isinstance(line, Renamed):
            if person is not None:
                del person_of[line.nick]
                person_of[line.new] = person
                if line.new not in plan.nicks[person]:
                    plan.nicks[person].append(line.new)
            elif index in speaks:
                person = _new(plan, person_of, line.new)
                plan.nicks[person].insert(0, line.nick)
                plan.first.append(person)
                inside.add(person)
            continue
        if person is None:
            if index not in speaks or (isinstance(line, Changed) and line.what == "left"):
                continue
            person = _new(plan, person_of, line.nick)
            if isinstance(line, Said):
                plan.first.append(person)
                inside.add(person)
        if isinstance(line, Said):
            if person not in inside:
                inside.add(person)
                plan.steps.append(Join(person))
            plan.steps.append(Say(person, line.text, _addressed(line.text, person_of)))
        elif line.what == "joined" and person not in inside:
            inside.add(person)
            plan.steps.append(Join(person))
        elif line.what == "left" and person in inside:
            inside.discard(person)
            plan.steps.append(Leave(person))
    return plan


def _speakers(lines: Sequence[Line]) -> set[int]:
    """Indices of the lines whose nick says something there or later, also under a later nick."""
    will_speak: set[str] = set()
    found: set[int] = set()
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        if isinstance(line, Said):
            will_speak.add(line.nick)
        elif isinstance(line, Renamed) and line.new in will_speak:
            will_speak.discard(line.new)
            will_speak.add(line.nick)
        if line.nick in will_speak:
            found.add(index)
    return found


def _new(plan: Plan, person_of: dict[str, int], nick: str) -> int:
    person_of[nick] = len(plan.nicks)
    plan.nicks.append([nick])
    return person_of[nick]


def _addressed(text: str, person_of: dict[str, int]) -> int | None:
    found = _ADDRESSED.match(text)
    return person_of.get(found[1]) if found else None


def user_name(nick: str, prefix: str, number: int) -> str:
    """A user name for a nick: what is allowed of it, in lower case, between a prefix and a number that make it unique."""
    allowed = re.sub(r"[^a-z0-9._-]", "_", nick.lower())
    tail = f"-{number}"
    return f"{prefix}{allowed[: MAX_NAME - len(prefix) - len(tail)]}{tail}"
