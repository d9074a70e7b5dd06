"""Errors that have a code.

    ChatError                 anything that a client may be told: code, message, retriable
    ├── Unavailable           a part behind us is away; the same request again later
    └── ProtocolError         the connection cannot go on: an error frame, then goodbye 1004
    PartError                 raised by the bridge: a server did not do what it was asked
    ├── PartAway              not reached, timed out, or refused for now; nothing is known of the outcome
    ├── Conflict              a statement of a transaction changed another number of rows than expected; rolled back
    └── BadData               the server refuses the data itself (too long, wrong type): trying again cannot help
    SetupError                a person must act: what was found, what is needed, what to do next

The bridge translates driver errors into PartError; handlers turn PartError into Unavailable. Nothing else crosses.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Goodbye(IntEnum):
    """Codes of `goodbye`. 1xxx: do not come back by yourself; 2xxx: come back at once, with jitter; 3xxx: come back
    after `retry_after_ms`."""

    ASKED = 1000
    REPLACED = 1001
    LOGGED_OUT = 1002
    BANNED = 1003
    PROTOCOL = 1004
    MOVED = 2000
    OUTCOME_UNKNOWN = 2001
    HEARTBEAT_MISSED = 2002
    SLOW_READER = 2003
    TOO_MANY_CONNECTIONS = 3000
    RATE = 3001


#: Codes of `error` that are worth sending again as they are.
RETRIABLE = frozenset({"sequence_gap", "rate_limited", "unavailable"})


class ChatError(Exception):
    """A refusal with a code of PROTOCOL. `fields` go into the error frame as they are (expected, retry_after_ms …)."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retriable = code in RETRIABLE
        self.fields = fields


class Unavailable(ChatError):
    """A part (kafka, mysql, redis) is away: retriable."""

    def __init__(self, part: str, message: str | None = None) -> None:
        super().__init__("unavailable", message or f"{part} does not answer; try again", part=part)


class ProtocolError(ChatError):
    """bad_frame, too_long, bad_version: told to the client, then the connection ends with goodbye 1004."""


class PartError(Exception):
    """A server behind the bridge failed. `part` is kafka, mysql or redis."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(f"{part}: {message}")
        self.part = part
        self.message = message


class PartAway(PartError):
    """Not reached, timed out or refused for now. The outcome of what was asked is unknown."""


class Conflict(PartError):
    """Statement `index` of a transaction changed `found` rows; all was rolled back."""

    def __init__(self, part: str, index: int, found: int) -> None:
        super().__init__(part, f"statement {index} changed {found} rows")
        self.index = index
        self.found = found


class BadData(PartError):
    """The data itself is refused. Trying again cannot help. `duplicate` where a unique key was violated."""

    def __init__(self, part: str, message: str, *, duplicate: bool = False) -> None:
        super().__init__(part, message)
        self.duplicate = duplicate


class SetupError(Exception):
    """Something that a person must mend: says what was found, what is needed and the next step."""
