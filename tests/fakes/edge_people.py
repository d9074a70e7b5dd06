"""People and groups of the fake edge."""

from __future__ import annotations

from typing import Any

from chat import protocol as p
from chat.errors import ChatError
from chat.records import notice

Peer = Any  # of tests.fakes.edge


class People:
    """What FakeEdge answers about people and groups."""

    users: dict[str, tuple[int, str]]
    friends: dict[int, dict[int, str]]
    groups: dict[int, dict[str, Any]]
    peers: set[Peer]
    _numbers: Any
    _deliver: Any
    _now: Any
    _end: Any

    def _name(self, user: int) -> str:
        return next(name for name, (number, _) in self.users.items() if number == user)

    def on_find_user(self, peer: Peer, request: p.FindUser) -> p.Frame:
        for name, (user, _) in self.users.items():
            if request.name == name or request.user == user:
                return p.UserReply(user=user, name=name)
        raise ChatError("not_found", "no such user")

    def _friendship(self, peer: Peer, kind: str, user: int, mine: str | None, theirs: str | None) -> p.Frame:
        for one, other, state in ((peer.user, user, mine), (user, peer.user, theirs)):
            self.friends[one].pop(other, None)
            if state:
                self.friends[one][other] = state
        message = notice(kind, sender=peer.user, to=user, sent_at=self._now())
        self._deliver(message, {f"u{peer.user}", f"u{user}"})
        return p.Ok()

    def on_friend_request(self, peer: Peer, request: p.FriendRequest) -> p.Frame:
        return self._friendship(peer, "friend_request", request.user, "asked", "asking")

    def on_friend_accept(self, peer: Peer, request: p.FriendAccept) -> p.Frame:
        return self._friendship(peer, "friend_accepted", request.user, "friend", "friend")

    def on_friend_reject(self, peer: Peer, request: p.FriendReject) -> p.Frame:
        return self._friendship(peer, "friend_rejected", request.user, None, None)

    def on_friend_remove(self, peer: Peer, request: p.FriendRemove) -> p.Frame:
        return self._friendship(peer, "friend_removed", request.user, None, None)

    def on_friends(self, peer: Peer, request: p.Friends) -> p.Frame:
        rows = self.friends[peer.user].items()
        return p.FriendsReply(friends=[p.Friend(user=u, name=self._name(u), state=s) for u, s in rows])  # type: ignore[arg-type]

    def _joined(self, kind: str, by: int, user: int, group: int) -> None:
        extra = {"user": user, "name": self._name(user), "group": group}
        self._deliver(notice(kind, sender=by, group=group, sent_at=self._now(), extra=extra), [f"g{group}"])
        if kind == "group_joined":
            self.groups[group]["since"][user] = self._end(f"g{group}")
        self._deliver(notice(kind, sender=by, to=user, sent_at=self._now(), extra=extra), [f"u{user}"])

    def on_group_create(self, peer: Peer, request: p.GroupCreate) -> p.Frame:
        group = next(self._numbers)
        members = [peer.user, *request.members]
        self.groups[group] = {"name": request.name, "members": list(members), "since": {}, "open": request.open}
        for user in members:
            self._joined("group_joined", peer.user, user, group)
        return p.GroupReply(group=group, name=request.name)

    def on_group_join(self, peer: Peer, request: p.GroupJoin) -> p.Frame:
        if peer.user not in self.groups[request.group]["members"]:
            self.groups[request.group]["members"].append(peer.user)
            self._joined("group_joined", peer.user, peer.user, request.group)
        return p.Ok()

    def on_group_leave(self, peer: Peer, request: p.GroupLeave) -> p.Frame:
        self._joined("group_left", peer.user, peer.user, request.group)
        self.groups[request.group]["members"].remove(peer.user)
        return p.Ok()

    def on_group_invite(self, peer: Peer, request: p.GroupInvite) -> p.Frame:
        extra = {"group": request.group, "name": self.groups[request.group]["name"]}
        message = notice("group_invited", sender=peer.user, to=request.user, sent_at=self._now(), extra=extra)
        self._deliver(message, [f"u{request.user}"])
        return p.Ok()

    def on_groups(self, peer: Peer, request: p.Groups) -> p.Frame:
        mine = [(g, group) for g, group in self.groups.items() if peer.user in group["members"]]
        return p.GroupsReply(
            groups=[p.GroupInfo(group=g, name=x["name"], since=0, members=len(x["members"])) for g, x in mine]
        )

    def on_group_members(self, peer: Peer, request: p.GroupMembers) -> p.Frame:
        members = self.groups[request.group]["members"]
        rows = [p.Member(user=u, name=self._name(u), role="owner" if i == 0 else "member") for i, u in enumerate(members)]
        return p.MembersReply(members=rows, next=None)

    def on_watch(self, peer: Peer, request: p.Watch) -> p.Frame:
        peer.watched = request.users
        return p.Presence(users=[p.Online(user=u, online=self._online(u)) for u in request.users])

    def _online(self, user: int) -> bool:
        return any(peer.user == user for peer in self.peers)

    def _presence(self, user: int) -> None:
        for peer in self.peers:
            if user and user in peer.watched:
                peer.send(p.Presence(users=[p.Online(user=user, online=self._online(user))]))
