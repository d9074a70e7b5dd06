"""Names of users and groups, from MySQL, where they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from chat.errors import SetupError
from chat.persist.queries import places
from chat.ports import Database, Statement
from chat.protocol import decode_message
from chat.records import Topics, decode_presence, decode_receipts, unpack_deliveries
from chat.tools.logmerge import Sourced
from chat.tools.replay.lines import mentioned

_TOGETHER: Final = 500
_MOST: Final = 100_000  # names kept
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def user_number(database: Database | None, text: str) -> int:
    """`alice`, `id:42` or `u42`. Only a name needs MySQL. Raises SetupError where nobody has the name, PartError."""
    number = text.removeprefix("id:") if text.startswith("id:") else text[1:] if text[:1] == "u" else ""
    if number.isascii() and number.isdigit():
        return int(number)
    if database is None:
        raise SetupError(f"{text!r}: say id:NUMBER where MySQL is not to be asked")
    (result,) = await database.read([Statement("SELECT id FROM users WHERE name = %s", (text,))])
    if not result.rows:
        raise SetupError(f"no user is called {text!r}; a number is written id:42")
    found: int = result.rows[0][0]
    return found


class Names:
    """Grows as it is asked; those that nobody has are remembered too."""

    def __init__(self, database: Database, topics: Topics) -> None:
        self._database = database
        self._topics = topics
        self._asked: set[str] = set()
        self.known: dict[str, str] = {}

    async def learn(self, batch: Sequence[Sourced]) -> None:
        """The names of all that a batch mentions. Raises PartError."""
        await self.ask({of for one in batch for of in self._mentioned(one)})

    async def ask(self, whom: Iterable[str]) -> None:
        """u42, g7."""
        new = sorted(of for of in set(whom) - self._asked if of[1:].isdigit() and int(of[1:]) < 2**63)
        for table, column, letter in (("users", "name", "u"), ("chat_groups", "name", "g")):
            ids = [int(of[1:]) for of in new if of[0] == letter]
            for at in range(0, len(ids), _TOGETHER):
                some = ids[at : at + _TOGETHER]
                (result,) = await self._database.read(
                    [Statement(f"SELECT id, {column} FROM {table} WHERE id IN ({places(some)})", some)]
                )
                self.known |= {f"{letter}{number}": _text(name) for number, name in result.rows}
        if len(self._asked) + len(new) > _MOST:
            self._asked.clear()
        self._asked.update(new)

    def _mentioned(self, one: Sourced) -> Iterable[str]:
        (topic, _), record = one
        topics = self._topics
        try:
            if topics.generation_of(topic) is not None:
                return mentioned(decode_message(record.value))
            if topic == topics.receipts:
                return [f"u{decode_receipts(record.value).user}"]
            if topic == topics.presence:
                return [f"u{decode_presence(record.value).user}"]
            if topic.startswith(topics.edge_prefix):
                deliveries = unpack_deliveries(record.value).deliveries
                return [of for d in deliveries for of in mentioned(decode_message(d.payload))]
        except _MALFORMED:
            pass
        return ()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
