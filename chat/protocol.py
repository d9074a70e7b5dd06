"""The wire protocol, version 1: frames, message types, framing. Pure: bytes in, structs out, and back.

One tagged union per direction, so a frame is decoded and checked in one pass. `decode_request` is what an edge does with
a frame from a client, `decode_event` what a client does with one from an edge. Field names that are Python keywords are
renamed (`from` is `sender`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from chat.errors import ChatError, ProtocolError

VERSION: Final = 1
HEADER: Final = 4  # bytes of the length before each frame
MAX_FRAME: Final = 65_536  # from a client that is logged in, by default
MAX_FRAME_BEFORE_LOGIN: Final = 4_096
MAX_FRAME_FROM_EDGE: Final = 1 << 20
MAX_DEPTH: Final = 32
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 500

Uint = Annotated[int, Meta(ge=0, lt=2**53)]
Id = Annotated[int, Meta(ge=1, lt=2**53)]
Rid = int | Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9._-]+\Z")]
Password = Annotated[str, Meta(min_length=8, max_length=128)]
DeviceId = Annotated[str, Meta(min_length=8, max_length=64, pattern=r"^[a-z0-9-]+\Z")]
Label = Annotated[str, Meta(max_length=128)]
Timeline = Annotated[str, Meta(max_length=20, pattern=r"^[ug][1-9][0-9]*\Z")]
Cursor = Annotated[str, Meta(max_length=512)]
Limit = Annotated[int, Meta(ge=1, lt=2**53)]
Extra = dict[str, Any]

Kind = Literal[
    "text", "friend_request", "friend_accepted", "friend_rejected", "friend_removed", "group_joined", "group_left",
    "group_removed", "group_invited", "read", "delivered", "recalled", "edited",
]  # fmt: skip
#: Kinds that change who is in a group.
MEMBERSHIP_KINDS: Final = frozenset({"group_joined", "group_left", "group_removed"})
#: Kinds kept as state, not as rows.
STATE_KINDS: Final = frozenset({"read", "delivered"})


class Frame(Struct, tag_field="type", omit_defaults=True, kw_only=True, gc=False):
    """Any frame."""


class Request(Frame, kw_only=True):
    """A frame to the edge. Its answer repeats `rid`."""

    rid: Rid | None = None


# ------------------------------------------------------------------ opening


class Seal(Struct):
    key_id: str
    secret: str


class Hello(Request, tag="hello", kw_only=True):
    version: Uint
    client: Annotated[str, Meta(max_length=128)]
    seal: Seal | None = None


class Register(Request, tag="register", kw_only=True):
    name: Name
    password: Password


class Login(Request, tag="login", kw_only=True):
    name: Annotated[str, Meta(max_length=128)]
    password: Annotated[str, Meta(max_length=512)]
    device: DeviceId
    label: Label = ""


class Resume(Request, tag="resume", kw_only=True):
    token: Annotated[str, Meta(max_length=256)]
    device: DeviceId


class Logout(Request, tag="logout", kw_only=True):
    pass


class ChangePassword(Request, tag="change_password", kw_only=True):
    old: Annotated[str, Meta(max_length=512)]
    new: Password


class Heartbeat(Request, tag="heartbeat", kw_only=True):
    pass


class LeaveNow(Request, tag="goodbye", kw_only=True):
    """The client's `goodbye`: a graceful end, the token stays."""


# ------------------------------------------------------------------ messages


class Send(Request, tag="send", kw_only=True):
    stream: Uint
    seq: Uint
    text: str
    to: Id | None = None
    group: Id | None = None
    extra: Extra | None = None
    seen: Uint | None = None
    receipt: bool = False


class Ack(Request, tag="ack", kw_only=True):
    timeline: Timeline
    pos: Uint


class Read(Request, tag="read", kw_only=True):
    sent_at: Uint
    to: Id | None = None
    group: Id | None = None


class Sync(Request, tag="sync", kw_only=True):
    timeline: Timeline
    after: Uint
    limit: Limit = LIMIT_DEFAULT
    fresh: bool = False


