"""A whole cluster in one object: speaks PROTOCOL over TCP from memory, and does harm on demand.

async with FakeEdge.serving() as edge:      edge.address
    edge.cut()                              all connections break, without goodbye
    edge.goodbye(2001)                      … with one
    edge.lose_deliveries = True             nothing live reaches anyone: clients must sync
    edge.unknown_prev = True                every delivery says prev: null
    edge.swallow = 3                        the next three sends are taken but never acknowledged; then it closes
    edge.refuse = ["rate_limited"]          the next sends are refused with these codes
    edge.accept = False                     new connections are closed at once
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from chat import protocol as p
from chat.errors import ChatError
from chat.records import conversation_of, notice
from tests.fakes.edge_people import People


class Peer:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.user = 0
        self.device = ""
        self.expected: dict[tuple[str, int], int] = {}
        self.watched: list[int] = []
        self.out, self.waiting = trio.open_memory_channel[bytes](100_000)

    def send(self, frame: p.Frame) -> None:
        try:
            self.out.send_nowait(p.frame(p.encode(frame)))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return

    async def write(self) -> None:
        async with self.waiting:
            async for data in self.waiting:
                await self.stream.send_all(data)


class FakeEdge(People):
    def __init__(self) -> None:
        self.address = ""
        self.users: dict[str, tuple[int, str]] = {}
        self.tokens: dict[str, int] = {}
        self.timelines: dict[str, list[p.Message]] = defaultdict(list)
        self.groups: dict[int, dict[str, Any]] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.read_marks: dict[tuple[int, str], int] = {}
        self.friends: dict[int, dict[int, str]] = defaultdict(dict)
        self.peers: set[Peer] = set()
        self.logins: list[str] = []  # login or resume, in order
        self.lose_deliveries = self.unknown_prev = False
        self.swallow = 0
        self.refuse: list[str] = []
        self.accept = True
        self.stale = False
        self.heartbeat_ms = 1000
        self.max_frame = p.MAX_FRAME
        self._numbers = itertools.count(1)
        self._positions = itertools.count(1)
        self._stored: dict[tuple[str, int, str, int], int] = {}  # (timeline, sender, conversation, stream) → next seq
        self._clock = 0

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator[FakeEdge]:
        edge = cls()
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            edge.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, edge.connection, [listener])
            yield edge
            nursery.cancel_scope.cancel()

    # -------------------------------------------------------------- harm

    def cut(self) -> None:
        for peer in list(self.peers):
            peer.stream.socket.close()

    def goodbye(self, code: int, retry_after_ms: int | None = None) -> None:
        for peer in list(self.peers):
            peer.send(p.GoodbyeFrame(code=code, reason="told to", retry_after_ms=retry_after_ms))
            peer.out.close()

    def resync(self) -> None:
        for peer in self.peers:
            if peer.user:
                peer.send(p.Resync())

    # -------------------------------------------------------------- connection

    async def connection(self, stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        self.peers.add(peer)
        try:
            async with stream, trio.open_nursery() as nursery:
                if self.accept:
                    nursery.start_soon(self._write, peer, nursery.cancel_scope)
                    await self._serve(peer)
                nursery.cancel_scope.cancel()
        finally:
            self.peers.discard(peer)
            self._presence(peer.user)

    async def _write(self, peer: Peer, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await peer.write()
        scope.cancel()

    async def _serve(self, peer: Peer) -> None:
        cutter = p.FrameCutter(p.MAX_FRAME)
        while True:
            try:
                data = await peer.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            cutter.feed(bytes(data))
            for body in cutter:
                assert len(body) <= self.max_frame
                request = p.decode_request(body)
                try:
                    answer = getattr(self, "on_" + str(request.__struct_config__.tag))(peer, request)
                except ChatError as error:
                    answer = p.Error(code=error.code, message=error.message, retriable=error.retriable, **error.fields)
                    if isinstance(request, p.Send):
                        answer = msgspec.structs.replace(
                            answer, to=request.to, group=request.group, stream=request.stream, seq=request.seq
                        )
                if answer is not None:
                    peer.send(msgspec.structs.replace(answer, rid=request.rid) if request.rid is not None else answer)
                if isinstance(request, p.LeaveNow):
                    peer.out.close()
                    await trio.sleep_forever()

    # -------------------------------------------------------------- opening

    def on_hello(self, peer: Peer, request: p.Hello) -> p.Frame:
        return p.Welcome(
            version=1, edge="fake", heartbeat_ms=self.heartbeat_ms, heartbeat_misses=5, max_frame=self.max_frame,
            server_time=self._now(),
        )  # fmt: skip

    def on_heartbeat(self, peer: Peer, request: p.Heartbeat) -> p.Frame:
        return p.HeartbeatReply()

    def on_goodbye(self, peer: Peer, request: p.LeaveNow) -> p.Frame:
        return p.GoodbyeFrame(code=1000, reason="asked for")

    def on_logout(self, peer: Peer, request: p.Logout) -> p.Frame | None:
        self.tokens = {token: user for token, user in self.tokens.items() if user != peer.user}
        peer.send(p.Ok(rid=request.rid))
        peer.send(p.GoodbyeFrame(code=1002, reason="logged out"))
        peer.out.close()
        return None

    def on_register(self, peer: Peer, request: p.Register) -> p.Frame:
        if request.name in self.users:
            raise ChatError("exists", f"{request.name} exists")
        user = next(self._numbers)
        self.users[request.name] = (user, request.password)
        return p.Registered(user=user)

    def on_login(self, peer: Peer, request: p.Login) -> p.Frame:
        user, password = self.users.get(request.name, (0, ""))
        if not user or password != request.password:
            raise ChatError("bad_credentials", "wrong name or password")
        token = f"token-{next(self._numbers)}"
        self.tokens[token] = user
        return self._opened(peer, user, request.device, token, "login")

    def on_resume(self, peer: Peer, request: p.Resume) -> p.Frame:
        if request.token not in self.tokens:
            raise ChatError("token_expired", "unknown token")
        return self._opened(peer, self.tokens[request.token], request.device, request.token, "resume")

    def _opened(self, peer: Peer, user: int, device: str, token: str, how: str) -> p.LoggedIn:
        for other in list(self.peers):
            if other.user == user and other.device == device:
                other.send(p.Replaced())
                other.send(p.GoodbyeFrame(code=1001, reason="replaced"))
                other.out.close()
                other.user = 0
        self.logins.append(how)
        groups = [g for g, group in self.groups.items() if user in group["members"] and not self.stale]
        timelines = [f"u{user}", *(f"g{g}" for g in groups)]
        new = (device, timelines[0]) not in self.cursors
        for timeline in timelines:
            self.cursors.setdefault((device, timeline), self._end(timeline) if new else 0)
        peer.user, peer.device = user, device
        self._presence(user)
        return p.LoggedIn(
            user=user, name=self._name(user), device=device, session=f"s{next(self._numbers)}", token=token,
            token_expires_at=self._now() + 10**9, new_device=new, groups=groups,
            cursors={t: self.cursors[device, t] for t in timelines},
        )  # fmt: skip

    # -------------------------------------------------------------- messages

    def on_send(self, peer: Peer, request: p.Send) -> p.Frame | None:
        conversation = f"g{request.group}" if request.group else f"u{request.to}"
        key = (conversation, request.stream)
        expected = peer.expected.get(key, request.seq)
        if request.seq > expected:
            raise ChatError("sequence_gap", "gap", expected=expected)
        if self.refuse and request.seq == expected:
            raise ChatError(self.refuse.pop(0), "told to refuse", retry_after_ms=1)
        if request.group and peer.user not in self.groups.get(request.group, {"members": ()})["members"]:
            raise ChatError("forbidden", "not a member")
        if request.to and request.to not in (user for user, _ in self.users.values()):
            raise ChatError("not_found", "no such user")
        if request.seq == expected:
            peer.expected[key] = request.seq + 1
            self._store(
                p.Message(
                    sender=peer.user, to=request.to, group=request.group, stream=request.stream, seq=request.seq,
                    text=request.text, extra=request.extra if request.extra is not None else UNSET, kind="text", sent_at=0,
                )
            )  # fmt: skip
        if self.swallow:
            self.swallow -= 1
            if not self.swallow:
                peer.stream.socket.close()
            return None
        return p.Accepted(to=request.to, group=request.group, stream=request.stream, seq=peer.expected[key] - 1)

    def on_ack(self, peer: Peer, request: p.Ack) -> None:
        key = (peer.device, request.timeline)
        before, self.cursors[key] = self.cursors.get(key, 0), max(self.cursors.get(key, 0), request.pos)
        texts = [m for m in self.timelines[request.timeline] if before < m.pos <= request.pos and m.kind == "text"]
        for sender in {m.sender for m in texts if m.group is None and m.sender != peer.user}:
            last = [m for m in texts if m.sender == sender][-1]
            extra = {"to": peer.user, "stream": last.stream, "seq": last.seq}
            self._deliver(notice("delivered", sender=peer.user, to=sender, sent_at=self._now(), extra=extra), [f"u{sender}"])

    def on_read(self, peer: Peer, request: p.Read) -> None:
        conversation = f"g{request.group}" if request.group else f"u{request.to}"
        self.read_marks[peer.user, conversation] = request.sent_at
        extra: dict[str, Any] = {"sent_at": request.sent_at} | ({"group": request.group} if request.group else {})
        to = peer.user if request.group else request.to
        message = notice("read", sender=peer.user, to=to, sent_at=self._now(), extra=extra)
        self._deliver(message, {f"u{peer.user}", f"u{to}"})

    def _store(self, message: p.Message) -> None:
        message.sent_at = self._now()
        if message.group:
            return self._deliver(message, [f"g{message.group}"])
        return self._deliver(message, {f"u{message.to}", f"u{message.sender}"})

    def _deliver(self, message: p.Message, timelines: Iterable[str]) -> None:
        for timeline in sorted(timelines):
            prev = self._end(timeline)
            record = msgspec.structs.replace(message, pos=next(self._positions) * 3)
            if message.kind == "text":
                key = (timeline, message.sender, conversation_of(timeline, message.sender, message.to, message.group))
                first = (*key, message.stream)
                if message.seq < self._stored.get(first, 0):
                    continue  # in the log twice: persist keeps the first
                self._stored[first] = message.seq + 1
            if message.kind not in p.STATE_KINDS:
                self.timelines[timeline].append(record)
            members = self.groups[message.group]["members"] if timeline[0] == "g" else [int(timeline[1:])]
            for peer in self.peers:
                if peer.user in members and not self.lose_deliveries:
                    peer.send(msgspec.structs.replace(record, prev=None if self.unknown_prev else prev))

    def on_sync(self, peer: Peer, request: p.Sync) -> p.Frame:
        after = request.after
        if request.timeline[0] == "g":
            after = max(after, self.groups[int(request.timeline[1:])]["since"][peer.user] - 1)
        rows = [m for m in self.timelines[request.timeline] if m.pos > after]
        page, more = rows[: request.limit], len(rows) > request.limit
        upto = page[-1].pos + 1 if more else max(self._end(request.timeline), request.after) + 1
        heads: Any = UNSET
        if request.fresh and not more:
            heads = []
            for (timeline, sender, conversation, stream), following in self._stored.items():
                if timeline == request.timeline:
                    # the conversation is named by who receives it: from the sender to the other end
                    me = int(timeline[1:]) if timeline[0] == "u" else 0
                    other = int(conversation[1:])
                    to = None if conversation[0] == "g" else (other if sender == me else me)
                    group = other if conversation[0] == "g" else None
                    heads.append(p.Head(sender=sender, to=to, group=group, stream=stream, next=following))
        return p.Synced(timeline=request.timeline, messages=page, upto=upto, complete=not more, heads=heads)

    def on_fetch(self, peer: Peer, request: p.Fetch) -> p.Frame:
        timeline = f"g{request.group}" if request.group else f"u{peer.user}"
        found = {
            m.seq: m for m in self.timelines[timeline]
            if m.sender == request.sender and m.stream == request.stream and (request.group or m.to == request.to)
        }  # fmt: skip
        return p.Fetched(
            messages=[found[seq] for seq in request.seqs if seq in found],
            void=[seq for seq in request.seqs if seq not in found],
            pending=[],
        )

    # -------------------------------------------------------------- reading

    def _visible(self, user: int) -> dict[str, list[p.Message]]:
        found: dict[str, list[p.Message]] = defaultdict(list)
        groups = [f"g{g}" for g, group in self.groups.items() if user in group["members"]]
        for timeline in (f"u{user}", *groups):
            for message in self.timelines[timeline]:
                if message.kind == "text" or message.group:
                    found[conversation_of(timeline, message.sender, message.to, message.group)].append(message)
        return found

    def on_conversations(self, peer: Peer, request: p.Conversations) -> p.Frame:
        found = []
        for name, messages in self._visible(peer.user).items():
            texts = [m for m in messages if m.kind == "text"]
            if not texts:
                continue
            other, mine = int(name[1:]), self.read_marks.get((peer.user, name), 0)
            theirs = self.read_marks.get((other, f"u{peer.user}"), 0) if name[0] == "u" else mine
            found.append(
                p.Conversation(
                    to=other if name[0] == "u" else None, group=other if name[0] == "g" else None, last=texts[-1],
                    unread=sum(m.sender != peer.user and m.sent_at > mine for m in texts), read=theirs, mine=mine,
                )
            )  # fmt: skip
        return p.ConversationsReply(conversations=sorted(found, key=lambda c: -c.last.sent_at), next=None)

    def on_history(self, peer: Peer, request: p.History) -> p.Frame:
        name = f"g{request.group}" if request.group else f"u{request.to}"
        rows = self._visible(peer.user)[name][::-1]
        start = int(request.before or 0)
        page = rows[start : start + request.limit]
        return p.HistoryReply(messages=page, next=str(start + len(page)) if start + len(page) < len(rows) else None)

    # -------------------------------------------------------------- bits

    def _end(self, timeline: str) -> int:
        rows = self.timelines[timeline]
        return rows[-1].pos if rows else 0

    def _now(self) -> int:
        self._clock = max(self._clock + 1, int(time.time() * 1000))
        return self._clock
