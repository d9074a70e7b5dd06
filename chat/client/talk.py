"""Talking by lines: events become lines, lines become messages or commands. What `chat talk` is made of.

A line is written once: what was received is numbered in the store, and the number of the last line written is kept there
too, so that a restart begins with what came in after it.

With a local history a conversation is shown from the disk at once, also off line; what the server has and this device
lacks is written when it has come.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Final

import trio

from chat.client import events as ev
from chat.client.connection import ConnectionLost, RequestTimeout
from chat.client.outbox import Entry
from chat.client.screen import Screen
from chat.client.sdk import Client, LoggedOut
from chat.client.text import MARKS, clean, clock, colour, cut, pad
from chat.errors import ChatError
from chat.protocol import Message
from chat.records import conversation_of

FAILED_KEPT: Final = 100
OPENED: Final = 10  # lines of a conversation that is opened
LISTED: Final = 20  # conversations shown before the server answers
FOUND: Final = 50  # lines of a search
ON_SCREEN: Final = 2_000  # messages written lately: they are not written again by what comes later


class Usage(Exception):
    """A command was written wrongly; the text says how it is."""


class Talk:
    def __init__(self, client: Client, screen: Screen) -> None:
        self.client, self.screen = client, screen
        self.current: str | None = None  # conversation
        self.failed: deque[Entry] = deque(maxlen=FAILED_KEPT)
        self.failures = 0  # commands and messages
        self._newest: dict[str, Entry] = {}  # own message by conversation
        self._mark = ""
        self._on_screen: dict[tuple[object, ...], None] = {}
        self._lacking = trio.Event()  # the current conversation may lack what the server has

    # -------------------------------------------------------------- events

    async def follow(self) -> None:
        """Write what happens, until the client has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fill)
            await self._unwritten()
            self.refresh()
            async for event in self.client.events():
                await self._event(event)
                self.refresh()
            nursery.cancel_scope.cancel()

    async def _unwritten(self) -> None:
        """What an earlier run received and did not come to write."""
        written = int(self.client.store.get("written") or 0)
        for number, timeline, message in self.client.store.received_after(written):
            conversation = conversation_of(timeline, message.sender, message.to, message.group)
            await self._message(ev.MessageShown(conversation, message, timeline, number, None))
        if sealed := self.client.store.sealed_after(written):
            self.note(f"{sealed} messages of an earlier run lie sealed in the local history: start with its password")

    async def _event(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageShown):
            await self._message(event)
        elif isinstance(event, ev.EntryChanged):
            await self._own(event)
        elif isinstance(event, ev.PresenceChanged):
            for user, online in event.users.items():
                self.note(f"{await self.client.user_name(user)} is {'on line' if online else 'off line'}")
        elif isinstance(event, ev.LocalHistorySaid):
            self.note(f"local history: {clean(event.text)}")
        elif isinstance(event, ev.StartedOver):
            self.note("away for long: what was missed here is in /history")
        elif isinstance(event, ev.Connected):
            self._lacking.set()
            if self.screen.interactive:
                self.note(f"connected to {event.edge}{' again' if event.again else ''}")
        elif isinstance(event, ev.Disconnected):
            if event.retry_in is None:
                self.note(f"the end: {clean(event.ended.reason)}")
            elif self.screen.interactive:
                self.note(f"not connected ({clean(str(event.ended))}); trying again")

    async def _message(self, event: ev.MessageShown) -> None:
        message = event.message
        # the own ones are written when they are accepted
        if event.entry is None and self._new(event.conversation, message):
            await self._write(event.conversation, message)
        seen = message.kind == "text" and event.conversation == self.current
        if seen and message.sender != self.client.user:
            self.client.mark_read(event.conversation)
        self.client.store.put("written", str(event.number))

    async def _own(self, event: ev.EntryChanged) -> None:
        entry, name = event.entry, await self.title(event.entry.conversation)
        if event.state == "accepted":
            self._newest[entry.conversation] = entry
            if self._first((entry.conversation, self.client.user, entry.stream, entry.seq)) or not self.screen.interactive:
                self.screen.write(self._own_line(entry, name, MARKS["accepted"]))
        elif event.state == "failed":
            self.failed.append(entry)
            self.failures += 1
            mark = colour(f"{MARKS['failed']} ({event.why}), /retry sends it again", "red", self.screen.colours)
            self.screen.write(self._own_line(entry, name, mark))
        elif event.state in ("delivered", "read") and self._newest.get(entry.conversation) == entry:
            self._mark = f"{MARKS[event.state]}: {cut(clean(entry.text), 30)}"
            if not self.screen.interactive:
                self.note(f"{MARKS[event.state]} {name}: {clean(entry.text)}")

    # -------------------------------------------------------------- lines

    def _new(self, conversation: str, message: Message) -> bool:
        """Not written by this run, as far as it is remembered; it counts as written now."""
        which = (message.stream, message.seq) if message.kind == "text" else (message.kind, message.pos)
        return self._first((conversation, message.sender, *which))

    def _first(self, which: tuple[object, ...]) -> bool:
        if which in self._on_screen:
            return False
        self._on_screen[which] = None
        if len(self._on_screen) > ON_SCREEN:
            del self._on_screen[next(iter(self._on_screen))]
        return True

    async def _write(self, conversation: str, message: Message, ask: bool = True) -> None:
        if message.kind == "text":
            self.screen.write(await self.line(conversation, message, ask))
        elif text := await self.notice(conversation, message, ask):
            self.note(text, message.sent_at)

    async def line(self, conversation: str, message: Message, ask: bool = True) -> str:
        """A message of kind text as a line. `ask`: the server too for names that are not known here."""
        text = clean(message.text) if isinstance(message.text, str) else ""
        at = colour(f"[{clock(message.sent_at)}]", "dim", self.screen.colours)
        mine = message.sender == self.client.user
        title = await self.title(conversation, ask)
        if mine:
            return f"{at} → {title}: {text}"
        sender = colour(await self._name(message.sender, ask), "cyan", self.screen.colours)
        return f"{at} {sender}: {text}" if conversation[0] == "u" else f"{at} {title} {sender}: {text}"

    async def notice(self, conversation: str, message: Message, ask: bool = True) -> str:
        """What a message of another kind says; empty where it needs no words."""
        me = self.client.user
        extra = message.extra if isinstance(message.extra, dict) else {}
        who = await self._name(message.sender, ask)
        other = await self._name(message.to, ask) if message.to else ""
        text = f": {clean(message.text)}" if isinstance(message.text, str) and message.text else ""
        match message.kind:
            case "friend_request":
                return (
                    f"you asked {other}" if message.sender == me else f"{who} asks to be your friend{text} (/accept {who})"
                )
            case "friend_accepted":
                return f"you and {other if message.sender == me else who} are friends"
            case "friend_rejected":
                return "" if message.sender == me else f"{who} does not want to be your friend"
            case "friend_removed":
                return "" if message.sender == me else f"{who} is no friend any more"
            case "group_invited":
                return f"{who} invites you to {clean(str(extra.get('name', '')))} (/join {extra.get('group')})"
            case "group_joined" | "group_left" | "group_removed":
                return await self._membership(message, extra, ask)
        return ""

    async def _membership(self, message: Message, extra: dict[str, object], ask: bool) -> str:
        group, user = extra.get("group"), extra.get("user")
        if not isinstance(group, int) or not isinstance(user, int):
            return ""
        own = user == self.client.user
        if own == (message.group is not None):
            return ""  # of two records of one event, one is told: the own one to him, the group's to the others
        verb = {"group_joined": "came into", "group_left": "left", "group_removed": "removed from"}[message.kind]
        who = "you" if own else clean(str(extra.get("name") or await self._name(user, ask)))
        return f"{who} {'were ' if own and verb[0] == 'r' else ''}{verb} {await self.title(f'g{group}', ask)}"

    def _own_line(self, entry: Entry, name: str, mark: str) -> str:
        at = colour(f"[{clock(entry.created)}]", "dim", self.screen.colours)
        return f"{at} → {name}: {clean(entry.text)}  {mark}"

    async def _name(self, user: int, ask: bool) -> str:
        return clean(await self.client.user_name(user) if ask else self.client.name_of(f"u{user}"))

    async def title(self, conversation: str, ask: bool = True) -> str:
        """`bob` or `#tea`."""
        if conversation[0] == "u":
            return await self._name(int(conversation[1:]), ask)
        if conversation not in self.client.names and self.client.connected and ask:
            with suppress(ChatError, RequestTimeout, ConnectionLost, LoggedOut):  # then it is called by its number
                await self.client.groups()
        name = clean(self.client.names.get(conversation, ""))
        return f"#{name}" if name else f"#{conversation[1:]}"

    def note(self, text: str, sent_at: int | None = None) -> None:
        at = clock(sent_at if sent_at is not None else int(time.time() * 1000))
        self.screen.write(colour(f"[{at}] * {text}", "dim", self.screen.colours))

    def refresh(self) -> None:
        """The status row and the prompt."""
        client = self.client
        name = client.name_of(self.current) if self.current else ""
        title = clean(f"#{name}" if self.current and self.current[0] == "g" else name)
        waiting = len(client.sending)
        unread = [(s.conversation, s.unread) for s in client.conversations if s.unread and s.conversation != self.current]
        parts = [
            f"{client.name} @ {client.edge}" if client.connected else "not connected",
            f"{MARKS['sending']} {waiting} waiting" if waiting else self._mark,
            " ".join(f"{clean(client.name_of(c))} ({n})" for c, n in unread[:8]),
        ]
        self.screen.status(" · ".join(p for p in parts if p), f"{title or 'nobody'}> ")

    # -------------------------------------------------------------- what is typed

    def say(self, text: str, conversation: str | None = None) -> None:
        """Send to a conversation, by default the current one. Raises Usage where there is none."""
        to = conversation or self.current
        if to is None:
            raise Usage("to whom? /to NAME or /to #GROUP first; /help shows the commands")
        self.client.send_text(to, text)

    def sorry(self, text: str) -> None:
        self.failures += 1
        self.screen.write(colour(f"! {clean(text)}", "red", self.screen.colours))

    async def open(self, target: str) -> None:
        """Make a conversation the current one."""
        self.current = await self.resolve(target)
        self._mark = ""
        if self.screen.interactive:
            await self.history(self.current, OPENED, wait=self.client.shelf is None)
        self.client.mark_read(self.current)

    async def begin(self, target: str | None) -> None:
        """Before the server answers: what is on the disk of the conversation, or the list of all."""
        client = self.client
        if target is None:
            for conversation in (await client.local_conversations())[:LISTED]:
                for message in (await client.local(conversation, 1)).messages:
                    if isinstance(message.text, str):
                        title = pad(await self.title(conversation, ask=False), 20)
                        self.screen.write(f"{title} [{clock(message.sent_at)}] {clean(message.text)}")
        elif known := self._known(target):
            self.current = known
            await self.history(known, OPENED, wait=False)
            self.refresh()

    def _known(self, target: str) -> str | None:
        """`bob`, `#tea` or `#7` by the names that this device has; None where it has none, or several."""
        wanted = target[1:] if target.startswith("#") else target
        kind = "g" if target.startswith("#") else "u"
        found = [k for k, name in self.client.names.items() if k[0] == kind and (name == wanted or k == f"g{wanted}")]
        return found[0] if len(found) == 1 else None

    async def resolve(self, target: str) -> str:
        """`bob`, `#tea` or `#7` as a conversation. Raises Usage, ChatError `not_found`."""
        if not target.startswith("#"):
            return f"u{await self.client.find_user(target)}"
        wanted = target[1:]
        if not self.client.connected and (known := self._known(target)):
            return known
        groups = await self.client.groups()
        found = [g.group for g in groups if wanted in (g.name, str(g.group))]
        if len(found) > 1:
            numbers = ", ".join(f"#{g}" for g in found)
            raise Usage(f"several groups are called {wanted}: {numbers}")
        if not found:
            raise Usage(f"you are in no group {target}; /groups shows yours, /join NUMBER goes into one")
        return f"g{found[0]}"

    async def history(self, conversation: str, limit: int, *, wait: bool = True) -> None:
        """Write the newest lines of a conversation. `wait`: also for the server; else what is on the disk, and what it
        lacks is written when it has come."""
        page = await (self.client.past(conversation, limit) if wait else self.client.local(conversation, limit))
        for message in reversed(page.messages):
            self._new(conversation, message)
            await self._write(conversation, message, ask=wait or self.client.connected)
        if not wait:
            self._lacking.set()
        elif not page.whole and not self.client.connected:
            self.note("not connected: this is what lies on this device")

    async def _fill(self) -> None:
        """Write what the server has of the current conversation and the screen lacks."""
        while True:
            await self._lacking.wait()
            self._lacking = trio.Event()
            conversation = self.current
            if conversation is None or self.client.shelf is None or not self.screen.interactive:
                continue
            with suppress(ChatError, RequestTimeout, ConnectionLost, LoggedOut):  # the next connection tries again
                page = await self.client.past(conversation, OPENED)
                for message in reversed(page.messages):
                    if self._new(conversation, message):
                        await self._write(conversation, message)
                self.client.mark_read(conversation)
                self.refresh()

    async def find(self, text: str, conversation: str | None) -> None:
        """Write what is on the disk with `text` in it, the newest last."""
        lines: list[str] = []
        async for hit in self.client.find(text, conversation):
            if len(lines) == FOUND:
                lines.append(f"the newest {FOUND}; a longer text finds fewer")
                break
            lines.append(await self.line(hit.conversation, hit.message, self.client.connected))
        self.screen.write(*(reversed(lines) if lines else ["nothing on this device"]))

    # -------------------------------------------------------------- the end of input

    async def finish(self) -> bool:
        """Everything is accepted, everything missed is read and written. False where something failed."""
        client = self.client
        await client.wait_until(lambda: len(client.sending) == 0 and client.caught_up)
        await client.wait_until(client.all_taken)
        return self.failures == 0
