"""`conversations`, `history` and `search`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio

from chat.edge.context import Context, Session
from chat.edge.pages import BUDGET
from chat.edge.paging import pack, unpack
from chat.errors import ChatError
from chat.persist.browse import FOREVER, IN_GROUPS, MOST_UNREAD, TEXT, Before, Browse, Key, Source, Stay
from chat.persist.history import Row
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
    keys, _ = await browse.newest(sources, before, limit + 1)
    chosen = _fitting(keys[:limit], BUDGET)
    rows = await browse.rows(chosen)
    frames = [row.frame() for k in chosen if (row := rows.get((k.timeline, k.position))) is not None]
    more = len(keys) > len(chosen)
    cursor = pack("h", conversation, chosen[-1].sent_at, chosen[-1].position) if more else None
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


class Scan(NamedTuple):
    """What a search may look at, newest first. `more`: there is more behind it."""

    keys: Sequence[Key]
    more: bool


async def search(context: Context, session: Session, request: Search) -> HistoryBytes:
    """A bounded number of messages is looked at; a page may be short, or empty, and have a `next`."""
    browse: Browse = context.services.browse
    conversation, before = "", None
    below, own = FOREVER, user_timeline(session.user)
    if request.to is None and request.group is None:
        if request.before is not None:
            below, *rest = unpack(request.before, "a", int, int, int, str)
            before = Before(*rest) if rest[2] else None
        scan = await _everything(browse, session.user, below, before)
    else:
        conversation, sources = await _sources(context, session, request.to, request.group, TEXT)
        before = _before("s", request.before, conversation, sources)
        scan = Scan(*await browse.newest(sources, before, SCAN_ROWS))
    frames, seen = await _matching(browse, scan.keys, request.text.casefold(), min(request.limit, LIMIT_MAX))
    cursor = None
    if seen and (seen < len(scan.keys) or scan.more):
        looked_at = scan.keys[:seen]
        if conversation:
            cursor = pack("s", conversation, looked_at[-1].sent_at, looked_at[-1].position)
        else:
            below = min((k.position for k in looked_at if k.timeline == own), default=below)
            before = next((Before(*k[:3]) for k in reversed(looked_at) if k.timeline != own), before)
            cursor = pack("a", min(below, 2**53 - 1), *(before or (0, 0, "")))
    return HistoryBytes(messages=msgspec.Raw(raw_list(frames)), next=cursor)


async def _everything(browse: Browse, user: int, below: int, before: Before | None) -> Scan:
    """All conversations: the own timeline from its end, groups by time, merged by time."""
    stays = await browse.stays(user)
    sources = [Source(t, t, TEXT, stay) for stay in stays for t in (group_timeline(stay.group),)]
    own = await browse.newest_of(user_timeline(user), below, SCAN_ROWS)
    each = max(20, SCAN_ROWS // max(1, len(sources)))
    in_groups, more_in_groups = await browse.newest(sources, before, each)
    more_own = len(own) >= SCAN_ROWS
    keys: list[Key] = []
    i = j = 0
    while len(keys) < SCAN_ROWS:
        if (i == len(own) and more_own) or (j == len(in_groups) and more_in_groups):
            break  # what comes next is not known
        if i == len(own) and j == len(in_groups):
            return Scan(keys, False)
        if j == len(in_groups) or (i < len(own) and own[i].sent_at >= in_groups[j].sent_at):
            keys.append(own[i])
            i += 1
        else:
            keys.append(in_groups[j])
            j += 1
    return Scan(keys, True)


async def _matching(browse: Browse, keys: Sequence[Key], needle: str, limit: int) -> tuple[list[bytes], int]:
    """The frames of those whose text contains `needle`, and how many keys were looked at."""
    frames: list[bytes] = []
    seen = size = scanned = 0
    while seen < len(keys) and scanned < SCAN_BYTES:
        chunk = _fitting(keys[seen : seen + CHUNK_ROWS], CHUNK_BYTES)
        scanned += sum(k.size for k in chunk)
        rows = await browse.rows(chunk)
        for key in chunk:
            row = rows.get((key.timeline, key.position))
            if row is not None and _contains(row, needle):
                frame = row.frame()
                size += len(frame) + 1
                if frames and size > BUDGET:
                    return frames, seen
                frames.append(frame)
            seen += 1
            if len(frames) >= limit:
                return frames, seen
        await trio.lowlevel.checkpoint()
    return frames, seen


def _contains(row: Row, needle: str) -> bool:
    text = decode_message(row.body).text
    return isinstance(text, str) and needle in text.casefold()


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
