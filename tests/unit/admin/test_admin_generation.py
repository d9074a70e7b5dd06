"""When a new generation may begin."""

from __future__ import annotations

import pytest

from chat.admin.generation import Standing, Verdict, judge
from chat.persist.offsets import Found, Row

TOPIC = "chat.messages"


def standing(
    *, starts: tuple[int, ...] = (0, 0), ends: tuple[int, ...] = (5, 0), stored: tuple[int, ...] = (5, 0),
    routed: tuple[int | None, ...] = (5, None), topic_id: str = "one", begun: bool = False,
) -> Standing:  # fmt: skip
    rows = {n: Row("one", offset) for n, offset in enumerate(stored)}
    return Standing(0, Found(TOPIC, topic_id, starts, ends), rows, dict(enumerate(routed)), 1, begun)


def test_a_whole_topic_that_is_read_out_may_be_followed_by_another_number_of_partitions() -> None:
    assert judge(TOPIC, standing(), 4) == Verdict("", [])


def test_a_whole_topic_is_not_followed_without_a_reason() -> None:
    (why,) = judge(TOPIC, standing(), 2).blockers
    assert "there is no reason" in why
    assert judge(TOPIC, standing(begun=True), 2) == Verdict("", [])  # a run that was cut off is finished


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (standing(stored=(3, 0)), "persist has stored up to 3 of 5"),
        (standing(routed=(4, None)), "the routers are at 4 of 5"),
        (standing(routed=(None, None)), "the routers are at 0 of 5"),
        (standing(starts=(4, 0), stored=(3, 0)), "begins at offset 4, but only 3 is stored"),
        (Standing(0, Found(TOPIC, "one", (0,), (0,)), {}, {}, 1, False), "persist has never run on it"),
        (Standing(0, None, {}, {}, 1, False), "create the topics"),
    ],
)
def test_blockers(found: Standing, said: str) -> None:
    verdict = judge(TOPIC, found, 4)
    assert not verdict.lost
    assert [line for line in verdict.blockers if said in line]


def test_what_was_trimmed_to_its_end_needs_no_commit_of_routers() -> None:
    assert judge(TOPIC, standing(starts=(5, 0), routed=(None, None)), 4) == Verdict("", [])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Standing(0, None, {0: Row("one", 5)}, {}, 1, False), "has no topic"),
        (standing(topic_id="two", ends=(0, 0)), "was made anew"),
        (standing(ends=(4, 0)), "chat.messages/0 ends at offset 4, MySQL has stored up to 5"),
        (standing(starts=(0, 0, 0), ends=(5, 0, 0)), "has 3 partitions, MySQL knows 2"),
    ],
)
def test_a_lost_topic_is_followed_whatever_is_unread(found: Standing, said: str) -> None:
    verdict = judge(TOPIC, found, 2)
    assert said in verdict.lost
    assert verdict.blockers == ()
