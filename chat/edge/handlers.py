"""The one table: what a request's type is answered by, and how it stands to what comes before and behind it."""

from __future__ import annotations

from typing import Final

from chat import protocol as p
from chat.edge import accounts, groups, opening, people, reading, sends, sync, watch
from chat.edge.context import Handler, Handlers, Order

_FAST, _READ, _CHANGE, _OPENING = Order.FAST, Order.READ, Order.CHANGE, Order.OPENING

HANDLERS: Final[Handlers] = {
    p.Hello: Handler(opening.hello, _FAST, before_login=True),
    p.Heartbeat: Handler(opening.heartbeat, _FAST, before_login=True),
    p.LeaveNow: Handler(opening.goodbye, _FAST, before_login=True),
    p.Register: Handler(accounts.register, _OPENING, before_login=True),
    p.Login: Handler(accounts.login, _OPENING, before_login=True),
    p.Resume: Handler(accounts.resume, _OPENING, before_login=True),
    p.Logout: Handler(accounts.logout, _CHANGE),
    p.ChangePassword: Handler(accounts.change_password, _CHANGE),
    # messages
    p.Send: Handler(sends.send, _FAST),
    p.Ack: Handler(sends.ack, _FAST),
    p.Read: Handler(sends.read, _FAST),
    p.Sync: Handler(sync.sync, _READ),
    p.Fetch: Handler(sync.fetch, _READ),
    p.Conversations: Handler(reading.conversations, _READ),
    p.History: Handler(reading.history, _READ),
    p.Search: Handler(reading.search, _READ),
    # people
    p.FindUser: Handler(people.find_user, _READ),
    p.FriendRequest: Handler(people.friend_request, _CHANGE),
    p.FriendAccept: Handler(people.friend_accept, _CHANGE),
    p.FriendReject: Handler(people.friend_reject, _CHANGE),
    p.FriendRemove: Handler(people.friend_remove, _CHANGE),
    p.Friends: Handler(people.friends, _READ),
    p.Block: Handler(people.block, _CHANGE),
    p.Unblock: Handler(people.unblock, _CHANGE),
    p.Watch: Handler(watch.watch, _CHANGE),
    # groups
    p.GroupCreate: Handler(groups.group_create, _CHANGE),
    p.GroupJoin: Handler(groups.group_join, _CHANGE),
    p.GroupLeave: Handler(groups.group_leave, _CHANGE),
    p.GroupInvite: Handler(groups.group_invite, _CHANGE),
    p.GroupRemove: Handler(groups.group_remove, _CHANGE),
    p.Groups: Handler(groups.groups, _READ),
    p.GroupMembers: Handler(groups.group_members, _READ),
}
