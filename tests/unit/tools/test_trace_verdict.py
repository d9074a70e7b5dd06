"""What is said of a message, from what was found: a table of situations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from chat.message_id import MessageId
from chat.tools.trace.facts import Ack, Copy, Dead, Device, Facts, Handed, Session, Slice, Way
from chat.tools.trace.hops import hops
from chat.tools.trace.render import as_json, lines
from chat.tools.trace.verdict import State, judge

AT = 1_800_000_000_000
ALICE, BOB, CAROL = 1, 2, 3
PHONE, LAPTOP, HERS = "phone-0001", "laptop-0001", "alices-0001"


def session(user: int, device: str, edge: str, since: int = -60_000) -> Session:
    return Session(user, device, f"s-{device}", edge, 11, AT + since)


def handed(timeline: str, pos: int, edge: str, after: int = 4, incarnation: int | None = 11) -> Handed:
    how = "redis" if incarnation else "all"
    return Handed(timeline, pos, edge, incarnation, AT + after, "router-1", how, AT + after - 1)


def device(user: int, name: str) -> Device:
    return Device(user, name, "", AT - 90_000_000, AT)


def direct() -> Facts:
    """Alice's to Bob, who has a phone and a laptop; everything went well."""
    return Facts(
        now=AT + 60_000,
        id=MessageId(ALICE, "u2", 5, 0),
        sender=ALICE,
        sent_at=AT,
        names={ALICE: "alice", BOB: "bob"},
        ways=[
            Way(
                "u2", "to", [Copy(101, AT, None, "chat.messages/1")], 101, passed=True, routed=True,
                handed=[handed("u2", 101, "edge-2"), handed("u2", 101, "edge-1")], readers=[BOB],
            ),
            Way(
                "u1", "own", [Copy(55, AT, "edge-1", "chat.messages/3")], 55, passed=True, routed=True,
                handed=[handed("u1", 55, "edge-1")], readers=[ALICE],
            ),
        ],
        devices={ALICE: [device(ALICE, HERS)], BOB: [device(BOB, PHONE), device(BOB, LAPTOP)]},
        sessions=[session(ALICE, HERS, "edge-1"), session(BOB, PHONE, "edge-2"), session(BOB, LAPTOP, "edge-1")],
        acks={
            ("u2", BOB, PHONE): Ack(101, AT + 50),
            ("u2", BOB, LAPTOP): Ack(101, AT + 60),
            ("u1", ALICE, HERS): Ack(55, AT + 55),
        },
    )  # fmt: skip


def off(facts: Facts, name: str, until: int | None = -20_000) -> None:
    """Bob's device was off line, and does not have it."""
    del facts.acks["u2", BOB, name]
    at = next(n for n, s in enumerate(facts.sessions) if s.device == name)
    if until is None:
        del facts.sessions[at]
    else:
        facts.sessions[at] = facts.sessions[at]._replace(until=AT + until, ended="logged out")


def unacknowledged(facts: Facts) -> None:
    del facts.acks["u2", BOB, PHONE]


def one_off_line(facts: Facts) -> None:
    off(facts, PHONE)


def all_off_line(facts: Facts) -> None:
    off(facts, PHONE)
    off(facts, LAPTOP, None)
    facts.ways[0].handed.clear()


def router_stands_still(facts: Facts) -> None:
    facts.acks.clear()
    for way in facts.ways:
        way.handed.clear()
        way.routed, way.unrouted = False, 3


def young(facts: Facts) -> None:
    router_stands_still(facts)
    facts.now = AT + 300


def not_chosen(facts: Facts) -> None:
    unacknowledged(facts)
    facts.ways[0].handed = [handed("u2", 101, "edge-1")]


def to_a_dead_run(facts: Facts) -> None:
    """The location in Redis was of an earlier run of the edge."""
    unacknowledged(facts)
    facts.ways[0].handed[0] = facts.ways[0].handed[0]._replace(incarnation=10)


def everywhere(facts: Facts) -> None:
    facts.ways[0].handed = [handed("u2", 101, edge, incarnation=None) for edge in ("edge-1", "edge-2", "edge-3")]


