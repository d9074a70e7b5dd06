"""The executable specification holds, and it sees what each rule is for. `delivery_model.py` alone searches for longer."""

import time

import pytest

from tests.model import delivery_model as model

SECONDS = 4.0
RUNS = 6_000  # for a flaw; most are found in the first few hundred

#: flaw → kinds of violation that it may show as. The client's rules, and some of each other part.
FLAWS = {
    "take_unchained": {"CURSOR PASSES", "HOLE", "LOST"},
    "buffer_first": {"SHOWN TWICE", "HOLE", "CURSOR PASSES", "LOST"},
    "known_rows": {"NO END"},
    "amnesia_live": {"SHOWN AGAIN", "HOLE", "CURSOR PASSES"},
    "heads_behind": {"HOLE", "SHOWN AGAIN"},
    "upto_cut": {"CURSOR PASSES", "HOLE", "LOST"},
    "ack_one": {"LOST"},
    "prev_forgot": {"CURSOR PASSES", "HOLE", "LOST"},
    "outbox_rollback": {"LOST", "HIDDEN"},
    "incomplete_ends": {"STUCK"},
    "hint_absorbed": {"STUCK"},
}


#: Where the search begins, for what is rare.
SEEDS = {"amnesia_live": 2_000}


def test_the_design_keeps_its_promises() -> None:
    end, seed = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        violation, trace, _ = model.run(frozenset(), seed)
        assert violation is None, f"seed {seed}: {violation}, {trace}"
        seed += 1
    assert seed > 0


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_found(flaw: str) -> None:
    assert flaw in model.FLAWS
    first = SEEDS.get(flaw, 0)
    for seed in range(first, first + RUNS):
        violation, _, _ = model.run(frozenset({flaw}), seed)
        if violation is not None:
            assert violation.kind in FLAWS[flaw]
            return
    pytest.fail(f"{flaw} was not found in {RUNS} runs")
