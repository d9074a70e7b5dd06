"""The outbox at work: entries are stored, sent in order, sent again, and followed by their marks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

import trio

from chat import protocol
from chat.client.connection import Connection, ConnectionLost
from chat.client.marks import Marks, Own
from chat.client.outbox import Changes, Entry, Outbox
from chat.client.store import Store
from chat.errors import ChatError
from chat.protocol import Extra

GIVE_UP_DAYS: Final = 25  # below the 30 after which a server forgets a stream


def new_stream() -> int:
    """A random 48-bit number."""
    return secrets.randbits(48)


class Sending:
    """`changed` gets the own messages whose state has moved."""

    def __init__(self, store: Store, changed: Callable[[Sequence[Own]], None]) -> None:
        saved = store.outbox()
        self.marks = Marks()
        self.marks.changed(Changes(put=tuple(saved)))
        self._store = store
        self._changed = changed
        self._outbox = Outbox(new_stream(), new_stream, saved, keeps=True, jitter=secrets.randbelow(1000) / 1000)
        self._connection: Connection | None = None
        self._moved = trio.Event()

    def __len__(self) -> int:
        """How many are not accepted."""
        return len(self._outbox)

    def add(self, conversation: str, text: str, extra: Extra | None, seen: int | None, receipt: bool) -> Entry:
        """Number, store and send a message. Raises OutboxFull, TooLarge."""
        changes = self._outbox.add(
            conversation, text, created=_now_ms(), extra=extra, seen=seen, receipt=receipt
        )  # fmt: skip
        self._keep(changes)
        self.pump()
        return changes.put[0]

    def connected(self, connection: Connection, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._keep(self._outbox.expire(_now_ms() - GIVE_UP_DAYS * 86_400_000))
        self._outbox.connected(trio.current_time())
        self.pump()
        nursery.start_soon(self._run, connection)

    def disconnected(self) -> None:
        self._connection = None
        self._keep(self._outbox.disconnected())

    def accepted(self, frame: protocol.Accepted) -> None:
        conversation = f"u{frame.to}" if frame.group is None else f"g{frame.group}"
        self._keep(self._outbox.accepted(conversation, frame.stream, frame.seq, trio.current_time()))

    def refused(self, frame: protocol.Error) -> None:
        self._keep(self._outbox.refused(frame, trio.current_time()))

    def pump(self) -> None:
        """Send what may go."""
        try:
            while self._connection and self._post(self._connection):
                pass
        except ConnectionLost:
            return  # all is sent again on the next
        self._moved.set()

    def _post(self, connection: Connection) -> bool:
        """True where some were held back: an edge may take shorter frames than the one they were composed for. Such a
        message is refused in the edge's place, and so is for now what is behind it: the edge must not see that first."""
        held: dict[tuple[str, int], list[protocol.Error]] = {}
        for entry in self._outbox.sends(trio.current_time()):
            lane = (entry.conversation, entry.stream)
            request = entry.request()
            if lane in held:
                held[lane].append(_refusal(request, "sequence_gap"))
                continue
            try:
                connection.post(request)
            except ChatError:
                held[lane] = [_refusal(request, "bad_request")]
        for refusals in held.values():
            for refusal in refusals:
                self.refused(refusal)
        return bool(held)

    def _keep(self, changes: Changes) -> None:
        self._store.put_entries(changes)
        self._outbox.stored(changes)
        if moved := self.marks.changed(changes):
            self._changed(moved)

    async def _run(self, connection: Connection) -> None:
        """What comes due without anything coming: retries, and an edge that answers nothing."""
        while True:
            self._moved = trio.Event()
            with trio.move_on_at(self._outbox.next_tick or float("inf")):
                await self._moved.wait()
            if self._outbox.stalled(trio.current_time()):
                connection.abort("messages are not answered")
                return
            if not self._moved.is_set():
                self.pump()


def _refusal(send: protocol.Send, code: str) -> protocol.Error:
    return protocol.Error(code=code, message="", to=send.to, group=send.group, stream=send.stream, seq=send.seq)


def _now_ms() -> int:
    return int(time.time() * 1000)
