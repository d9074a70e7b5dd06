"""The checker's ledger sees every harm, and finds nothing where there is none."""

from __future__ import annotations

import pytest

from chat.tools.check.ledger import Ledger, Screen, Sent

ANN, BOB, EVE, GROUP = 1, 2, 3, 7


class Scene:
    """Ann and Bob, each with a device that was there before the first message; Ann writes."""

    def __init__(self) -> None:
        self.ledger = Ledger({GROUP: {ANN, BOB}})
        self.ann = self.ledger.screen(ANN, "ann", 0.0)
        self.bob = self.ledger.screen(BOB, "bob", 0.0)

    def send(self, number: int, conversation: str = f"u{BOB}", *, seen: int = 0, accepted: bool = True) -> Sent:
        sent = Sent(f"t{number}", ANN, conversation, f"t{number} text", 10.0 + number, seen, device="ann")
        self.ledger.compose(sent)
        if accepted:
            self.ledger.accepted(sent.token, 20.0)
        return sent

    def show(self, screen: Screen, number: int, *, conversation: str | None = None, **changes: object) -> None:
        own = screen.user == ANN
        fields = {
            "text": f"t{number} text", "sender": ANN, "stream": 5, "seq": number, "sent_at": 100 + number, "at": 30.0,
            "conversation": conversation or (f"u{BOB}" if own else f"u{ANN}"),
        }  # fmt: skip
        self.ledger.show(screen, **(fields | changes))  # type: ignore[arg-type]

    @property
    def found(self) -> list[str]:
        return [finding.kind for finding in self.ledger.findings]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_all_well(scene: Scene) -> None:
    for number in range(3):
        scene.send(number)
        for screen in (scene.ann, scene.bob):
            scene.show(screen, number)
    assert not scene.ledger.missing()
    assert not scene.ledger.unaccepted()
    rows = [(f"t{n} text", ANN, 5, n, 100 + n) for n in (2, 1, 0)]
    scene.ledger.history(ANN, f"u{BOB}", rows)
    scene.ledger.history(BOB, f"u{ANN}", rows)
    assert scene.found == []


def test_missing_on_a_device(scene: Scene) -> None:
    scene.send(0)
    scene.show(scene.ann, 0)
    assert [(screen.name, sent.token) for screen, sent in scene.ledger.missing()] == [("bob", "t0")]


def test_what_is_not_accepted_is_not_due(scene: Scene) -> None:
    scene.send(0, accepted=False)
    assert not scene.ledger.missing()
    assert [sent.token for sent in scene.ledger.unaccepted()] == ["t0"]
    scene.ledger.forget("ann")
    assert not scene.ledger.unaccepted()


def test_a_refused_one_is_neither_due_nor_waited_for(scene: Scene) -> None:
    scene.send(0, accepted=False)
    scene.ledger.refused("t0", "blocked")
    assert not scene.ledger.unaccepted()
    assert not scene.ledger.missing()


def test_doubled_even_under_another_number(scene: Scene) -> None:
    scene.send(0)
    scene.show(scene.bob, 0)
    scene.show(scene.bob, 0, seq=1)
    assert scene.found == ["doubled"]


def test_disordered_and_holes(scene: Scene) -> None:
    for number in range(3):
        scene.send(number)
    for number in (0, 2, 1):
        scene.show(scene.bob, number)
    assert scene.found == ["holes", "disordered"]


def test_a_stream_begins_at_its_beginning_for_who_was_there(scene: Scene) -> None:
    for number in range(2):
        scene.send(number)
    scene.show(scene.bob, 1)
    assert scene.found == ["holes"]


def test_a_device_that_came_later_begins_where_the_stream_was(scene: Scene) -> None:
    late = scene.ledger.screen(BOB, "late", None)
    for number in range(4):
        scene.send(number)
    scene.show(late, 1)
    late.since = 12.0  # t2 is composed then
    assert [sent.token for screen, sent in scene.ledger.missing() if screen is late] == ["t2", "t3"]
    scene.show(late, 3)
    assert scene.found == ["holes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "t0 other"},
        {"text": "t9 text"},
        {"text": ""},
        {"sender": EVE},
        {"conversation": f"u{EVE}"},
        {"conversation": "g7"},
    ],
)
def test_foreign(scene: Scene, changes: dict[str, object]) -> None:
    scene.send(0)
    scene.show(scene.bob, 0, **changes)  # type: ignore[arg-type]
    assert scene.found == ["foreign"]


def test_shown_to_somebody_else(scene: Scene) -> None:
    scene.send(0)
    scene.show(scene.ledger.screen(EVE, "eve", 0.0), 0)
    assert scene.found == ["foreign"]
    assert len(scene.ledger.missing()) == 2  # Eve's device has nothing to show


def test_an_answer_sorts_behind_what_was_seen(scene: Scene) -> None:
    scene.send(0, seen=100)
    scene.show(scene.bob, 0, sent_at=100)
    assert scene.found == ["before"]


def test_a_group_goes_to_its_members(scene: Scene) -> None:
    scene.send(0, f"g{GROUP}")
    for screen in (scene.ann, scene.bob):
        scene.show(screen, 0, conversation=f"g{GROUP}")
    assert scene.found == []
    assert not scene.ledger.missing()
    assert scene.ledger.conversations(BOB) == {f"g{GROUP}"}
    assert scene.ledger.conversations(EVE) == set()


def rows(*numbers: int) -> list[tuple[str, int, int, int, int]]:
    """Newest first."""
    return [(f"t{n} text", ANN, 5, n, 100 + n) for n in numbers]


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (rows(2, 1, 0), []),
        (rows(2, 1), ["history_holes", "history_lost"]),
        (rows(2, 0), ["history_holes", "history_lost"]),
        (rows(1, 0), ["history_lost"]),
        (rows(2, 1, 1, 0), ["history_doubled", "history_disordered"]),
        (rows(1, 2, 0), ["history_disordered", "history_disordered", "history_holes"]),
        ([*rows(2, 1, 0), ("t8 text", ANN, 5, 0, 1)], ["history_foreign"]),
    ],
)
def test_histories(scene: Scene, history: list[tuple[str, int, int, int, int]], found: list[str]) -> None:
    for number in range(3):
        scene.send(number)
    scene.ledger.history(BOB, f"u{ANN}", history)
    assert scene.found == found


def test_history_without_what_was_shown(scene: Scene) -> None:
    scene.send(0, accepted=False)
    scene.show(scene.bob, 0)
    scene.ledger.history(BOB, f"u{ANN}", [])
    assert scene.found == ["history_differs"]


def test_complete(scene: Scene) -> None:
    scene.send(0)
    scene.send(1, accepted=False)
    assert scene.ledger.complete(BOB, f"u{ANN}", {"t0"})
    assert not scene.ledger.complete(BOB, f"u{ANN}", set())
