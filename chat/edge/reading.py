"""`conversations`, `history` and `search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import trio

from chat.edge.context import Context, Session
from chat.edge.pages import BUDGET
from chat.edge.paging import pack, unpack
from chat.errors import ChatError
from chat.persist.browse import IN_GROUPS, MOST_UNREAD, TEXT, Before, Browse, Key, Source, Stay
from chat.persist.row import Row
from chat.protocol import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Conversations,
    Delivered,
    History,
    Reply,
    Search,
    decode_message,
    raw_list,
)
from chat.records import group_timeline, user_timeline

SCAN_ROWS = 2_000  # that a search looks at in one request
SCAN_BYTES = 8 << 20
CHUNK_ROWS = 200  # of them at once, so that others have their turn
CHUNK_BYTES = 1 << 20


class HistoryBytes(Reply, tag="history", kw_only=True):
    """`protocol.HistoryReply` with what is encoded already."""

    messages: msgspec.Raw
    next: str | None = msgspec.field(default=msgspec.UNSET)  # type: ignore[assignment]  # always given, may be null


class ConversationBytes(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`protocol.Conversation` likewise."""

    unread: int = msgspec.field(default=msgspec.UNSET)  # type: ignore[assignment]  # always given
    to: int | None = None
    group: int | None = None
    last: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    read: int | msgspec.UnsetType = msgspec.UNSET
    delivered: Delivered | msgspec.UnsetType = msgspec.UNSET
    mine: int | msgspec.UnsetType = msgspec.UNSET


class ConversationsBytes(Reply, tag="conversations", kw_only=True):
    conversations: list[ConversationBytes]
    next: str | None = msgspec.field(default=msgspec.UNSET)  # type: ignore[assignment]  # always given, may be null


# ------------------------------------------------------------------ history


async def history(context: Context, session: Session, request: History) -> HistoryBytes:
    limit = min(request.limit, LIMIT_MAX)
    conversation, sources = await _sources(context, session, request.to, request.group, IN_GROUPS)
    before = _before("h", request.before, conversation, sources)
    browse: Browse = context.services.browse
    keys, horizon = await browse.newest(sources, before, limit + 1)
    chosen = _fitting(keys[:limit], BUDGET)
    rows = await browse.rows(chosen)
    frames = [row.frame() for k in chosen if (row := rows.get((k.timeline, k.position))) is not None]
    if len(keys) > len(chosen):
        horizon = Before(*chosen[-1][:3])
    cursor = pack("h", conversation, horizon.sent_at, horizon.position) if horizon is not None else None
    return HistoryBytes(messages=msgspec.Raw(raw_list(frames)), next=cursor)


async def _sources(
    context: Context, session: Session, to: int | None, group: int | None, kinds: tuple[str, ...]
) -> tuple[str, list[Source]]:
    """The conversation's name, and the parts of it that the caller may see. Raises bad_request, forbidden."""
    if (to is None) == (group is None):
        raise ChatError("bad_request", "either `to` or `group`")
    if group is None:
        conversation = f"u{to}"
        return conversation, [Source(user_timeline(session.user), conversation, TEXT)]
    conversation = group_timeline(group)
    stays = await context.services.browse.stays(session.user, group)
    if not stays:
        raise ChatError("forbidden", "not a member of the group")
    return conversation, [Source(conversation, conversation, kinds, stay) for stay in stays]


def _before(kind: str, cursor: str | None, conversation: str, sources: Sequence[Source]) -> Before | None:
    if cursor is None:
        return None
    of, sent_at, position = unpack(cursor, kind, str, int, int)
    if of != conversation:
        raise ChatError("bad_request", "a cursor of another conversation")
    return Before(sent_at, position, sources[0].timeline)


def _fitting(keys: Sequence[Key], budget: int) -> list[Key]:
    """As many as fit the bytes, but one at least."""
    chosen: list[Key] = []
    size = 0
    for key in keys:
        size += key.size + 32  # its position and comma
        if chosen and size > budget:
            break
        chosen.append(key)
    return chosen


# ------------------------------------------------------------------ search


class Asked(NamedTuple):
    """`needle` is case folded; `limit` of matches; of hot bodies about `budget` bytes are looked at."""

    needle: str
    limit: int
    budget: int


class Seen(NamedTuple):
    """Matches, newest first; all that there are at or above the horizon (None: all that there are)."""

    matches: Sequence[tuple[Key, Row]]
    horizon: Before | None


