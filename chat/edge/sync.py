"""`sync` and `fetch`: what a device has missed, from the end of the log and one snapshot of what is stored.

1. E = end of the timeline's partition, asked for after the request came (and so after the session's location was
   written: nothing falls between a sync and the deliveries)
2. wait, for a bounded time, until persist has stored everything below E
3. one snapshot for all that are ready: how far persist is, rows, stays in the group, stream heads
4. what the rules make of it (`pages.answer`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio

from chat.edge.batcher import Batcher
from chat.edge.context import Context, Session
from chat.edge.pages import Answer, Span, answer, fitting, is_in, nothing_known, sees, span_after, too_old
from chat.errors import ChatError, PartError, Unavailable
from chat.persist.history import FIRST_ROWS, History, Ids, Page, Wanted
from chat.persist.queries import Interval
from chat.persist.row import Row
from chat.protocol import LIMIT_MAX, MEMBERSHIP_KINDS, Fetch, Reply, Sync, decode_message, raw_list
from chat.records import group_timeline, user_timeline

SYNCS_AT_ONCE = 48  # in one snapshot
SNAPSHOTS_AT_ONCE = 2
SYNCS_WAITING = 8_192
DAY_MS = 86_400_000
AWAY_S = 0.3  # what a sync waits for MySQL that is known to be away
EVERY_PAGE_S = 10.0  # a sync waits no longer for its snapshot


class SyncedBytes(Reply, tag="synced", kw_only=True):
    """`protocol.Synced` with what is encoded already."""

    timeline: str
    messages: msgspec.Raw
    upto: int
    complete: bool
    heads: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    too_old: bool = False


class FetchedBytes(Reply, tag="fetched", kw_only=True):
    """`protocol.Fetched` likewise."""

    messages: msgspec.Raw
    void: list[int]
    pending: list[int]


class Ask(NamedTuple):
    timeline: str
    user: int
    group: int | None
    after: int
    limit: int
    fresh: bool
    end: int | None


class Judged(NamedTuple):
    answer: Answer
    stays: Sequence[Interval]
    upto: int  # how far persist is
    archived: bool = False  # no answer yet: some of it is in the archive


_NOTHING = nothing_known(0)
_ARCHIVED = Judged(_NOTHING, (), 0, archived=True)


class Pages:
    """Serves the syncs that are ready, many in one snapshot. Most have missed little: all are looked up with a few rows
    each, and those that have more once more, in a second snapshot, with as many as they want. The few that reach into the
    archive are read each by itself, so that none waits for files that it does not need."""

    def __init__(self, history: History, *, too_old_messages: int, stream_days: int) -> None:
        self._history = history
        self._too_old = too_old_messages
        self._stream_ms = stream_days * DAY_MS
        self._batcher = Batcher[tuple[Ask, int], Judged](
            self._serve,
            size=SYNCS_AT_ONCE,
            room=SYNCS_WAITING,
            workers=SNAPSHOTS_AT_ONCE,
            seconds=EVERY_PAGE_S,
            part="mysql",
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._batcher.run(task_status=task_status)

    async def ask(self, ask: Ask, now: int) -> Judged:
        """Raises PartError, or Unavailable when too many wait."""
        judged = await self._batcher.ask((ask, now))
        return await self._archived(ask, now) if judged.archived else judged

    async def _archived(self, ask: Ask, now: int) -> Judged:
        member = None if ask.group is None else (ask.group, ask.user)
        stays = await self._history.stays([member] if member else [])
        span = span_after(ask.after, stays.get(member, []) if member else None)
        wanted = self._longer(self._wanted(ask, span, now), ask, now)
        page = await self._history.whole(wanted)
        if page.beyond:
            return Judged(too_old(page, end=ask.end, own=ask.group is None, me=ask.user), page.stays, page.upto)
        return _answer(ask, span, page)

    async def _serve(self, batch: Sequence[tuple[Ask, int]]) -> list[Judged | Exception]:
        stays = await self._history.stays([(a.group, a.user) for a, _ in batch if a.group is not None])
        spans: list[Span | None] = []
        wanted: list[Wanted] = []
        for ask, now in batch:
            span = span_after(ask.after, None if ask.group is None else stays.get((ask.group, ask.user), []))
            spans.append(span)
            wanted.append(self._wanted(ask, span, now))
        pages = await self._history.pages(wanted)
        answers: list[Judged | Exception] = [Judged(_NOTHING, (), 0)] * len(batch)
        longer: list[int] = []  # numbers of those that have more than was looked at
        for n, ((ask, _), span, page) in enumerate(zip(batch, spans, pages, strict=True)):
            cut = len(page.rows) > wanted[n].limit
            if page.cold:
                answers[n] = _ARCHIVED
            elif cut and (ask.limit > FIRST_ROWS or page.upto - ask.after > self._too_old):
                longer.append(n)
            else:
                answers[n] = _answer(ask, span, page)
        if longer:
            again = [self._longer(wanted[n], *batch[n], upto=pages[n].upto) for n in longer]
            for n, page in zip(longer, await self._history.pages(again), strict=True):
                ask = batch[n][0]
                answers[n] = _ARCHIVED if page.cold else _answer(ask, spans[n], page)
                if page.beyond and not page.cold:
                    old = too_old(page, end=ask.end, own=ask.group is None, me=ask.user)
                    answers[n] = Judged(old, page.stays, page.upto)
        return answers

    def _longer(self, wanted: Wanted, ask: Ask, now: int, *, upto: int | None = None) -> Wanted:
        """The whole page; and, where it is (or may be) far behind, whether it is too far."""
        wanted = wanted._replace(limit=ask.limit)
        if upto is None or upto - ask.after > self._too_old:
            wanted = wanted._replace(probe=self._too_old, heads_since=now - self._stream_ms)
        return wanted

    def _wanted(self, ask: Ask, span: Span | None, now: int) -> Wanted:
        span = span or Span(ask.after, ask.after)  # an empty range where there is nothing to see
        return Wanted(
            ask.timeline,
            span.above,
            span.below,
            min(ask.limit, FIRST_ROWS),
            member=None if ask.group is None else (ask.group, ask.user),
            heads_since=now - self._stream_ms if ask.fresh else None,
        )


def _answer(ask: Ask, span: Span | None, page: Page) -> Judged:
    made = answer(
        page,
        after=ask.after,
        end=ask.end,
        span=span,
        limit=ask.limit,
        own=ask.group is None,
        me=ask.user,
        fresh=ask.fresh,
    )
    return Judged(made, page.stays, page.upto)


# ------------------------------------------------------------------ handlers


async def sync(context: Context, session: Session, request: Sync) -> SyncedBytes:
    timeline, user = request.timeline, session.user
    group = None if timeline[0] == "u" else int(timeline[1:])
    if group is None and timeline != user_timeline(user):
        raise ChatError("forbidden", "not your timeline")
    if group is not None and group >= 2**53:
        raise ChatError("bad_request", "no such group")
    end = await _stored_to_end(context, timeline)
    ask = Ask(timeline, user, group, request.after, min(request.limit, LIMIT_MAX), request.fresh, end)
    try:
        judged = await context.services.pages.ask(ask, context.clock.now())
    except (PartError, Unavailable):
        return _synced(timeline, nothing_known(request.after))
    given = judged.answer
    if group is not None:
        if not judged.stays:
            if end is not None and judged.upto >= end:
                raise ChatError("forbidden", "not a member of the group")
            return _synced(timeline, nothing_known(request.after))  # a join may be on its way
        if is_in(judged.stays) and group not in context.hub.groups_of(user):
            # E was asked for before this edge is written down for the group: the hint makes the session sync once more
            await context.hub.join(user, group)
            context.services.logins.check_later(user)  # he may be out again: the log is ahead of what was read
    else:
        await follow_membership(context, user, given.rows)
        asked = [(r.position, r.sender, r.stream, r.seq) for r in given.rows if r.receipt and r.sender != user]
        entries = [(p, sender, stream, seq) for p, sender, stream, seq in asked if stream is not None and seq is not None]
        if entries:
            session.note_receipts(timeline, entries)
    return _synced(timeline, given)


def _synced(timeline: str, given: Answer) -> SyncedBytes:
    return SyncedBytes(
        timeline=timeline,
        messages=msgspec.Raw(raw_list(list(given.frames))),
        upto=given.upto,
        complete=given.complete,
        heads=msgspec.UNSET if given.heads is None else msgspec.Raw(raw_list(list(given.heads))),
        too_old=given.too_old,
    )


async def _stored_to_end(context: Context, timeline: str) -> int | None:
    """E, when persist has reached it or the time is over; None where Kafka does not tell it."""
    guard = context.services.guard
    if guard.away:  # nobody's progress can be seen: come back soon, or be answered that nothing is known
        with trio.move_on_after(AWAY_S):
            await guard.wait_mended()
    try:
        end = (await context.progress.end([timeline]))[timeline]
    except (PartError, Unavailable):
        return None
    if not guard.away:
        await context.progress.reached({timeline: end}, context.config.sync_wait_ms / 1_000)
    return end


async def follow_membership(context: Context, user: int, rows: Sequence[Row]) -> None:
    """Rows of the user's own timeline tell of groups joined and left, maybe long ago: what holds now is looked up, and
    registered where the hub does not know it."""
    groups: set[int] = set()
    for row in rows:
        if row.kind in MEMBERSHIP_KINDS:
            extra = decode_message(row.body).extra
            group = extra.get("group") if isinstance(extra, dict) else None
            if isinstance(group, int):
                groups.add(group)
    if not groups:
        return
    try:
        stays = await context.services.history.stays([(g, user) for g in sorted(groups)])
    except PartError:
        return  # its rows came from there a moment ago; the next sync of the group's timeline registers it too
    known = context.hub.groups_of(user)
    for group in groups:
        inside = is_in(stays.get((group, user), []))
        if inside != (group in known):
            context.services.logins.check_later(user)  # the log is ahead of what was read
        if inside and group not in known:
            await context.hub.join(user, group)
        elif not inside and group in known:
            await context.hub.leave(user, group)


async def fetch(context: Context, session: Session, request: Fetch) -> FetchedBytes:
    """Void is what is not in the log up to a position beyond the message that opened the gap: the end of the log, asked
    for after the request came, must be stored."""
    if (request.to is None) == (request.group is None):
        raise ChatError("bad_request", "either `to` or `group`")
    me, seqs = session.user, list(dict.fromkeys(request.seqs))
    member = None
    if request.group is not None:
        timeline = conversation = group_timeline(request.group)
        member = (request.group, me)
    else:
        if me not in (request.sender, request.to):
            return FetchedBytes(messages=msgspec.Raw(b"[]"), void=seqs, pending=[])  # not his to see
        timeline = user_timeline(me)
        conversation = f"u{request.to if request.sender == me else request.sender}"
    end = await _stored_to_end(context, timeline)
    try:
        found = await context.services.history.find(
            Ids(timeline, conversation, request.sender, request.stream, seqs, member)
        )
    except PartError:
        return FetchedBytes(messages=msgspec.Raw(b"[]"), void=[], pending=seqs)
    visible = [r for r in found.rows if member is None or sees(found.stays, r.position)]
    frames = fitting([r for r in visible if r.body], len(visible))
    given = {r.seq for r in visible[: len(frames)]}
    unsent = {r.seq for r in visible[len(frames) :]}
    whole = end is not None and found.upto >= end
    return FetchedBytes(
        messages=msgspec.Raw(raw_list(frames)),
        void=[s for s in seqs if whole and s not in given and s not in unsent],
        pending=[s for s in seqs if s in unsent or (not whole and s not in given)],
    )
