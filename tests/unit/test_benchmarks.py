"""The micro-benchmarks run, each with one repetition; what they measure is nobody's promise."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import CASES, main, run
from benchmarks.measure import measure


@pytest.mark.parametrize("name", [name for name in CASES if name != "publish-kafka"])
async def test_each_case_runs(name: str) -> None:
    found = await measure(CASES[name], 1)
    assert found is not None
    assert 0 < found.least_us <= found.median_us <= found.most_us < 10_000


async def test_what_cannot_be_run_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAT_TEST_KAFKA", raising=False)
    assert await run(["publish-kafka"], 1) == []


def test_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAT_TEST_KAFKA", raising=False)
    done = CliRunner().invoke(main, ["route", "publish-kafka", "--repetitions", "1"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "µs" in lines[0]
    assert "not run" in lines[1]
