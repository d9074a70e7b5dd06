"""What a disturbance did to those who stay on line, in numbers. Pure: what was shown when, and when who was on line.

All times are seconds from the disturbance, if not said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from msgspec import Struct

#: A message is late when it is shown this long after it was composed. On an idle machine it takes a hundredth of that.
LATE_S: Final = 1.0


class Seen(NamedTuple):
    """One message on one screen, by one clock."""

    composed: float
    at: float


class Recovery(Struct, kw_only=True):
    """`None`: there was nothing of the kind."""

    first_s: float | None  # the first message that was composed after the disturbance is shown
    last_s: float | None  # the last message that was late is shown: from here on all is as before
    silence_s: float  # the longest time in which nobody was shown anything
    thrown_out: int  # devices that lost their connection
    back_s: float | None  # the last one of them is logged in again
    returned_s: float | None  # the part that was taken away is ready again
    p99_ms: float  # from composing to showing, of what was composed after the disturbance
    max_ms: float
    messages: int  # composed after the disturbance and shown, on all screens


class Presence:
    """When each device went and came. Told at every look; a device that is back between two looks was not seen going."""

    def __init__(self) -> None:
        self._away: dict[int, float] = {}
        self._thrown_out: set[int] = set()
        self._back: float | None = None

    def look(self, now: float, connected: Iterable[bool]) -> None:
        for number, here in enumerate(connected):
            if not here:
                self._away.setdefault(number, now)
                self._thrown_out.add(number)
            elif self._away.pop(number, None) is not None:
                self._back = now

    @property
    def thrown_out(self) -> int:
        return len(self._thrown_out)

    @property
    def back(self) -> float | None:
        return None if self._away else self._back


def measure(shown: Sequence[Seen], presence: Presence, at: float, until: float, returned: float | None = None) -> Recovery:
    """`shown`: on the screens of those who stay. `at`: the disturbance; `until`: the end of the traffic; `returned`: when
    the part was ready again."""
    after = sorted(seen for seen in shown if at <= seen.at)
    new = [seen for seen in after if seen.composed >= at]
    late = [seen.at for seen in after if seen.at - seen.composed > LATE_S]
    moments = [at, *sorted(seen.at for seen in after if seen.at <= until), until]
    delays = sorted(seen.at - seen.composed for seen in new)
    return Recovery(
        first_s=_rounded(min((seen.at for seen in new), default=None), at),
        last_s=_rounded(max(late, default=None), at),
        silence_s=round(max(b - a for a, b in pairwise(moments)), 2),
        thrown_out=presence.thrown_out,
        back_s=_rounded(presence.back, at),
        returned_s=_rounded(returned, at),
        p99_ms=round(quantile(delays, 0.99) * 1000, 1),
        max_ms=round(max(delays, default=0.0) * 1000, 1),
        messages=len(new),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank; 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _rounded(moment: float | None, at: float) -> float | None:
    return None if moment is None else round(moment - at, 2)


Rows = Mapping[str, Recovery]
