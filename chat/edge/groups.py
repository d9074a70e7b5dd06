"""Groups. Who is in is what the group's timeline says: a request is checked against what is stored, then written as a
notice into the group's timeline and into that of the user whom it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog

from chat.edge import notices
from chat.edge.context import Context, Session
from chat.edge.group_requests import asked_for, ever_in, group_for, told
from chat.edge.pages import BUDGET
from chat.edge.paging import pack, unpack
from chat.errors import ChatError, PartError
from chat.persist.queries import places
from chat.ports import Statement
from chat.protocol import (
    GroupCreate,
    GroupInfo,
    GroupInvite,
    GroupJoin,
    GroupLeave,
    GroupMembers,
    GroupRemove,
    GroupReply,
    Groups,
    GroupsReply,
    Member,
    MembersReply,
    Ok,
    encode,
)
from chat.records import TimelineRecord, group_timeline, message_records, notice, user_timeline

log = structlog.get_logger()

MEMBERS_PAGE = 500
MOST_GROUPS = 4_000  # that a user may be in; `logged_in` names them all, in one frame


class Standing(NamedTuple):
    """A group and a user in it."""

    name: str
    open: bool
    owner: int
    inside: bool


async def group_create(context: Context, session: Session, request: GroupCreate) -> GroupReply:
    """Asked for again after `unavailable`: the same group (see `group_requests`)."""
    me, database = session.user, context.services.store
    members = [m for m in dict.fromkeys(request.members) if m != me]
    names = {me: session.name}
    if members:
        users, blocks = await database.read(
            [
                Statement(f"SELECT id, name FROM users WHERE id IN ({places(members)})", members),
                Statement(f"SELECT user FROM blocks WHERE user IN ({places(members)}) AND other = %s", (*members, me)),
            ]
        )
        names |= dict(users.rows)
        missing = [m for m in members if m not in names]
        if missing:
            raise ChatError("not_found", f"no user {missing[0]}")
        if blocks.rows:
            raise ChatError("blocked", f"user {blocks.rows[0][0]} has blocked you")
    await _has_room(context, [me, *members])
    asked, now = asked_for(me, session.device, request.name, members, request.open), context.clock.now()
    group, again = await group_for(database, asked, name=request.name, is_open=request.open, now=now)
    there = await ever_in(database, group) if again else set()
    records: list[TimelineRecord] = []
    for user in (me, *members):  # the creator first: he has been in longest
        if user in there:
            continue  # by the earlier try, and may have left since
        records += _change(context, "group_joined", me, group=group, user=user, name=names[user])
    await notices.publish(context, records)
    try:
        await database.write([told(asked, group)])
    except PartError as error:
        log.info("group_request_kept", group=group, why=error.message)
    await context.hub.join(me, group)
    return GroupReply(group=group, name=request.name)


async def group_join(context: Context, session: Session, request: GroupJoin) -> Ok:
    me, group = session.user, request.group
    standing = await _standing(context, group, me)
    if standing.inside:
        raise ChatError("exists", "you are in")
    if not standing.open:
        (invited,) = await context.services.store.read(
            [Statement("SELECT 1 FROM invitations WHERE chat_group = %s AND user = %s", (group, me))]
        )
        if not invited.rows:
            raise ChatError("forbidden", "by invitation only")
    await _has_room(context, [me])
    await notices.publish(context, _change(context, "group_joined", me, group=group, user=me, name=session.name))
    await context.hub.join(me, group)
    await _drop_invitation(context, group, me)
    return Ok()


async def group_leave(context: Context, session: Session, request: GroupLeave) -> Ok:
    me, group = session.user, request.group
    if not (await _standing(context, group, me)).inside:
        raise ChatError("forbidden", "you are not in")
    await notices.publish(context, _change(context, "group_left", me, group=group, user=me, name=session.name))
    await context.hub.leave(me, group)
    return Ok()


async def group_invite(context: Context, session: Session, request: GroupInvite) -> Ok:
    me, group, user = session.user, request.group, request.user
    standing = await _standing(context, group, me)
    if not standing.inside:
        raise ChatError("forbidden", "only members invite")
    await _name_of(context, user)
    inside, blocked = await context.services.store.read(
        [
            Statement("SELECT 1 FROM members WHERE chat_group = %s AND user = %s AND to_position IS NULL", (group, user)),
            Statement("SELECT 1 FROM blocks WHERE user = %s AND other = %s", (user, me)),
        ]
    )
    if inside.rows:
        raise ChatError("exists", "he is in")
    if blocked.rows:
        raise ChatError("blocked", "he has blocked you")
    await context.services.store.write(
        [
            Statement(
                "INSERT INTO invitations (chat_group, user, inviter, created_at) VALUES (%s, %s, %s, %s)"
                " ON DUPLICATE KEY UPDATE inviter = %s",
                (group, user, me, context.clock.now(), me),
            )
        ]
    )
    said = notice(
        "group_invited",
        sender=me,
        to=user,
        sent_at=context.clock.sent_at(me),
        extra={"group": group, "name": standing.name},
    )
    await notices.publish(context, message_records(said, (user_timeline(user),)))
    return Ok()


async def group_remove(context: Context, session: Session, request: GroupRemove) -> Ok:
    me, group, user = session.user, request.group, request.user
    mine = await _standing(context, group, me)
    if not mine.inside or mine.owner != me:
        raise ChatError("forbidden", "only the owner removes")
    if user == me:
        raise ChatError("bad_request", "to go yourself is group_leave")
    if not (await _standing(context, group, user)).inside:
        raise ChatError("not_found", "he is not in")
    await _drop_invitation(context, group, user)
    name = await _name_of(context, user)
    await notices.publish(context, _change(context, "group_removed", me, group=group, user=user, name=name))
    await context.hub.leave(user, group)
    return Ok()


async def groups(context: Context, session: Session, request: Groups) -> GroupsReply:
    (result,) = await context.services.store.read(
        [
            Statement(
                "SELECT m.chat_group, g.name, m.joined_at, (SELECT COUNT(DISTINCT x.user) FROM members x"
                " WHERE x.chat_group = m.chat_group AND x.to_position IS NULL)"
                " FROM members m JOIN chat_groups g ON g.id = m.chat_group"
                " WHERE m.user = %s AND m.to_position IS NULL ORDER BY m.chat_group LIMIT %s",
                (session.user, MOST_GROUPS),
            )
        ]
    )
    found: list[GroupInfo] = []
    size = 0
    for row in result.rows:
        info = GroupInfo(*row)
        size += len(encode(info)) + 1
        if size > BUDGET:
            break
        found.append(info)
    return GroupsReply(groups=found)


async def group_members(context: Context, session: Session, request: GroupMembers) -> MembersReply:
    group = request.group
    after = unpack(request.after, "m", int, int) if request.after is not None else [group, 0]
    if after[0] != group:
        raise ChatError("bad_request", "a cursor of another group")
    standing = await _standing(context, group, session.user)
    if not standing.inside:
        raise ChatError("forbidden", "you are not in")
    (result,) = await context.services.store.read(
        [
            Statement(
                "SELECT m.user, u.name FROM members m JOIN users u ON u.id = m.user WHERE m.chat_group = %s AND m.user > %s"
                " AND m.to_position IS NULL ORDER BY m.user LIMIT %s",
                (group, after[1], MEMBERS_PAGE + 1),
            )
        ]
    )
    rows = result.rows[:MEMBERS_PAGE]
    more = len(result.rows) > len(rows)
    return MembersReply(
        members=[Member(u, name, "owner" if u == standing.owner else "member") for u, name in rows],
        next=pack("m", group, rows[-1][0]) if more else None,
    )


async def _standing(context: Context, group: int, user: int) -> Standing:
    """Raises not_found where there is no such group."""
    (result,) = await context.services.store.read(
        [
            Statement(
                "SELECT g.name, g.open, g.owner, EXISTS (SELECT 1 FROM members m WHERE m.chat_group = g.id AND m.user = %s"
                " AND m.to_position IS NULL) FROM chat_groups g WHERE g.id = %s",
                (user, group),
            )
        ]
    )
    if not result.rows:
        raise ChatError("not_found", "no such group")
    name, is_open, owner, inside = result.rows[0]
    return Standing(name, bool(is_open), owner, bool(inside))


async def _has_room(context: Context, users: Sequence[int]) -> None:
    (full,) = await context.services.store.read(
        [
            Statement(
                f"SELECT user FROM members WHERE user IN ({places(users)}) AND to_position IS NULL"
                " GROUP BY user HAVING COUNT(*) >= %s LIMIT 1",
                (*users, MOST_GROUPS),
            )
        ]
    )
    if full.rows:
        raise ChatError("forbidden", f"user {full.rows[0][0]} is in as many groups as one may be")


async def _name_of(context: Context, user: int) -> str:
    (result,) = await context.services.store.read([Statement("SELECT name FROM users WHERE id = %s", (user,))])
    if not result.rows:
        raise ChatError("not_found", "no such user")
    return str(result.rows[0][0])


async def _drop_invitation(context: Context, group: int, user: int) -> None:
    await context.services.store.write(
        [Statement("DELETE FROM invitations WHERE chat_group = %s AND user = %s", (group, user))]
    )


def _change(context: Context, kind: str, by: int, *, group: int, user: int, name: str) -> Sequence[TimelineRecord]:
    """Two records: the group's, and that of the user whom it concerns, which has no `group` at the top."""
    extra: dict[str, Any] = {"user": user, "name": name, "group": group}
    sent_at = context.clock.sent_at(by)
    in_group = notice(kind, sender=by, group=group, sent_at=sent_at, extra=extra)
    to_user = notice(kind, sender=by, to=user, sent_at=sent_at, extra=extra)
    return [
        *message_records(in_group, (group_timeline(group),)),
        *message_records(to_user, (user_timeline(user),)),
    ]