class Fetch(Request, tag="fetch", kw_only=True):
    sender: Id = field(name="from")
    stream: Uint
    seqs: Annotated[list[Uint], Meta(min_length=1, max_length=LIMIT_MAX)]
    to: Id | None = None
    group: Id | None = None


class Conversations(Request, tag="conversations", kw_only=True):
    before: Cursor | None = None


class History(Request, tag="history", kw_only=True):
    to: Id | None = None
    group: Id | None = None
    limit: Limit = LIMIT_DEFAULT
    before: Cursor | None = None


class Search(Request, tag="search", kw_only=True):
    text: Annotated[str, Meta(min_length=1, max_length=256)]
    to: Id | None = None
    group: Id | None = None
    limit: Limit = LIMIT_DEFAULT
    before: Cursor | None = None


# ------------------------------------------------------------------ people and groups


class FindUser(Request, tag="find_user", kw_only=True):
    """By name, or by number: a message brings the number of its sender alone."""

    name: Annotated[str, Meta(max_length=128)] | None = None
    user: Id | None = None


class FriendRequest(Request, tag="friend_request", kw_only=True):
    user: Id
    text: str = ""


class FriendAccept(Request, tag="friend_accept", kw_only=True):
    user: Id


class FriendReject(Request, tag="friend_reject", kw_only=True):
    user: Id


class FriendRemove(Request, tag="friend_remove", kw_only=True):
    user: Id


class Friends(Request, tag="friends", kw_only=True):
    pass


class Block(Request, tag="block", kw_only=True):
    user: Id


class Unblock(Request, tag="unblock", kw_only=True):
    user: Id


