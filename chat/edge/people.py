"""People: finding users, friendship, blocking.

Friendship is what the log's notices make of it (`persist` keeps it, the side of each user from his own timeline); here
requests are checked against what is stored, and written as notices into both timelines. What persist does with them:
a request by one who is asked makes friends, acceptance needs a request, removal ends any state.
"""

from __future__ import annotations

from typing import Any

import trio
from msgspec import UNSET, UnsetType

from chat.edge import notices
from chat.edge.accounts import may_be_name
from chat.edge.context import Context, Session
from chat.errors import ChatError
from chat.ports import Statement
from chat.protocol import (
    Block,
    FindUser,
    Friend,
    FriendAccept,
    FriendReject,
    FriendRemove,
    FriendRequest,
    Friends,
    FriendsReply,
    Ok,
    Unblock,
    UserReply,
)
from chat.records import PresenceEvent, message_records, notice, user_timeline

MOST_FRIENDS = 10_000  # in one answer: about 900 KB


async def find_user(context: Context, session: Session, request: FindUser) -> UserReply:
    if (request.name is None) == (request.user is None):
        raise ChatError("bad_request", "either `name` or `user`")
    if request.name is not None and not may_be_name(request.name):
        raise ChatError("not_found", "no such user")
    by, value = ("id", request.user) if request.name is None else ("name", request.name)
    (result,) = await context.services.store.read(
        [Statement(f"SELECT id, name FROM users WHERE {by} = %s AND id NOT IN (SELECT user FROM deleted_users)", (value,))]
    )
    if not result.rows:
        raise ChatError("not_found", "no such user")
    return UserReply(user=result.rows[0][0], name=result.rows[0][1])


async def friends(context: Context, session: Session, request: Friends) -> FriendsReply:
    (result,) = await context.services.store.read(
        [
            Statement(
                "SELECT f.other, u.name, f.state FROM friends f JOIN users u ON u.id = f.other WHERE f.user = %s"
                " ORDER BY u.name LIMIT %s",
                (session.user, MOST_FRIENDS),
            )
        ]
    )
    return FriendsReply(friends=[Friend(*row) for row in result.rows])


async def friend_request(context: Context, session: Session, request: FriendRequest) -> Ok:
    state, blocked = await _between(context, session.user, request.user)
    if blocked:
        raise ChatError("blocked", "he has blocked you")
    if state == "friend":
        raise ChatError("exists", "you are friends")
    if state == "asked":
        raise ChatError("exists", "you have asked already")
    await _tell_both(context, session, "friend_request", request.user, text=request.text or UNSET)
    return Ok()


async def friend_accept(context: Context, session: Session, request: FriendAccept) -> Ok:
    state, _ = await _between(context, session.user, request.user)
    if state == "friend":
        raise ChatError("exists", "you are friends")
    if state != "asking":
        raise ChatError("not_found", "he has not asked")
    await _tell_both(context, session, "friend_accepted", request.user)
    return Ok()


async def friend_reject(context: Context, session: Session, request: FriendReject) -> Ok:
    state, _ = await _between(context, session.user, request.user)
    if state != "asking":
        raise ChatError("not_found", "he has not asked")
    await _tell_both(context, session, "friend_rejected", request.user)
    return Ok()


async def friend_remove(context: Context, session: Session, request: FriendRemove) -> Ok:
    """Ends a friendship, takes back a request, or rejects one."""
    state, _ = await _between(context, session.user, request.user)
    if state is None:
        raise ChatError("not_found", "not a friend")
    await _tell_both(context, session, "friend_removed", request.user)
    return Ok()


async def block(context: Context, session: Session, request: Block) -> Ok:
    await _must_exist(context, session.user, request.user)
    now = context.clock.now()
    await context.services.store.write(
        [
            Statement(
                "INSERT INTO blocks (user, other, created_at) VALUES (%s, %s, %s)"
                " ON DUPLICATE KEY UPDATE created_at = blocks.created_at",
                (session.user, request.user, now),
            )
        ]
    )
    await _tell_block(context, PresenceEvent(event="blocked", user=request.user, by=session.user, at=now))
    return Ok()


async def unblock(context: Context, session: Session, request: Unblock) -> Ok:
    await _must_exist(context, session.user, request.user)
    await context.services.store.write(
        [Statement("DELETE FROM blocks WHERE user = %s AND other = %s", (session.user, request.user))]
    )
    event = PresenceEvent(event="unblocked", user=request.user, by=session.user, at=context.clock.now())
    await _tell_block(context, event)
    return Ok()


async def _tell_block(context: Context, event: PresenceEvent) -> None:
    """In effect on this edge, and in the log for all others. Raises Unavailable: the same again, it is idempotent."""
    asked_at = trio.current_time()
    await context.publisher.tell([event])
    await context.hub.heeded(event, asked_at)


async def _must_exist(context: Context, me: int, other: int) -> None:
    if other == me:
        raise ChatError("bad_request", "that is yourself")
    (result,) = await context.services.store.read([Statement("SELECT 1 FROM users WHERE id = %s", (other,))])
    if not result.rows:
        raise ChatError("not_found", "no such user")


async def _between(context: Context, me: int, other: int) -> tuple[str | None, bool]:
    """My state towards him (friend, asked, asking or None), and whether he has blocked me."""
    if other == me:
        raise ChatError("bad_request", "that is yourself")
    user, state, blocked = await context.services.store.read(
        [
            Statement("SELECT 1 FROM users WHERE id = %s", (other,)),
            Statement("SELECT state FROM friends WHERE user = %s AND other = %s", (me, other)),
            Statement("SELECT 1 FROM blocks WHERE user = %s AND other = %s", (other, me)),
        ]
    )
    if not user.rows:
        raise ChatError("not_found", "no such user")
    return (state.rows[0][0] if state.rows else None), bool(blocked.rows)


async def _tell_both(context: Context, session: Session, kind: str, other: int, text: str | UnsetType = UNSET) -> None:
    me = session.user
    said: Any = notice(kind, sender=me, to=other, sent_at=context.clock.sent_at(me), text=text)
    await notices.publish(context, message_records(said, (user_timeline(other), user_timeline(me))))