def cut_off(facts: Facts) -> None:
    unacknowledged(facts)
    facts.sessions[1] = facts.sessions[1]._replace(until=AT + 30_000, ended="its edge was restarted")


def came_back(facts: Facts) -> None:
    cut_off(facts)
    facts.sessions.append(session(BOB, PHONE, "edge-1", 40_000)._replace(session="later"))
    facts.acks["u2", BOB, PHONE] = Ack(140, AT + 41_000)


def half(facts: Facts) -> None:
    facts.ways[1] = Way("u1", "own", passed=False, readers=[ALICE])
    facts.ways[0].row = None
    facts.ways[0].passed = False
    facts.acks.clear()


def dead(facts: Facts) -> None:
    facts.ways[0].row = None
    facts.dead = [Dead(7, "u2", 101, "MySQL refuses it")]


def nowhere(facts: Facts) -> None:
    facts.ways = [Way("u2", "to", passed=None, readers=[BOB]), Way("u1", "own", readers=[ALICE])]
    facts.acks.clear()
    facts.sent_at = None


def nowhere_and_not_all_read(facts: Facts) -> None:
    nowhere(facts)
    facts.unknown = ["the log before 10:00 was not searched"]


def archived(facts: Facts) -> None:
    for way in facts.ways:
        way.row, way.copies, way.handed = None, way.copies, []
        way.slices = [Slice(4, "2027/4.parquet", AT + 40_000)]


def not_stored(facts: Facts) -> None:
    for way in facts.ways:
        way.row, way.passed, way.behind = None, False, 12


def mysql_away(facts: Facts) -> None:
    facts.mysql, facts.devices, facts.names = False, None, {}
    for way in facts.ways:
        way.row, way.passed = None, None


def no_device(facts: Facts) -> None:
    facts.acks = {key: ack for key, ack in facts.acks.items() if key[1] == ALICE}
    facts.sessions = facts.sessions[:1]
    assert facts.devices is not None
    facts.devices[BOB] = []
    facts.ways[0].handed.clear()


def from_mysql_alone(facts: Facts) -> None:
    """Kafka has let go of all of it."""
    for way in facts.ways:
        way.copies, way.handed, way.routed = [], [], None
    facts.sessions.clear()
    facts.acks = {key: Ack(ack.pos, None) for key, ack in facts.acks.items()}


def doubled(facts: Facts) -> None:
    facts.ways[0].copies.append(Copy(109, AT + 9_000, None, "chat.messages/1"))
    facts.ways[1].copies.append(Copy(61, AT + 9_000, "edge-2", "chat.messages/3"))
    facts.ways[0].handed.append(handed("u2", 109, "edge-2", 9_010))


def her_other_device_lacks_it(facts: Facts) -> None:
    assert facts.devices is not None
    facts.devices[ALICE].append(device(ALICE, "tablet-0001"))
    facts.sessions.append(session(ALICE, "tablet-0001", "edge-2"))


