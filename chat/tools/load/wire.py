"""Frames as bytes: what is sent is put together from templates, what comes is decoded no further than needed. Pure."""

from __future__ import annotations

from struct import Struct as Packer
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from chat import protocol
from chat.protocol import encode, frame

_length = Packer(">I").pack
STAMP: Final = 16  # digits at the start of each text: the intended time of sending, µs of the monotonic clock
HEARTBEAT: Final = frame(b'{"type":"heartbeat"}')
HEARTBEAT_BODY: Final = b'{"type":"heartbeat"}'
HELLO: Final = frame(encode(protocol.Hello(version=1, client="chat-load/1.0")))
GOODBYE: Final = frame(encode(protocol.LeaveNow()))
SYNC_LIMIT: Final = protocol.LIMIT_MAX


class Delivery(Struct, tag_field="type", tag="message", gc=False, kw_only=True):
    """A `message`, as far as its account needs it."""

    sender: int = field(name="from")
    pos: int
    prev: int | UnsetType | None = UNSET
    group: int | None = None
    stream: int = -1  # -1: not a text
    seq: int = -1
    text: str = ""


class Synced(Struct, tag_field="type", tag="synced", kw_only=True):
    timeline: str
    messages: list[Delivery]
    upto: int
    complete: bool


Incoming = (
    Delivery | protocol.Accepted | Synced | protocol.Error | protocol.HeartbeatReply | protocol.Welcome | protocol.LoggedIn
    | protocol.Registered | protocol.GoodbyeFrame | protocol.Resync | protocol.Moved | protocol.Replaced | protocol.Ok
    | protocol.GroupReply | protocol.HistoryReply
)  # fmt: skip
_decoder: msgspec.json.Decoder[Incoming] = msgspec.json.Decoder(Incoming)


def decode(body: bytes) -> Incoming | None:
    """None: a frame of a type that the load does not know. Raises msgspec.DecodeError for what is not a frame at all."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        kind = msgspec.json.decode(body).get("type")
        if kind in _KNOWN:
            raise
        return None


_KNOWN: Final = frozenset({
    "message", "accepted", "synced", "error", "heartbeat", "welcome", "logged_in", "registered", "goodbye", "resync",
    "moved", "replaced", "ok", "group", "history",
})  # fmt: skip


class SendTemplate:
    """The `send` frames of one stream in one conversation; the text is `size` bytes, at least the stamp."""

    __slots__ = ("_head", "_tail")

    def __init__(self, *, to: int | None, group: int | None, stream: int, size: int) -> None:
        target = b'"to":%d' % to if to is not None else b'"group":%d' % (group or 0)
        self._head = b'{"type":"send",%b,"stream":%d,"seq":' % (target, stream)
        self._tail = b"x" * (size - STAMP) + b'"}'

    def frame(self, seq: int, stamp: int) -> bytes:
        body = b'%b%d,"text":"%016d%b' % (self._head, seq, stamp, self._tail)
        return _length(len(body)) + body


def stamp_of(text: str) -> int:
    """The intended time of sending, µs. Raises ValueError for a text that is not of the load."""
    return int(text[:STAMP])


def sync_frame(timeline: str, after: int) -> bytes:
    """Its `rid` is the timeline, so that an error names it too."""
    name = timeline.encode()
    return frame(b'{"type":"sync","rid":"%b","timeline":"%b","after":%d,"limit":%d}' % (name, name, after, SYNC_LIMIT))


def ack_frame(timeline: str, pos: int) -> bytes:
    return frame(b'{"type":"ack","timeline":"%b","pos":%d}' % (timeline.encode(), pos))


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole frames in `data`, without their lengths, and what is left."""
    bodies: list[bytes] = []
    at, end = 0, len(data)
    while end - at >= 4:
        stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if stop > end:
            break
        bodies.append(data[at + 4 : stop])
        at = stop
    return bodies, data[at:] if at else data
