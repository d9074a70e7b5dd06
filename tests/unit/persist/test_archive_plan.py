"""The archiver's plan by properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat.config import ArchiveConfig
from chat.persist.archive.plan import (
    DAY_MS,
    HOUR_MS,
    WINDOW_ROWS,
    YOUNG_MS,
    Bin,
    Fate,
    Past,
    due,
    fate,
    is_full,
    limit_by_rows,
    slack,
    window_rows,
)

NOW = 1_800_000_000_000
bins = st.lists(st.integers(1, 1_000), max_size=40).map(lambda rows: [Bin(NOW + n * HOUR_MS, r) for n, r in enumerate(rows)])


@given(bins, st.integers(0, 20_000))
def test_as_many_are_kept_as_are_to_be_and_no_bin_is_cut(found: list[Bin], keep: int) -> None:
    limit = limit_by_rows(found, keep)
    left = [b for b in found if limit is None or b.begin >= limit]
    assert left == found[len(found) - len(left) :]
    if limit is None:
        assert sum(b.rows for b in found) <= keep or len(found) == 1
    else:
        # no bin more than needed has gone, and the youngest stays
        gone = found[len(found) - len(left) - 1]
        assert left
        assert sum(b.rows for b in left) + gone.rows > keep
        assert sum(b.rows for b in left) <= keep or len(left) == 1


@given(st.integers(0, 10_000), st.integers(0, 1 << 30), st.integers(-60_000, 60_000), st.integers(1, 100_000))
def test_windows_are_bounded_and_always_go_on(rows: int, size: int, room: int, slice_rows: int) -> None:
    wanted = window_rows(rows, size, room, slice_rows)
    assert 1 <= wanted <= WINDOW_ROWS
    if room >= slice_rows // 8 and not is_full(slice_rows - room, 0, slice_rows):
        assert wanted <= max(1, room)


@given(st.one_of(st.none(), st.integers(0, 3 * DAY_MS)), bins, st.integers(1, 10_000), st.floats(0, 100))
def test_a_look_does_by_age_what_is_due_once_a_day_and_by_rows_at_once(
    ago: int | None, found: list[Bin], most: int, age_days: float
) -> None:
    config = ArchiveConfig(url="x", age_days=age_days, max_rows=most, keep_rows=most // 2, retention_days=200.0)
    now = NOW + 50 * HOUR_MS
    past = Past(None if ago is None else now - ago, 0)
    wanted = due(config, now, past, found)
    daily = ago is None or ago >= DAY_MS
    many = sum(b.rows for b in found) > most
    assert wanted.expire == daily
    assert (wanted.why != "") == (daily or wanted.why == "rows")
    assert wanted.before <= now - YOUNG_MS
    if wanted.why == "rows":
        assert many
        assert wanted.before > min(now - int(age_days * DAY_MS), now - YOUNG_MS) or wanted.before == now - YOUNG_MS
    if wanted.why == "age":
        assert wanted.before == min(now - int(age_days * DAY_MS), now - YOUNG_MS)


@given(st.integers(0, 10**13), st.integers(0, 10**10), st.integers(0, 10**13), st.floats(0.01, 5_000))
def test_what_is_too_old_goes_in_bounded_time(oldest: int, width: int, before: int, days: float) -> None:
    extra = slack(days)
    assert extra >= DAY_MS
    what = fate(oldest, oldest + width, before, extra)
    if what is Fate.DROP:
        assert oldest + width < before
    if what is Fate.KEEP:  # nothing in it is too old for longer than the slack
        assert oldest >= before - extra
    if what is Fate.REWRITE:
        assert oldest < before <= oldest + width
