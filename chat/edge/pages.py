"""What a sync answers, from a snapshot: the rules of DESIGN section 4. Pure.

`stays` are the caller's in a group; None in his own timeline, where he may see everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from chat.persist.history import Page, StreamHead
from chat.persist.queries import Interval
from chat.persist.row import Row
from chat.protocol import Head, encode

BUDGET: Final = 1_000_000  # bytes of messages in an answer; the frame's limit is 1 MiB
HEADS_BUDGET: Final = 1_030_000  # of messages and heads


class Span(NamedTuple):
    """above < position < below (None: no end)."""

    above: int
    below: int | None


class Answer(NamedTuple):
    """`frames` are the messages as they are sent, `rows` the same rows. `heads` None: not brought."""

    frames: Sequence[bytes]
    rows: Sequence[Row]
    upto: int
    complete: bool
    heads: Sequence[bytes] | None = None
    too_old: bool = False


def span_after(after: int, stays: Sequence[Interval] | None) -> Span | None:
    """The first stretch above `after` that the caller may see without a break; None: there is none."""
    if stays is None:
        return Span(after, None)
    for first, last in stays:
        if last is None or last > after:
            return Span(max(after, first - 1), None if last is None else last + 1)
    return None


def sees(stays: Sequence[Interval] | None, position: int) -> bool:
    return stays is None or any(first <= position and (last is None or position <= last) for first, last in stays)


def is_in(stays: Sequence[Interval]) -> bool:
    """Is the caller in the group now?"""
    return any(last is None for _, last in stays)


def nothing_known(after: int) -> Answer:
    """Nothing can be said (MySQL away): ask again."""
    return Answer((), (), after + 1, False)


def fitting(rows: Sequence[Row], limit: int, budget: int = BUDGET) -> list[bytes]:
    """The frames of the first rows, as many as `limit` and the budget allow, but one at least."""
    frames: list[bytes] = []
    size = 0
    for row in rows[:limit]:
        frame = row.frame()
        size += len(frame) + 1
        if frames and size > budget:
            break
        frames.append(frame)
    return frames


def answer(
    page: Page, *, after: int, end: int | None, span: Span | None, limit: int, own: bool, me: int, fresh: bool
) -> Answer:
    """The answer to a sync that asked for what is above `after`. `end`: E, None where Kafka did not tell. `span`: what the
    page's rows were read from; the stays of its own snapshot may be newer, and count."""
    stays = None if own else page.stays
    rows = [r for r in page.rows if r.position < page.upto]
    frames = fitting(rows, limit)
    taken = rows[: len(frames)]
    cut, upto = len(rows) > len(taken), page.upto
    if cut:
        upto = taken[-1].position + 1
    else:
        read_to = after if span is None else upto if span.below is None else span.below - 1
        more = span_after(read_to, stays)
        if more is not None and more.above + 1 < upto:  # a later stay: its rows were not read
            cut, upto = True, more.above + 1
    visible = [(r, f) for r, f in zip(taken, frames, strict=True) if sees(stays, r.position)]
    heads = None
    # While persist is behind what the device has, heads are older than its place, and would mislead it.
    if fresh and not cut and (upto > after or (end is not None and upto >= end)):
        heads = head_list(page.heads or (), own=own, me=me, stays=stays)
        if sum(map(len, frames)) + sum(map(len, heads)) > HEADS_BUDGET and taken:
            heads, cut, upto = None, True, taken[-1].position + 1
    complete = end is not None and upto >= end and not cut
    return Answer([f for _, f in visible], [r for r, _ in visible], upto, complete, heads)


def too_old(page: Page, *, end: int | None, own: bool, me: int) -> Answer:
    """Begin at the end of what is stored, with the heads."""
    stays = None if own else page.stays
    heads = head_list(page.heads or (), own=own, me=me, stays=stays)
    return Answer((), (), page.upto, end is not None and page.upto >= end, heads, too_old=True)


def head_list(heads: Sequence[StreamHead], *, own: bool, me: int, stays: Sequence[Interval] | None) -> list[bytes]:
    """As sent. A former member gets none of the streams that went on without him."""
    last = None if stays is None or is_in(stays) else max((s.last or 0 for s in stays), default=0)
    return [encode(head_of(h, own=own, me=me)) for h in heads if last is None or h.last_position <= last]


def head_of(head: StreamHead, *, own: bool, me: int) -> Head:
    if not own:
        return Head(sender=head.sender, group=int(head.conversation[1:]), stream=head.stream, next=head.next)
    to = int(head.conversation[1:]) if head.sender == me else me
    return Head(sender=head.sender, to=to, stream=head.stream, next=head.next)
