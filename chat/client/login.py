"""Logging in: by token where there is one, by password where it is known, registering first where that is wanted."""

from __future__ import annotations

from chat import protocol
from chat.client.connection import Connection
from chat.client.store import Store
from chat.errors import ChatError


class Refused(Exception):
    """It cannot succeed as it is: says what to do."""


class LogIn:
    def __init__(self, store: Store, name: str, password: str | None, register: bool, label: str) -> None:
        self._store, self._name, self._password, self._label = store, name, password, label
        self._register = register

    async def perform(self, connection: Connection) -> protocol.LoggedIn:
        """Raises Refused; ChatError where it is worth another try (`unavailable`, `rate_limited`); what `request` raises."""
        opened = await self._resume(connection)
        if opened is None:
            if self._password is None:
                raise Refused(f"a password is needed to log in as {self._name}")
            taken = self._register and not await self._make_account(connection, self._password)
            opened = await self._by_password(connection, self._password, taken)
        user = self._store.get("user")
        if user is not None and int(user) != opened.user:
            raise Refused(f"{self._name} is user {opened.user} here, but user {user} in the state kept: another server's?")
        self._store.put("user", str(opened.user))
        self._store.put("token", opened.token)
        return opened

    async def _resume(self, connection: Connection) -> protocol.LoggedIn | None:
        token = self._store.get("token")
        if token is None:
            return None
        try:
            return await connection.log_in(protocol.Resume(token=token, device=self._store.device))
        except ChatError as error:
            if error.retriable:
                raise
            self._store.put("token", None)
            if self._password is None:
                raise Refused("the log-in has expired; the password is needed again") from None
            return None

    async def _make_account(self, connection: Connection, password: str) -> bool:
        """False: the name is taken, maybe by an earlier try of ours whose answer was lost."""
        try:
            await connection.ask(protocol.Register(name=self._name, password=password), protocol.Registered, 30.0)
        except ChatError as error:
            if error.code == "exists":
                return False
            if error.retriable:
                raise
            raise Refused(f"{self._name} was not registered: {error.message}") from None
        self._register = False
        return True

    async def _by_password(self, connection: Connection, password: str, taken: bool) -> protocol.LoggedIn:
        login = protocol.Login(name=self._name, password=password, device=self._store.device, label=self._label)
        try:
            return await connection.log_in(login)
        except ChatError as error:
            if error.retriable:
                raise
            if taken:
                raise Refused(f"the name {self._name} is taken, and this is not its password") from None
            raise Refused(f"log-in refused: {error.message}") from None
