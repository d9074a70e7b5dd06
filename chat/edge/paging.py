"""Opaque cursors of pages: a few numbers and short words, packed. Pure."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec

from chat.errors import ChatError

_decode = msgspec.json.Decoder(list[int | str]).decode


def pack(kind: str, *values: int | str) -> str:
    """`kind` says of which answer it is, so that no other takes it."""
    return urlsafe_b64encode(msgspec.json.encode([kind, *values])).rstrip(b"=").decode()


def unpack(cursor: str, kind: str, *types: type) -> list[Any]:
    """The values. Raises ChatError bad_request for what `pack` cannot have made."""
    try:
        values = _decode(urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except (ValueError, msgspec.DecodeError):
        values = []
    fits = len(values) == len(types) + 1 and values[0] == kind
    if not fits or not all(type(v) is t for v, t in zip(values[1:], types, strict=True)):
        raise ChatError("bad_request", "not a cursor of this answer")
    for value in values[1:]:
        if isinstance(value, int) and not 0 <= value < 2**53:
            raise ChatError("bad_request", "not a cursor of this answer")
    return values[1:]
