"""The histogram's promises: exact count, mean and maximum; quantiles at most 1/128 above the truth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat.tools.load.histogram import SUB, Histogram

values = st.lists(st.integers(0, 2**33), min_size=1, max_size=200)


def filled(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


@given(values, st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_the_true_one_or_a_little_above(numbers: list[int], q: float) -> None:
    rank = max(1, -(-int(q * len(numbers) * 1_000_000) // 1_000_000))
    true = sorted(numbers)[rank - 1]
    found = filled(numbers).quantile(q)
    assert true <= found <= true + true // SUB + 1


@given(values)
def test_count_mean_and_maximum_are_exact(numbers: list[int]) -> None:
    histogram = filled(numbers)
    assert histogram.count == len(numbers)
    assert histogram.longest == max(numbers)
    assert histogram.mean == sum(numbers) / len(numbers)


@given(values, values)
def test_merging_is_adding_both(one: list[int], other: list[int]) -> None:
    merged = filled(one)
    merged.merge(filled(other))
    assert merged.summary() == filled(one + other).summary()


def test_nothing_measured() -> None:
    assert Histogram().summary() == {"count": 0, "mean_ms": 0.0, "p50_ms": 0, "p99_ms": 0, "p999_ms": 0, "max_ms": 0}


def test_beyond_the_last_bucket_the_maximum_stays_exact() -> None:
    histogram = filled([2**40, 2**50])
    assert histogram.longest == 2**50
    assert histogram.quantile(1.0) <= 2**50


def test_a_negative_difference_of_clocks_counts_as_nothing() -> None:
    assert filled([-3]).longest == 0
