"""A search in the local history: one scan, newest first, in steps. Exact substring, case folded, as on the server."""

from __future__ import annotations

from typing import Final, NamedTuple

from chat.client.local.history import LocalHistory
from chat.client.local.index import At
from chat.protocol import Message

STEP: Final = 500  # messages opened at once: some 10 ms


class Hit(NamedTuple):
    conversation: str
    message: Message


def step(history: LocalHistory, folded: str, conversation: str | None, before: At | None) -> tuple[list[Hit], At | None]:
    """What matches of the next `STEP` messages; and where to go on, None where all is searched. `folded` is the text,
    case folded. Raises OSError, sqlite3.Error."""
    found, following = history.scan(conversation, STEP, before)
    hits = [Hit(name, message) for name, message in found if _matches(message, folded)]
    return hits, following


def _matches(message: Message, folded: str) -> bool:
    return message.kind == "text" and isinstance(message.text, str) and folded in message.text.casefold()
