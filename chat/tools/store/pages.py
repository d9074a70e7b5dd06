"""What reading the record takes: pages of history and of a search, and syncs, each asked for by a user on a connection of
his own, one request at a time, through nginx and an edge.

**Walk**: conversations are read back from their newest page, as far as `depth`; places of pages are kept. **First**: on
edges that were just started, in any order, each page once. **Again**: the same in another order. A page is **cold** where
all of it lies in files, **hot** where nothing does, else on the **border**.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from chat import protocol
from chat.bridge import open_bridge, open_database
from chat.config import Config
from chat.errors import SetupError
from chat.ports import Statement
from chat.tools.cluster import wait_ready
from chat.tools.control import ask
from chat.tools.load.accounts import Account
from chat.tools.load.cluster import find_cluster
from chat.tools.load.histogram import Histogram
from chat.tools.state import State
from chat.tools.store.read import Reader, log_in

PAGE: Final = 50
READY_S: Final = 120.0
#: Conversations of one person that are read.
_EACH: Final = 6
#: Pages of a search that are asked for before the next word.
_SEARCH_PAGES: Final = 12
#: Common, rare, in no message, in Chinese, a word's end, an emoji.
WORDS: Final = ("kernel", "headers", "no such word", "今天开会", "ing the", "😂")

Say = Callable[[str], None]
Latencies = dict[str, Histogram]


class Place(NamedTuple):
    """A page: of whom, with whom, behind which cursor. `kind`: hot, cold, border. `after`: a sync from here brings about a
    page; None: not asked for."""

    person: int
    to: int | None
    group: int | None
    before: str | None
    kind: str
    after: int | None


class Reading:
    """`people` log in to `server`."""

    def __init__(self, server: tuple[str, int], people: Sequence[Account], border: int, seed: int, say: Say) -> None:
        self._server, self._people, self._border, self._say = server, people, border, say
        self._random = Random(seed)
        self.latencies: Latencies = {}

    def _took(self, name: str, seconds: float) -> None:
        self.latencies.setdefault(name, Histogram()).add(round(seconds * 1e6))

    # ------------------------------------------------------------------ history

    async def walk(self, conversations: int, depth: int) -> list[Place]:
        """At least so many conversations where there are as many, `depth` pages of each."""
        places: list[Place] = []
        walked = 0
        for number in self._random.sample(range(len(self._people)), len(self._people)):
            async with log_in(self._server, self._people[number]) as reader:
                listed = await self._conversations(reader)
                for one in self._random.sample(listed, min(_EACH, len(listed))):
                    places += await self._walk_one(reader, number, one, depth)
                    walked += 1
            self._say(f"{walked} conversations walked through, {len(places)} pages")
            if walked >= conversations:
                break
        return places

    def some(self, places: list[Place], most: int) -> list[Place]:
        """At most so many, by chance, as many of each kind as there are, up to an equal share."""
        kinds = sorted({place.kind for place in places})
        chosen: list[Place] = []
        for at, kind in enumerate(kinds):
            mine = [place for place in places if place.kind == kind]
            room = (most - len(chosen)) // (len(kinds) - at)
            chosen += self._random.sample(mine, min(len(mine), room))
        return chosen

    async def _conversations(self, reader: Reader) -> list[dict[str, Any]]:
        took, answer = await reader.ask(protocol.Conversations())
        self._took("list of conversations", took)
        return answer.conversations

    async def _walk_one(self, reader: Reader, person: int, one: dict[str, Any], depth: int) -> list[Place]:
        places: list[Place] = []
        before: str | None = None
        to, group = one.get("to"), one.get("group")
        for _ in range(depth):
            took, page = await reader.ask(protocol.History(to=to, group=group, limit=PAGE, before=before))
            if not page.messages:
                break
            newest, oldest = page.ends()
            kind = "hot" if oldest.sent_at > self._border else "cold" if newest.sent_at <= self._border else "border"
            self._took(f"{kind} page, in order", took)
            places.append(Place(person, to, group, before, kind, oldest.pos - 1))
            before = page.next
            if before is None:
                break
        return places

    async def read(self, places: Sequence[Place], name: str) -> None:
        """Each once, in any order; a person's one after the other, so that logging in is not all that is done."""
        for number in self._in_any_order(places):
            mine = [place for place in places if place.person == number]
            self._random.shuffle(mine)
            async with log_in(self._server, self._people[number]) as reader:
                for place in mine:
                    request = protocol.History(to=place.to, group=place.group, limit=PAGE, before=place.before)
                    took, _ = await reader.ask(request)
                    self._took(f"{place.kind} page, {name}", took)

    async def sync(self, places: Sequence[Place], name: str) -> None:
        """About a page of the timeline from each place on."""
        for number in self._in_any_order(places):
            async with log_in(self._server, self._people[number]) as reader:
                user = self._people[number].user
                for place in places:
                    if place.person == number and place.after is not None:
                        timeline = f"u{user}" if place.group is None else f"g{place.group}"
                        took, _ = await reader.ask(protocol.Sync(timeline=timeline, after=place.after, limit=PAGE))
                        self._took(f"{place.kind} sync, {name}", took)

    def _in_any_order(self, places: Sequence[Place]) -> list[int]:
        people = sorted({place.person for place in places})
        self._random.shuffle(people)
        return people

    # ------------------------------------------------------------------ search

    async def search(self, people: int) -> None:
        """Each word, everywhere and in one conversation, page after page."""
        for number in self._random.sample(range(len(self._people)), min(people, len(self._people))):
            async with log_in(self._server, self._people[number]) as reader:
                listed = await self._conversations(reader)
                groups = [found for found in listed if found.get("group")]  # they are long
                one = self._random.choice(groups or listed) if listed else None
                for word in WORDS:
                    await self._search(reader, word, None, "everywhere")
                    if one is not None:
                        await self._search(reader, word, one, "in a conversation")
            self._say(f"{sum(h.count for h in self.latencies.values())} requests made")

    async def _search(self, reader: Reader, word: str, one: dict[str, Any] | None, where: str) -> None:
        before: str | None = None
        to, group = (one.get("to"), one.get("group")) if one else (None, None)
        for page in range(_SEARCH_PAGES):
            took, answer = await reader.ask(protocol.Search(text=word, to=to, group=group, limit=PAGE, before=before))
            self._took(f"{where}, {'first page' if page == 0 else 'further pages'}", took)
            before = answer.next
            if before is None:
                break


async def border_of(config: Config) -> int:
    """What was sent up to then (ms) is archived, what was sent later is not; -1: nothing is. Raises PartError."""
    async with open_bridge(), open_database(config.mysql) as database:
        (result,) = await database.read([Statement("SELECT COALESCE(MAX(max_sent_at), -1) FROM archive_slices")])
        return int(result.rows[0][0])


async def new_edges(folder: Path, say: Say) -> None:
    """Edges that have read nothing yet. Raises SetupError."""
    state = State(folder)
    found = state.processes()
    names = [entry.name for entry in found.processes if entry.role == "edge"] if found else []
    answer = await ask(state, {"do": "restart", "names": names})
    if answer != {"ok": True}:
        raise SetupError(f"the edges were not started anew: {answer}")
    await wait_ready(state, READY_S, say)


def server_of(folder: Path) -> tuple[str, int]:
    return find_cluster(folder).server()