async def search(context: Context, session: Session, request: Search) -> HistoryBytes:
    """A bounded number of messages is looked at; a page may be short, or empty, and have a `next`."""
    browse: Browse = context.services.browse
    needle, limit = request.text.casefold(), min(request.limit, LIMIT_MAX)
    if request.to is None and request.group is None:
        return await _search_everything(browse, session.user, request.before, needle, limit)
    conversation, sources = await _sources(context, session, request.to, request.group, TEXT)
    before = _before("s", request.before, conversation, sources)
    seen = await _look(browse, sources, before, Asked(needle, limit, SCAN_BYTES), SCAN_ROWS)
    chosen = _fitting([key for key, _ in seen.matches[:limit]], BUDGET)
    horizon = Before(*chosen[-1][:3]) if len(chosen) < len(seen.matches) else seen.horizon
    cursor = None if horizon is None else pack("s", conversation, horizon.sent_at, horizon.position)
    return HistoryBytes(messages=msgspec.Raw(raw_list([row.frame() for _, row in seen.matches[: len(chosen)]])), next=cursor)


async def _look(browse: Browse, sources: Sequence[Source], before: Before | None, asked: Asked, each: int) -> Seen:
    """The newest matches of conversations: hot first, archived ones where the hot do not fill a page."""
    scan = await browse.scan(sources, before, each)
    matches, looked = await _matching(browse, scan.keys, asked)
    horizon = scan.horizon if looked == len(scan.keys) else Before(*scan.keys[looked - 1][:3])
    edge = horizon if len(matches) < asked.limit else Before(*matches[-1][0][:3])
    if scan.archived is None:
        return Seen(matches, horizon)
    if edge is not None and scan.archived < edge.sent_at:
        return Seen(matches, horizon or edge)
    cold = await browse.search(sources, before, asked.needle, asked.limit, None if horizon is None else horizon.sent_at)
    return _both(Seen(matches, horizon), Seen(cold.rows, cold.horizon), lambda key: key[:3])


async def _look_timeline(browse: Browse, timeline: str, below: int, asked: Asked) -> Seen:
    """The same of a timeline, by position."""
    scan = await browse.scan_timeline(timeline, below, SCAN_ROWS)
    matches, looked = await _matching(browse, scan.keys, asked)
    horizon = scan.horizon if looked == len(scan.keys) else Before(0, scan.keys[looked - 1].position, timeline)
    edge = horizon if len(matches) < asked.limit else Before(0, matches[-1][0].position, timeline)
    if scan.archived is None:
        return Seen(matches, horizon)
    if edge is not None and scan.archived < edge.position:
        return Seen(matches, horizon or edge)
    cold = await browse.search_timeline(timeline, below, asked.needle, asked.limit)
    return _both(Seen(matches, horizon), Seen(cold.rows, cold.horizon), lambda key: (0, key.position, timeline))


def _both(hot: Seen, cold: Seen, order: Callable[[Key], tuple[int, int, str]]) -> Seen:
    """As one. What was archived between the two reads is in both."""
    horizon = max((h for h in (hot.horizon, cold.horizon) if h is not None), default=None)
    known = {(key.timeline, key.position): (key, row) for key, row in (*cold.matches, *hot.matches)}
    matches = sorted(known.values(), key=lambda match: order(match[0]), reverse=True)
    return Seen([m for m in matches if horizon is None or order(m[0]) >= horizon], horizon)


async def _matching(browse: Browse, keys: Sequence[Key], asked: Asked) -> tuple[list[tuple[Key, Row]], int]:
    """Of the keys in their order, those whose text contains the needle, and how many keys were looked at."""
    found: list[tuple[Key, Row]] = []
    looked = scanned = 0
    while looked < len(keys) and scanned < asked.budget:
        chunk = _fitting(keys[looked : looked + CHUNK_ROWS], CHUNK_BYTES)
        scanned += sum(k.size for k in chunk)
        rows = await browse.rows(chunk)
        for key in chunk:
            row = rows.get((key.timeline, key.position))
            looked += 1
            if row is not None and _contains(row, asked.needle):
                found.append((key, row))
                if len(found) >= asked.limit:
                    return found, looked
        await trio.lowlevel.checkpoint()
    return found, looked


def _contains(row: Row, needle: str) -> bool:
    text = decode_message(row.body).text
    return isinstance(text, str) and needle in text.casefold()


# ------------------------------------------------------------------ search in everything

NOTHING_LEFT = Before(0, 0, "-")


