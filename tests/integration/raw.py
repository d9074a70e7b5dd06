"""A client made of a socket, for tests that hold the cluster to PROTOCOL: what is sent and got are plain bytes and dicts,
and nothing of the project's own protocol code is used."""

from __future__ import annotations

import itertools
import json
import secrets
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

Frame = dict[str, Any]
PATIENCE: Final = 15.0  # seconds; for a machine that is busy with other things too
PASSWORD: Final = "correct horse"
_numbers = itertools.count(1)


class Ended(Exception):
    """The edge has closed the connection."""


def packed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def encoded(frame: Frame) -> bytes:
    return packed(json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode())


class Raw:
    """One connection. Frames that came and were not asked for yet wait in `inbox`, in the order in which they came."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.inbox: list[Frame] = []
        self.user = 0
        self.logged_in: Frame = {}
        self.ended = False
        self._data = b""
        self._writing = trio.Lock()
        self._reading = trio.Lock()

    # -------------------------------------------------------------- bytes

    async def send_bytes(self, data: bytes) -> None:
        async with self._writing:
            await self.stream.send_all(data)

    async def send(self, kind: str, /, **fields: Any) -> None:
        await self.send_bytes(encoded({"type": kind, **{k.rstrip("_"): v for k, v in fields.items()}}))

    async def send_json(self, body: str | bytes) -> None:
        await self.send_bytes(packed(body if isinstance(body, bytes) else body.encode()))

    async def _read(self) -> None:
        """More frames into the inbox. Raises Ended."""
        while True:
            if len(self._data) >= 4:
                (length,) = struct.unpack(">I", self._data[:4])
                assert length <= 1 << 20, f"a frame of {length} bytes from the edge"
                if len(self._data) >= 4 + length:
                    body, self._data = self._data[4 : 4 + length], self._data[4 + length :]
                    frame = json.loads(body.decode(), parse_constant=_no_constant)
                    assert isinstance(frame, dict)
                    assert isinstance(frame.get("type"), str), frame
                    self.inbox.append(frame)
                    return
            try:
                data = await self.stream.receive_some(1 << 17)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.ended = True
                raise Ended
            self._data += data

    # -------------------------------------------------------------- frames

    async def take(self, fits: Callable[[Frame], bool], seconds: float = PATIENCE) -> Frame:
        """The first frame that fits, of those that wait or come; the others stay. Raises Ended; fails after `seconds`."""
        seen = 0
        with trio.move_on_after(seconds):
            while True:
                for at in range(seen, len(self.inbox)):
                    if fits(self.inbox[at]):
                        return self.inbox.pop(at)
                seen = len(self.inbox)
                await self._read()
        raise AssertionError(f"what was expected did not come within {seconds} s; there is {self.inbox!r:.2000}")

    async def expect(self, kind: str, /, seconds: float = PATIENCE, **fields: Any) -> Frame:
        wanted = {"type": kind, **{k.rstrip("_"): v for k, v in fields.items()}}
        return await self.take(lambda f: all(k in f and f[k] == v for k, v in wanted.items()), seconds)

    async def ask(self, kind: str, /, seconds: float = PATIENCE, **fields: Any) -> Frame:
        """A request; its answer, or its error."""
        rid = next(_numbers)
        await self.send(kind, rid=rid, **fields)
        return await self.take(lambda f: f.get("rid") == rid, seconds)

    async def done(self, kind: str, /, **fields: Any) -> Frame:
        """A request that has to succeed."""
        answer = await self.ask(kind, **fields)
        assert answer["type"] != "error", answer
        return answer

    async def refused(self, code: str, kind: str, /, **fields: Any) -> Frame:
        """A request that has to fail with `code`; the connection goes on."""
        answer = await self.ask(kind, **fields)
        assert (answer["type"], answer.get("code")) == ("error", code), answer
        assert isinstance(answer["message"], str)
        assert isinstance(answer["retriable"], bool)
        return answer

    async def silence(self, kind: str, /, **fields: Any) -> None:
        """No such frame has come by the time a heartbeat is answered that was sent now."""
        await self.send("heartbeat", rid=(rid := next(_numbers)))
        await self.take(lambda f: f.get("rid") == rid)
        wanted = {"type": kind, **{k.rstrip("_"): v for k, v in fields.items()}}
        found = [f for f in self.inbox if all(f.get(k) == v for k, v in wanted.items())]
        assert not found, found

    async def alive(self) -> None:
        await self.silence("nothing is of this type")

    async def goodbye(self, code: int, seconds: float = PATIENCE) -> Frame:
        """It says goodbye with this code and closes."""
        frame = await self.expect("goodbye", seconds, code=code)
        assert isinstance(frame["reason"], str)
        await self.closed(seconds)
        return frame

    async def closed(self, seconds: float = PATIENCE) -> None:
        with trio.move_on_after(seconds):
            while True:
                try:
                    await self._read()
                except Ended:
                    return
        raise AssertionError(f"the connection is still open after {seconds} s")

    # -------------------------------------------------------------- opening

    async def greet(self) -> Frame:
        await self.send("hello", version=1, client="raw/1.0")
        return await self.expect("welcome")

    async def log_in(self, name: str, *, device: str | None = None, password: str = PASSWORD) -> Frame:
        await self.send("login", name=name, password=password, device=device or new_device())
        return await self._opened()

    async def resume(self, token: str, device: str) -> Frame:
        await self.send("resume", token=token, device=device)
        return await self._opened()

    async def _opened(self) -> Frame:
        frame = await self.take(lambda f: f["type"] in {"logged_in", "error"})
        assert frame["type"] == "logged_in", frame
        self.user, self.logged_in = frame["user"], frame
        return frame

    # -------------------------------------------------------------- messages

    async def message(self, text: str, **fields: Any) -> Frame:
        return await self.expect("message", kind="text", text=text, **fields)

    async def say(self, text: str, *, stream: int, seq: int, **target: Any) -> Frame:
        """Send a text, return its `accepted`, which may say more."""
        await self.send("send", text=text, stream=stream, seq=seq, **target)
        return await self.take(
            lambda f: f["type"] in {"accepted", "error"} and f.get("stream") == stream and f.get("seq", -1) >= seq
        )

    async def synced(self, timeline: str, after: int, *, limit: int = 500) -> tuple[list[Frame], int]:
        """Sync until it is complete: all messages, and the last upto."""
        messages: list[Frame] = []
        with trio.fail_after(PATIENCE * 2):
            while True:
                answer = await self.done("sync", timeline=timeline, after=after, limit=limit)
                assert answer["type"] == "synced"
                assert answer["timeline"] == timeline
                messages += answer["messages"]
                if answer["complete"]:
                    return messages, answer["upto"]
                if answer["upto"] - 1 <= after:
                    await trio.sleep(0.05)  # as the protocol has it: an incomplete answer that brought nothing
                after = max(after, answer["upto"] - 1)

    async def persisted(self, **target: Any) -> list[Frame]:
        """The newest page of history, once what was accepted before this call has come into it."""
        await self.synced(f"g{target['group']}" if "group" in target else f"u{self.user}", 0)
        answer = await self.done("history", limit=500, **target)
        messages: list[Frame] = answer["messages"]
        return messages


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def new_name(who: str = "user") -> str:
    return f"{who}-{secrets.token_hex(6)}"


def new_device() -> str:
    return f"device-{secrets.token_hex(6)}"


def new_stream() -> int:
    return secrets.randbits(48)


async def open_raw(address: str) -> Raw:
    """A bare connection."""
    host, _, port = address.rpartition(":")
    with trio.fail_after(PATIENCE):
        return Raw(await trio.open_tcp_stream(host, int(port)))


async def beat(raw: Raw) -> None:
    """Says a heartbeat every second once it is logged in, as clients do; ends with the connection."""
    while not raw.ended:
        await trio.sleep(1)
        if raw.logged_in:
            try:
                await raw.send("heartbeat")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


class World:
    """The cluster as its users see it: doors to knock on, and people who are on line."""

    def __init__(self, nursery: trio.Nursery, doors: Mapping[str, str]) -> None:
        self._nursery = nursery
        self.doors = doors  # "here" and "there" are two edges, "front" is nginx
        self._open: list[Raw] = []

    async def connect(self, door: str = "here", *, beats: bool = True) -> Raw:
        """A connection that has said nothing yet."""
        raw = await open_raw(self.doors[door])
        self._open.append(raw)
        if beats:
            self._nursery.start_soon(beat, raw)
        return raw

    async def greeted(self, door: str = "here", *, beats: bool = True) -> Raw:
        raw = await self.connect(door, beats=beats)
        await raw.greet()
        return raw

    async def person(self, who: str = "user", door: str = "here", *, beats: bool = True) -> Raw:
        """A new user, logged in."""
        raw = await self.greeted(door, beats=beats)
        name = new_name(who)
        await raw.done("register", name=name, password=PASSWORD)
        await raw.log_in(name)
        return raw

    async def device_of(self, raw: Raw, door: str = "here", *, device: str | None = None) -> Raw:
        """Another connection of the same user: a new device, or the one named."""
        other = await self.greeted(door)
        await other.log_in(raw.logged_in["name"], device=device)
        return other

    async def again(self, raw: Raw, door: str = "here") -> Raw:
        """The same device with its token, after `raw` has ended."""
        other = await self.greeted(door)
        await other.resume(raw.logged_in["token"], raw.logged_in["device"])
        return other

    async def close(self) -> None:
        for raw in self._open:
            await trio.aclose_forcefully(raw.stream)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Ask again and again, for what follows the log a little later. Fails after `seconds`."""
    with trio.move_on_after(seconds):
        while True:
            if await condition():
                return
            await trio.sleep(0.03)
    raise AssertionError(f"not so after {seconds} s")


async def leave(raw: Raw) -> None:
    """A graceful end."""
    await raw.send("goodbye")
    await raw.goodbye(1000)