class GroupCreate(Request, tag="group_create", kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    members: Annotated[list[Id], Meta(max_length=LIMIT_MAX)] = field(default_factory=list)
    open: bool = False


class GroupJoin(Request, tag="group_join", kw_only=True):
    group: Id


class GroupLeave(Request, tag="group_leave", kw_only=True):
    group: Id


class GroupInvite(Request, tag="group_invite", kw_only=True):
    group: Id
    user: Id


class GroupRemove(Request, tag="group_remove", kw_only=True):
    group: Id
    user: Id


class Groups(Request, tag="groups", kw_only=True):
    pass


class GroupMembers(Request, tag="group_members", kw_only=True):
    group: Id
    after: Cursor | None = None


class Watch(Request, tag="watch", kw_only=True):
    users: Annotated[list[Id], Meta(max_length=LIMIT_MAX)]


AnyRequest = (
    Hello | Register | Login | Resume | Logout | ChangePassword | Heartbeat | LeaveNow
    | Send | Ack | Read | Sync | Fetch | Conversations | History | Search
    | FindUser | FriendRequest | FriendAccept | FriendReject | FriendRemove | Friends | Block | Unblock
    | GroupCreate | GroupJoin | GroupLeave | GroupInvite | GroupRemove | Groups | GroupMembers | Watch
)  # fmt: skip


# ------------------------------------------------------------------ from the edge


class Reply(Frame, kw_only=True):
    rid: Rid | None = None


class Welcome(Reply, tag="welcome", kw_only=True):
    version: int
    edge: str
    heartbeat_ms: int
    heartbeat_misses: int
    max_frame: int
    server_time: int
    websocket: str | UnsetType = UNSET


class Registered(Reply, tag="registered", kw_only=True):
    user: int


class LoggedIn(Reply, tag="logged_in", omit_defaults=False, kw_only=True):
    user: int
    name: str
    device: str
    session: str
    token: str
    token_expires_at: int
    new_device: bool
    cursors: dict[str, int]
    groups: list[int]
    rid: Rid | UnsetType = UNSET  # type: ignore[assignment]  # left out where absent, though defaults are written


class Ok(Reply, tag="ok", kw_only=True):
    pass


class HeartbeatReply(Reply, tag="heartbeat", kw_only=True):
    pass


class GoodbyeFrame(Reply, tag="goodbye", kw_only=True):
    code: int
    reason: str
    retry_after_ms: int | None = None


class Error(Frame, tag="error", kw_only=True):
    code: str
    message: str
    retriable: bool = field(default=UNSET)  # type: ignore[assignment]  # always given; written even if false
    rid: Rid | None = None
    to: int | None = None
    group: int | None = None
    stream: int | None = None
    seq: int | UnsetType = UNSET
    expected: int | UnsetType = UNSET
    retry_after_ms: int | None = None
    part: str | None = None


class Accepted(Frame, tag="accepted", kw_only=True):
    stream: int
    seq: int
    to: int | None = None
    group: int | None = None


class Message(Frame, tag="message", kw_only=True):
    """A record as recipients get it; in topics and rows without `prev` and `pos`."""

    sender: int = field(name="from")
    sent_at: int
    kind: str
    to: int | None = None
    group: int | None = None
    stream: int | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    text: str | UnsetType = UNSET
    extra: Extra | UnsetType = UNSET
    prev: int | UnsetType | None = UNSET
    pos: int | UnsetType = UNSET


class Head(Struct, omit_defaults=True, kw_only=True, gc=False):
    """The next seq of a stream."""

    sender: int = field(name="from")
    stream: int
    next: int
    to: int | None = None
    group: int | None = None


class Synced(Reply, tag="synced", kw_only=True):
    timeline: str
    messages: list[Message]
    upto: int
    complete: bool
    heads: list[Head] | UnsetType = UNSET
    too_old: bool = False


class Fetched(Reply, tag="fetched", kw_only=True):
    messages: list[Message]
    void: list[int]
    pending: list[int]


class Delivered(Struct):
    stream: int
    seq: int


class Conversation(Struct, omit_defaults=True, kw_only=True):
    """`read`: how far the other one has read (direct), or I (group). `mine`: how far I have read."""

    unread: int = field(default=UNSET)  # type: ignore[assignment]  # always given
    to: int | None = None
    group: int | None = None
    last: Message | UnsetType = UNSET
    read: int | UnsetType = UNSET
    delivered: Delivered | UnsetType = UNSET
    mine: int | UnsetType = UNSET


class ConversationsReply(Reply, tag="conversations", kw_only=True):
    conversations: list[Conversation]
    next: str | None = field(default=UNSET)  # type: ignore[assignment]  # always given, may be null


class HistoryReply(Reply, tag="history", kw_only=True):
    messages: list[Message]
    next: str | None = field(default=UNSET)  # type: ignore[assignment]  # always given, may be null


class UserReply(Reply, tag="user", kw_only=True):
    user: int
    name: str


class Friend(Struct):
    user: int
    name: str
    state: Literal["friend", "asked", "asking"]


class FriendsReply(Reply, tag="friends", kw_only=True):
    friends: list[Friend]


class GroupReply(Reply, tag="group", kw_only=True):
    group: int
    name: str


class GroupInfo(Struct):
    group: int
    name: str
    since: int
    members: int


class GroupsReply(Reply, tag="groups", kw_only=True):
    groups: list[GroupInfo]


class Member(Struct):
    user: int
    name: str
    role: Literal["owner", "member"]


class MembersReply(Reply, tag="members", kw_only=True):
    members: list[Member]
    next: str | None = field(default=UNSET)  # type: ignore[assignment]  # always given, may be null


class Online(Struct):
    user: int
    online: bool


class Presence(Reply, tag="presence", kw_only=True):
    users: list[Online]


class Resync(Frame, tag="resync", kw_only=True):
    timelines: list[str] | None = None


class Moved(Frame, tag="moved", kw_only=True):
    retry_after_ms: int


class Replaced(Frame, tag="replaced", kw_only=True):
    pass


AnyEvent = (
    Welcome | Registered | LoggedIn | Ok | HeartbeatReply | GoodbyeFrame | Error | Accepted | Message | Synced | Fetched
    | ConversationsReply | HistoryReply | UserReply | FriendsReply | GroupReply | GroupsReply | MembersReply | Presence
    | Resync | Moved | Replaced
)  # fmt: skip


# ------------------------------------------------------------------ framing

encode = msgspec.json.Encoder().encode
_request: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_event: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_message = msgspec.json.Decoder(Message)


def frame(body: bytes) -> bytes:
    """`body` with its length before it."""
    return len(body).to_bytes(HEADER, "big") + body


def raw_list(parts: list[bytes]) -> bytes:
    """A JSON array of objects that are already encoded."""
    return b"[" + b",".join(parts) + b"]"


class FrameCutter:
    """Cuts a byte stream into frames. Feed it what was read, then iterate: it yields whole frames without their length,
    and stops at a partial one. Iteration may be broken off and taken up again later (a paused connection).

    Raises ProtocolError `too_long` as soon as a length above `limit` is seen, after the frames before it were yielded.
    `limit` may be raised between two frames (it is what is allowed now).
    """

    __slots__ = ("_at", "_data", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data: bytes | bytearray = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at == len(self._data):
            self._data, self._at = data, 0
            return
        rest = self._data
        if not isinstance(rest, bytearray):
            rest = bytearray(rest[self._at :])
        elif self._at:
            del rest[: self._at]
        rest += data
        self._data, self._at = rest, 0

    @property
    def waiting(self) -> int:
        """Bytes fed but not yet yielded."""
        return len(self._data) - self._at

    def __iter__(self) -> Iterator[bytes]:
        while True:
            data, at = self._data, self._at
            if len(data) - at < HEADER:
                return
            length = int.from_bytes(data[at : at + HEADER], "big")
            if length > self.limit:
                raise ProtocolError("too_long", f"a frame of {length} bytes; at most {self.limit} are allowed here")
            end = at + HEADER + length
            if end > len(data):
                return
            self._at = end
            yield bytes(data[at + HEADER : end])


# ------------------------------------------------------------------ decoding


def decode_request(body: bytes) -> AnyRequest:
    """A frame from a client. Raises ProtocolError `bad_frame` (the connection ends) or ChatError `bad_request` (it goes
    on), with `rid` and what else the error frame has to repeat in its fields."""
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into what it skips
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
            _check_depth(body)
        request = _request.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(body, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("bad_frame", f"not a JSON object in UTF-8: {error}") from None
    return request


def decode_event(body: bytes) -> AnyEvent:
    """A frame from an edge. Raises msgspec.DecodeError; an unknown type is a ValidationError that clients ignore."""
    return _event.decode(body)


def decode_message(body: bytes) -> Message:
    """A record's value. Raises msgspec.DecodeError."""
    return _message.decode(body)


def _check_depth(body: bytes) -> None:
    depth, in_string, escaped = 0, False, False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise ProtocolError("bad_frame", f"nested deeper than {MAX_DEPTH}")
        elif byte in b"}]":
            depth -= 1


def _refusal(body: bytes, error: msgspec.ValidationError) -> ChatError:
    """Why a frame that does not fit is refused: it may not even be an object, or JSON."""
    try:
        whole = json.loads(body, parse_constant=_no_constant, parse_int=_any_int)
        if b"\\u" in body:  # msgspec stopped before it saw all: lone surrogates cannot be written as UTF-8
            json.dumps(whole, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as other:
        return ProtocolError("bad_frame", f"not a JSON object in UTF-8: {other}")
    if not isinstance(whole, dict):
        return ProtocolError("bad_frame", "not a JSON object")
    kind = whole.get("type")
    if not isinstance(kind, str):
        message = "no `type`" if kind is None else "`type` is not a string"
    elif "$.type" in str(error):
        message = f"unknown type {kind[:64]!r}"
    else:
        message = f"{kind}: {error}"
    fields: dict[str, Any] = {}
    rid = whole.get("rid")
    if (type(rid) is int and abs(rid) < 2**63) or (isinstance(rid, str) and len(rid) <= 64):
        fields["rid"] = rid
    if kind == "send":
        fields |= {k: whole[k] for k in ("to", "group", "stream", "seq") if type(whole.get(k)) is int}
        fields = {k: v for k, v in fields.items() if k == "rid" or 0 <= v < 2**53}
    return ChatError("bad_request", message, **fields)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _any_int(digits: str) -> int:
    """However long: Python refuses to convert thousands of digits, which are JSON all the same."""
    return int(digits) if len(digits) < 64 else 1 << 200