def the_sending_device_has_left(facts: Facts) -> None:
    del facts.acks["u1", ALICE, HERS]


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        (lambda facts: None, State.DELIVERED, "phone-0001 (50 ms) and bob's device laptop-0001 (60 ms) have it"),
        (one_off_line, State.DELIVERED, "phone-0001 was off line since "),
        (all_off_line, State.WAITING, "nobody was on line"),
        (all_off_line, State.WAITING, "it gets it by sync at its next log-in"),
        (no_device, State.WAITING, "bob had no device then"),
        (unacknowledged, State.NOT_ACKNOWLEDGED, "the device does not read"),
        (cut_off, State.NOT_ACKNOWLEDGED, "(its edge was restarted) before it acknowledged"),
        (came_back, State.DELIVERED, "phone-0001 (41.0 s)"),
        (router_stands_still, State.NOT_ROUTED, "no router has come so far, they are 3 records short"),
        (young, State.UNDER_WAY, "have not acknowledged"),
        (not_chosen, State.NOT_CHOSEN, "a router handed it to edge-1 only: its location in Redis was missing"),
        (to_a_dead_run, State.NOT_CHOSEN, "edge-2 (incarnation 11)"),
        (everywhere, State.DELIVERED, "stored"),
        (half, State.HALF, "u1 (the sender's timeline) has none: it was not accepted"),
        (dead, State.DEAD, "dead record 7"),
        (nowhere, State.NOT_FOUND, "never accepted"),
        (nowhere_and_not_all_read, State.NOT_FOUND, "not everything was looked at"),
        (archived, State.DELIVERED, "archived since: slice 4"),
        (not_stored, State.DELIVERED, "not stored yet: persist is 12 records short"),
        (mysql_away, State.DELIVERED, "MySQL cannot be read"),
        (from_mysql_alone, State.DELIVERED, "have it"),
        (doubled, State.DELIVERED, "have it"),
        (her_other_device_lacks_it, State.NOT_CHOSEN, "the sender's own devices: alice's device tablet-0001 was on line"),
        (the_sending_device_has_left, State.DELIVERED, "have it"),
    ],
)  # fmt: skip
def test_direct(change: Callable[[Facts], None], state: State, said: str) -> None:
    facts = direct()
    change(facts)
    verdict = judge(facts)
    assert (verdict.state, verdict.arrived) == (state, state is State.DELIVERED), verdict.words
    assert any(said in line for line in verdict.words), verdict.words
    assert lines(facts, verdict, True)
    assert msgspec.json.decode(as_json(facts, verdict))["verdict"] == state.value


def group(members: int, lacking: int) -> Facts:
    users = range(1, members + 1)
    return Facts(
        now=AT + 60_000,
        id=MessageId(ALICE, "g7", 5, 0),
        sender=ALICE,
        sent_at=AT,
        ways=[
            Way(
                "g7", "group", [Copy(101, AT, "edge-1", "chat.messages/1")], 101, passed=True, routed=True,
                handed=[handed("g7", 101, "edge-1")], readers=list(users),
            )
        ],
        devices={user: [device(user, f"device-{user:04}")] for user in users},
        sessions=[session(user, f"device-{user:04}", "edge-1") for user in users],
        acks={("g7", user, f"device-{user:04}"): Ack(101, AT + user) for user in users if user > lacking},
    )  # fmt: skip


def test_group() -> None:
    assert judge(group(3, 1)).state is State.DELIVERED  # the one that lacks it has sent it
    assert judge(group(3, 2)).state is State.NOT_ACKNOWLEDGED
    assert judge(group(1, 0)).words[0] == "nobody else is in the group"
    many = judge(group(30, 0))
    assert many.words[0] == "29 devices of 29 users have it, the last after 30 ms"
    unknown = replace(group(3, 1), devices=None, mysql=False, sessions=[])
    unknown.ways[0].readers = [2, 3]
    assert judge(unknown).state is State.UNKNOWN


def test_hops_are_in_order_and_say_when() -> None:
    facts = direct()
    doubled(facts)
    found = hops(facts)
    times = [hop.at for hop in found if hop.at is not None]
    assert times == sorted(times)
    told = [(hop.what, hop.process, None if hop.at is None else hop.at - AT) for hop in found]
    assert told[:3] == [
        ("taken in", "edge-1", 0),
        ("in the log", "chat.messages/1", 0),
        ("in the log", "chat.messages/3", 0),
    ]
    assert ("fetched", "router-1", 3) in told
    assert ("handed on", "router-1", 4) in told
    assert ("written", "edge-2", None) in told
    assert ("acknowledged", "edge-2", 50) in told
    assert ("taken in", "edge-2", 9_000) in told
    assert sum("sent again" in hop.text for hop in found) == 1
    assert sum("a second record" in hop.text for hop in found) == 2
    assert next(hop for hop in found if hop.what == "taken in").text == f"from alice's device {HERS}"


def test_a_broadcast_is_told_as_one() -> None:
    facts = direct()
    everywhere(facts)
    found = hops(facts)
    assert sum("to every edge: Redis was away" in hop.text for hop in found) == 3
    assert sum(hop.what == "written" and hop.process == "edge-3" for hop in found) == 0


def test_nothing_of_the_terminal_is_moved() -> None:
    facts = direct()
    facts.names[BOB] = "bob\x1b[2J"
    assert not any("\x1b" in line for line in lines(facts, judge(facts), False))
