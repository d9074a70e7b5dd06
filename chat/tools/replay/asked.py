"""What the command line asks for, made into topics, spans and a test of records."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import click

from chat.errors import SetupError
from chat.message_id import MessageId, parse_id
from chat.ports import Database
from chat.tools.logsource import Limits, LogSource, Span
from chat.tools.replay.names import user_number
from chat.tools.replay.selection import Wanted, Which, by_key, in_deliveries, in_messages, parse_time

TOPICS: Final = ("messages", "receipts", "presence", "edges", "dead")


class Options(NamedTuple):
    """As given."""

    topic: str = "messages"
    edges: tuple[str, ...] = ()
    generation: int | None = None
    partitions: tuple[int, ...] = ()
    since: str | None = None
    until: str | None = None
    first: int | None = None
    to: int | None = None
    user: str | None = None
    group: int | None = None
    conversation: str | None = None
    message: str | None = None

    @property
    def needs_names(self) -> bool:
        """A name must be looked up in MySQL."""
        given = (self.user, self.conversation)
        return any(text is not None and not is_number(text) for text in given)


class Asked(NamedTuple):
    topics: list[str]
    limits: Limits
    which: Which


def is_number(text: str) -> bool:
    """`id:42`, `u42`, `g7`."""
    rest = text.removeprefix("id:") if text.startswith("id:") else text[1:] if text[:1] in ("u", "g") else ""
    return rest.isascii() and rest.isdigit()


def limits_of(options: Options, now: int | None = None) -> Limits:
    """Raises UsageError."""
    now = int(time.time() * 1000) if now is None else now
    try:
        since = None if options.since is None else parse_time(options.since, now)
        until = None if options.until is None else parse_time(options.until, now)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since is not before --until: the range is empty")
    if options.first is not None and options.to is not None and options.first >= options.to:
        raise click.UsageError("--from is not below --to: the range is empty")
    return Limits(since, until, options.first, options.to, frozenset(options.partitions) or None)


def message_of(options: Options) -> MessageId | None:
    """Raises UsageError."""
    if options.message is None:
        return None
    try:
        return parse_id(options.message)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


async def which_of(options: Options, database: Database | None) -> Which:
    """Raises UsageError, SetupError (nobody has the name), PartError."""
    user = None if options.user is None else await user_number(database, options.user)
    conversation = options.conversation
    if conversation is not None and not (conversation[0] in "ug" and conversation[1:].isdigit()):
        conversation = f"u{await user_number(database, conversation)}"
    if conversation is not None and conversation[0] == "u" and user is None:
        raise click.UsageError(f"--conversation {options.conversation}: with --user, in whose timeline")
    return Which(user, options.group, conversation, message_of(options))


async def asked_of(options: Options, source: LogSource, database: Database | None) -> Asked:
    """Raises UsageError, SetupError, PartError."""
    limits, which = limits_of(options), await which_of(options, database)
    topics = await topics_of(options, source)
    if (limits.first is not None or limits.to is not None) and len(topics) > 1:
        names = ", ".join(topics)
        more = "--generation" if options.topic == "messages" else "--edge"
        raise click.UsageError(f"--from and --to are offsets of one topic, and there are {names}: say {more} too")
    return Asked(topics, limits, which)


async def topics_of(options: Options, source: LogSource) -> list[str]:
    """Raises SetupError, PartError."""
    names = source.topics
    if options.topic == "messages":
        if options.generation is not None:
            return [await _there(source, names.generation_topic(options.generation))]
        return await source.message_topics()
    if options.topic == "edges":
        if options.edges:
            return [await _there(source, names.edge(edge)) for edge in options.edges]
        return await source.edge_topics()
    return [
        await _there(source, {"receipts": names.receipts, "presence": names.presence, "dead": names.dead}[options.topic])
    ]


async def _there(source: LogSource, topic: str) -> str:
    if await source.admin.partitions(topic) == 0:
        raise SetupError(f"Kafka has no topic {topic}; `chat status` and `chat config` say where this looks")
    return topic


def wanted_of(asked: Asked, topic: str) -> Wanted | None:
    """The test of one record; None: all are wanted."""
    limits = asked.limits
    chosen = {"messages": in_messages, "edges": in_deliveries}.get(topic, by_key)(asked.which)
    if limits.since is None and limits.until is None:
        return chosen
    within = limits.within
    if chosen is None:
        return lambda _, record: within(record)
    fits = chosen
    return lambda partition, record: within(record) and fits(partition, record)


def trimmed(spans: list[Span], limits: Limits) -> list[str]:
    """What was asked for and is not in the log any more, in words."""
    if limits.first is None:
        return []
    return [
        f"{s.partition.topic}/{s.partition.partition} begins at offset {s.first} now: what lay before it was trimmed"
        for s in spans
        if limits.first < s.first
    ]
