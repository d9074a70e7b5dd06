"""What the servers have stored, read as a user would, and compared with the ledger."""

from __future__ import annotations

from typing import Final, TypeVar

import trio

from chat import protocol
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.sdk import Client, LoggedOut
from chat.errors import ChatError
from chat.protocol import Message
from chat.tools.check.ledger import Ledger
from chat.tools.check.people import Device

_PAGE: Final = 200
_AGAIN: Final = 0.3  # seconds between two readings

Reply = TypeVar("Reply", bound=protocol.Frame)


async def compare(ledger: Ledger, user: int, device: Device, within: float) -> int:
    """Every conversation of the user; read again while something accepted has not come into it. Returns how many."""
    conversations = sorted(ledger.conversations(user))
    for conversation in conversations:
        rows: list[tuple[str, int, int, int, int]] | None = None
        with trio.move_on_after(within):
            while True:
                found = await _read(device, conversation)
                rows = rows if found is None else found
                if rows is not None and ledger.complete(user, conversation, {row[0].split(" ", 1)[0] for row in rows}):
                    break
                await trio.sleep(_AGAIN)
        if rows is None:
            ledger.find("history_unread", f"history of {user} with {conversation} could not be read in {within:g} s")
        else:
            ledger.history(user, conversation, rows)
    return len(conversations)


async def _read(device: Device, conversation: str) -> list[tuple[str, int, int, int, int]] | None:
    """All of it, newest first. None: a part is away; ask again."""
    rows: list[tuple[str, int, int, int, int]] = []
    before: str | None = None
    client = device.client
    if client is None:
        return None
    try:
        while True:
            page = await client.history(conversation, _PAGE, before)
            rows += [_row(message) for message in page.messages if message.kind == "text"]
            before = page.next
            if before is None:
                return rows
    except (ChatError, ConnectionLost, RequestTimeout, LoggedOut):
        return None


def _row(message: Message) -> tuple[str, int, int, int, int]:
    assert isinstance(message.stream, int)
    assert isinstance(message.seq, int)
    return str(message.text), message.sender, message.stream, message.seq, message.sent_at


async def persistently(client: Client, request: protocol.AnyRequest, reply: type[Reply]) -> Reply:
    """A request that is made again while parts are away. Bounded by the caller."""
    while True:
        try:
            return await client.ask(request, reply)
        except ChatError as error:
            if not error.retriable:
                raise
        except (ConnectionLost, RequestTimeout):
            pass
        await trio.sleep(_AGAIN)
