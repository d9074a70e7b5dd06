"""What the rest of the project asks of Kafka, Redis and MySQL. The bridge has the real adapters, `tests/fakes` the fakes;
one contract suite holds both to what is written here.

Every method takes or returns many, since a crossing of the bridge costs about 50 µs. All raise PartAway in a bounded time
when the server is away. **Cancelling**: a cancelled call returns only when its driver is out of mid-command (bounded by
the time-out); its outcome is then unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from chat.errors import Conflict, PartAway, PartError
from chat.records import Consumed, Record, TopicPartition

# ------------------------------------------------------------------ Kafka


class Producer(Protocol):
    """An idempotent producer with acks=all. Not for concurrent use: one `produce` at a time."""

    async def produce(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Mapping[TopicPartition, int | PartError]:
        """Append each batch to its partition, in order and in one go per partition; returns when the outcome of all is
        known or given up: the offset of the batch's first record, or a PartError. **PartAway means unknown**: the batch
        may be in the log, may come into it later, or never. BadData and NoSuchTopic: certainly not in the log (too
        large …; no such partition, now).

        After any PartError the driver's producer has been thrown away; the next call begins with a new one.
        A batch must fit `max_batch_bytes`; larger ones are cut by the caller (`records.cut`).
        """
        ...


class Poll(NamedTuple):
    """What a group consumer has got. `assignment` is what it owns now; `regained` the partitions that were (re)assigned
    since the poll before, even if they were owned before too: they have no position until `seek`."""

    assignment: frozenset[TopicPartition]
    regained: frozenset[TopicPartition]
    records: Mapping[TopicPartition, Sequence[Consumed]]


class GroupConsumer(Protocol):
    """A member of a consumer group. Reads nothing of a regained partition until `seek` has said from where."""

    async def poll(self, max_wait: float, max_records: int) -> Poll:
        """Records fetched, waiting up to `max_wait` seconds for the first. Records of partitions that were lost or
        regained since they were fetched are not returned."""
        ...

    async def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read on from here. Partitions that are no longer owned are passed over."""
        ...

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """The group's committed next offsets; None where there is none."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit next offsets. Raises GroupMoved (a Conflict) after or during a rebalance: poll on, it was lost."""
        ...

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Keep them but fetch nothing (polling must go on)."""
        ...

    async def resume(self, partitions: Sequence[TopicPartition]) -> None: ...

    async def position_lag(self) -> Mapping[TopicPartition, int]:
        """Records between what was fetched and the end, as last heard of."""
        ...


class LogReader(Protocol):
    """Reads given partitions from given offsets, in no group."""

    async def assign(self, offsets: Mapping[TopicPartition, int]) -> None: ...

    async def poll(self, max_wait: float, max_records: int) -> Mapping[TopicPartition, Sequence[Consumed]]:
        """Raises OutOfRange when a position is no longer in the log."""
        ...


class OutOfRange(PartError):
    """Positions outside the log: trimmed before them, or a topic that was made anew."""

    def __init__(self, partitions: Mapping[TopicPartition, int]) -> None:
        super().__init__("kafka", f"offsets out of range: {dict(partitions)}")
        self.partitions = partitions


class NoSuchTopic(PartAway):
    """The topic or partition is not there (now): nothing of the batch is in the log."""


class GroupMoved(Conflict):
    """A commit was refused, since the group has moved on: the partitions may be another's. Poll on."""

    def __init__(self, message: str) -> None:
        PartError.__init__(self, "kafka", f"the group has moved on: {message}")
        self.index = self.found = 0


class LogAdmin(Protocol):
    """Metadata and administration."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has now; 0 where it does not exist."""
        ...

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offset to be written, asked for after the call was made."""
        ...

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...

    async def offsets_at(self, times: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int | None]:
        """The first offset with a timestamp at or after this many milliseconds; None: all are older."""
        ...

    async def group_offsets(self, group: str, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """What a consumer group has committed, asked from outside of it; None where there is nothing."""
        ...

    async def topics(self) -> frozenset[str]:
        """The names of all topics, as they are now."""
        ...

    async def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """The ids of those that exist."""
        ...

    async def create_topic(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> bool:
        """False where it exists already."""
        ...

    async def delete_topics(self, names: Sequence[str]) -> None: ...

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None: ...


# ------------------------------------------------------------------ Redis

#: One command, as redis takes it: ("HSET", key, field, value).
Command = tuple[str | bytes | int | float, ...]


class Memory(Protocol):
    """Redis."""

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Run the commands in order in one round trip, not as a transaction. Replies are bytes, ints, None or lists as
        RESP2 gives them; a command that failed has its PartError in its place (BadData for a wrong type …)."""
        ...

    async def run_id(self) -> str:
        """Identifies this run of this server: another after a restart or a fail-over."""
        ...


# ------------------------------------------------------------------ MySQL


class Statement(NamedTuple):
    """`sql` with %s places. `changes`: how many rows it must change, else all is rolled back with Conflict."""

    sql: str
    args: Sequence[Any] = ()
    changes: int | None = None


class Result(NamedTuple):
    rows: Sequence[tuple[Any, ...]]
    changed: int
    last_id: int


class Database(Protocol):
    """MySQL 8 or MariaDB 10.11: a bounded pool, autocommit reads, utf8mb4, READ COMMITTED unless said otherwise.
    A deadlock or lock time-out is PartAway (roll back, try again with back-off)."""

    async def read(self, statements: Sequence[Statement]) -> list[Result]:
        """Each on its own, in order, on one connection, autocommit."""
        ...

    async def snapshot(self, statements: Sequence[Statement]) -> list[Result]:
        """All in one consistent snapshot (REPEATABLE READ, read only)."""
        ...

    async def write(self, statements: Sequence[Statement]) -> list[Result]:
        """All in one transaction. Raises Conflict, BadData (`duplicate` for a unique key) or PartAway (unknown whether
        it was committed only if the COMMIT itself was under way); nothing is half done."""
        ...

    async def script(self, sql: Sequence[str]) -> None:
        """Definitions (migrations), statement by statement."""
        ...

    def lock(self, name: str) -> Lock:
        """`async with database.lock(name) as held`: entering does not wait; False where another has it."""
        ...


class Lock(Protocol):
    """A named lock of the database that a dead holder cannot keep."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *exc: object) -> None: ...
    async def held(self) -> bool:
        """Is it still ours? False once the connection that holds it is lost."""
        ...