async def _search_everything(browse: Browse, user: int, cursor: str | None, needle: str, limit: int) -> HistoryBytes:
    """All conversations: the own timeline from its end, groups by time, merged by time. Each goes on from its own place."""
    own, below, before = user_timeline(user), 2**53 - 1, None
    if cursor is not None:
        below, *place = unpack(cursor, "a", int, int, int, str)
        before = Before(*place) if any(place) else None
    asked = Asked(needle, limit, SCAN_BYTES // 2)
    direct = Seen((), None)
    if below:
        direct = await _look_timeline(browse, own, below, asked)
    in_groups = Seen((), None)
    if before != NOTHING_LEFT:
        stays = await browse.stays(user)
        sources = [Source(t, t, TEXT, stay) for stay in stays for t in (group_timeline(stay.group),)]
        each = max(20, SCAN_ROWS // max(1, len(sources)))
        if sources:
            in_groups = await _look(browse, sources, before, asked, each)
    frames, i, j = _by_time(direct, in_groups, limit)
    if i < len(direct.matches):
        below = direct.matches[i][0].position + 1
    else:
        below = 0 if direct.horizon is None else direct.horizon.position
    rest = in_groups.matches[j:]
    before = _just_above(rest[0][0]) if rest else in_groups.horizon or NOTHING_LEFT
    more = below or before != NOTHING_LEFT
    return HistoryBytes(messages=msgspec.Raw(raw_list(frames)), next=pack("a", below, *before) if more else None)


def _by_time(direct: Seen, in_groups: Seen, limit: int) -> tuple[list[bytes], int, int]:
    """A page of both, the newest first, and how many of each it has. It ends where what comes next is not known."""
    frames: list[bytes] = []
    size = i = j = 0
    while len(frames) < limit:
        one = direct.matches[i] if i < len(direct.matches) else None
        other = in_groups.matches[j] if j < len(in_groups.matches) else None
        if (one is None and direct.horizon is not None) or (other is None and in_groups.horizon is not None):
            break
        first = one is not None and (other is None or one[0].sent_at >= other[0].sent_at)
        chosen = one if first else other
        if chosen is None:
            break
        frame = chosen[1].frame()
        size += len(frame) + 1
        if frames and size > BUDGET:
            break
        frames.append(frame)
        i, j = (i + 1, j) if first else (i, j + 1)
    return frames, i, j


def _just_above(key: Key) -> Before:
    """A place from which `key` is the next."""
    return Before(key.sent_at, key.position, f"{key.timeline}\0")


# ------------------------------------------------------------------ conversations


async def conversations(context: Context, session: Session, request: Conversations) -> ConversationsBytes:
    """Those with a text that the caller may see; of groups, those he is in."""
    me, browse = session.user, context.services.browse
    before: tuple[int, str] | None = None
    if request.before is not None:
        sent_at, name = unpack(request.before, "c", int, str)
        before = sent_at, name
    direct, stays = await browse.overview(me, before, LIMIT_DEFAULT + 1)
    inside: dict[int, list[Stay]] = {}
    for stay in stays:
        inside.setdefault(stay.group, []).append(stay)
    in_groups, mine = await browse.groups_and_marks(me, inside, [name for _, name in direct])
    found = sorted([*direct, *(g for g in in_groups if before is None or g < before)], reverse=True)
    page = found[:LIMIT_DEFAULT]
    listed, given = await _listed(browse, me, page, inside, mine)
    more = len(found) > given
    return ConversationsBytes(conversations=listed, next=pack("c", *page[given - 1]) if more else None)


async def _listed(
    browse: Browse, me: int, page: Sequence[tuple[int, str]], inside: dict[int, list[Stay]], mine: dict[str, int]
) -> tuple[list[ConversationBytes], int]:
    """The page's conversations, and how many of `page` they are: as many as fit a frame."""
    if not page:
        return [], 0
    own = user_timeline(me)
    sources: list[tuple[Source, int]] = []
    parts: list[list[int]] = []  # of each conversation, the numbers of its sources
    for _, name in page:
        if name[0] == "g":
            of_it = [Source(name, name, TEXT, stay) for stay in inside[int(name[1:])]]
        else:
            of_it = [Source(own, name, TEXT)]
        parts.append(list(range(len(sources), len(sources) + len(of_it))))
        sources += [(source, mine.get(name, 0)) for source in of_it]
    others = [int(name[1:]) for _, name in page if name[0] == "u"]
    details = await browse.details(me, sources, others)
    listed: list[ConversationBytes] = []
    size = 0
    for given, ((_, name), numbers) in enumerate(zip(page, parts, strict=True)):
        last = max((details.last[n] for n in numbers if n in details.last), key=lambda r: (r.sent_at, r[0]), default=None)
        if last is None and name[0] == "g":
            continue  # all of it was before he came
        size += 300 + (0 if last is None else len(last.body))
        if given and size > BUDGET:
            return listed, given
        other = int(name[1:])
        one = ConversationBytes(unread=min(MOST_UNREAD, sum(details.unread.get(n, 0) for n in numbers)))
        if last is not None:
            one.last = msgspec.Raw(last.frame())
        if name in mine:
            one.mine = mine[name]
        if name[0] == "g":
            one.group = other
            if name in mine:
                one.read = mine[name]
        else:
            one.to = other
            if other in details.read_by:
                one.read = details.read_by[other]
            if name in details.delivered:
                one.delivered = Delivered(*details.delivered[name])
        listed.append(one)
    return listed, len(page)
