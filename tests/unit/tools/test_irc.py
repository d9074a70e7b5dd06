"""IRC logs as plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat.tools.irc import Changed, Join, Leave, Renamed, Said, Say, parse, plan, user_name

SAMPLE = Path(__file__).parents[2] / "data" / "irc" / "ubuntu-2004-11-15.log"


def test_the_forms_of_a_line():
    log = b"""\
[12:18] <ann> hello
=== bob [~bob@host.example]  has joined #ubuntu
=== ann waves
[12:19]  * ann shrugs
[12:19] <ann>
[12:20] <ann> caf\xe9 \xfc
[12:20] <ann> caf\xc3\xa9
=== ann is now known as anna
=== anna [n=a@b] has left #ubuntu ["bye"]
=== carl has quit [Ping timeout]
=== mode/#ubuntu [+o ann] by ChanServ
nothing of this

"""
    assert list(parse(log)) == [
        Said("ann", "hello"),
        Changed("bob", "joined"),
        Said("ann", "* waves"),
        Said("ann", "* shrugs"),
        Said("ann", ""),
        Said("ann", "café ü"),
        Said("ann", "café"),
        Renamed("ann", "anna"),
        Changed("anna", "left"),
        Changed("carl", "left"),
    ]


def test_a_person_is_followed_through_his_nicks():
    log = b"""\
[1:00] <x> no such time
[01:00] <ann> one
=== ann is now known as anna
[01:01] <anna> two
=== bob [b] has joined #c
[01:02] <bob> anna: three
=== bob [b] has left #c
[01:03] <bob> back, unseen
"""
    found = plan(parse(log))
    assert found.nicks == [["ann", "anna"], ["bob"]]
    assert found.first == [0]
    assert found.steps == [
        Say(0, "one", None), Say(0, "two", None), Join(1), Say(1, "anna: three", 0), Leave(1), Join(1),
        Say(1, "back, unseen", None),
    ]  # fmt: skip


def test_who_says_nothing_is_not_there():
    assert plan(parse(b"=== lurker [x] has joined #c\n=== lurker [x] has left #c\n")).nicks == []


def test_the_sample_has_all_of_it():
    found = plan(parse(SAMPLE.read_bytes()))
    kinds = [type(step) for step in found.steps]
    assert kinds.count(Say) > 300
    assert Join in kinds
    assert Leave in kinds
    assert any(len(nicks) > 1 for nicks in found.nicks)
    assert any(isinstance(step, Say) and step.to is not None for step in found.steps)


@pytest.mark.parametrize(("nick", "name"), [("|trey|", "r-_trey_-7"), ("Zoë", "r-zo_-7"), ("a" * 50, f"r-{'a' * 28}-7")])
def test_user_names(nick: str, name: str):
    assert user_name(nick, "r-", 7) == name
    assert len(name) <= 32
