"""What a client asks, and the names it learns by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, TypeVar

import trio

from chat import protocol
from chat.client.connection import REQUEST_TIMEOUT, Connection, ConnectionLost, Ended, RequestTimeout
from chat.client.store import Store
from chat.errors import ChatError
from chat.protocol import AnyRequest

NAME_TIMEOUT: Final = 2.0  # seconds
MAX_NAMES: Final = 50_000  # in memory; the store has them all
MAX_MEMBERS: Final = 10_000

Reply = TypeVar("Reply", bound=protocol.Frame)


class LoggedOut(Exception):
    """The client has ended and does not come back by itself; `ended` says why."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


class Requests(ABC):
    """All methods but `name_of` raise ChatError (refused), ConnectionLost, RequestTimeout, LoggedOut; after the two in the
    middle the outcome is unknown. Cancelling is safe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = store.names()
        self._connection: Connection | None = None
        self._nameless: set[int] = set()

    @abstractmethod
    async def wait_connected(self) -> None:
        """Raises LoggedOut when it cannot be any more."""

    async def ask(self, request: AnyRequest, reply: type[Reply], within: float = REQUEST_TIMEOUT) -> Reply:
        """`request`, waiting for a connection if there is none."""
        with trio.move_on_after(within):
            await self.wait_connected()
        if self._connection is None:
            raise RequestTimeout("not connected")
        return await self._connection.ask(request, reply, within)

    async def do(self, request: AnyRequest) -> None:
        """A request that is answered by `ok`."""
        await self.ask(request, protocol.Ok)

    async def find_user(self, name: str) -> int:
        """Raises ChatError `not_found`."""
        for known, known_name in self.names.items():
            if known_name == name and known[0] == "u":
                return int(known[1:])
        found = await self.ask(protocol.FindUser(name=name), protocol.UserReply)
        self._name({f"u{found.user}": found.name})
        return found.user

    async def user_name(self, user: int) -> str:
        """The name of a user: known, or asked for in a short time, or made of the number."""
        what = f"u{user}"
        if what not in self.names and user not in self._nameless:
            try:
                found = await self.ask(protocol.FindUser(user=user), protocol.UserReply, NAME_TIMEOUT)
                self._name({what: found.name})
            except ChatError as error:
                if not error.retriable and len(self._nameless) < MAX_NAMES:
                    self._nameless.add(user)
            except (ConnectionLost, RequestTimeout, LoggedOut):
                pass  # the next message of his asks again
        return self.name_of(what)

    async def friends(self) -> list[protocol.Friend]:
        answer = await self.ask(protocol.Friends(), protocol.FriendsReply)
        self._name({f"u{f.user}": f.name for f in answer.friends})
        return answer.friends

    async def groups(self) -> list[protocol.GroupInfo]:
        answer = await self.ask(protocol.Groups(), protocol.GroupsReply)
        self._name({f"g{g.group}": g.name for g in answer.groups})
        return answer.groups

    async def create_group(self, name: str, members: Sequence[int] = (), *, open: bool = False) -> int:
        answer = await self.ask(protocol.GroupCreate(name=name, members=list(members), open=open), protocol.GroupReply)
        self._name({f"g{answer.group}": answer.name})
        return answer.group

    async def members(self, group: int) -> list[protocol.Member]:
        """All of them, page by page; at most `MAX_MEMBERS`."""
        found: list[protocol.Member] = []
        after: str | None = None
        while len(found) < MAX_MEMBERS:
            answer = await self.ask(protocol.GroupMembers(group=group, after=after), protocol.MembersReply)
            found += answer.members
            after = answer.next
            if after is None:
                break
        self._name({f"u{m.user}": m.name for m in found})
        return found

    # -------------------------------------------------------------- names

    def name_of(self, what: str) -> str:
        """Of `u34` or `g7`; what has no known name shows as its number."""
        return self.names.get(what) or (f"user-{what[1:]}" if what[0] == "u" else f"group-{what[1:]}")

    def _name(self, names: dict[str, str]) -> None:
        new = {k: v for k, v in names.items() if self.names.get(k) != v}
        if new:
            self.names |= new
            self.store.put_names(new)
            while len(self.names) > MAX_NAMES:
                del self.names[next(iter(self.names))]
