"""The archive's own tables: statements for a slice that comes, that is replaced, that goes.

A file's life: `writing` in archive_files (before a byte of it is written) → in archive_slices (the row in archive_files
goes in the same transaction) → `gone` in archive_files → removed. So every file that may be there is in one of the two
tables, and one that another archiver has declared gone can no more become a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from chat.persist.archive.plan import Range
from chat.persist.archive.rows import where
from chat.persist.archive.slices import Made, Stretch
from chat.persist.queries import text
from chat.ports import Database, Statement

#: What was begun and has not become a slice.
GIVE_UP: Final = "UPDATE archive_files SET state = 'gone', since = %s WHERE state = 'writing'"
#: Rows of the index in a statement.
_TOGETHER: Final = 5_000
#: In `slice_comes`: the statement that fails where the file was declared gone.
FENCE: Final = 0


class Slice(NamedTuple):
    """A row of archive_slices."""

    id: int
    file: str
    rows: int
    size: int
    checksum: bytes
    min_sent_at: int
    max_sent_at: int
    created_at: int


_SLICE: Final = "SELECT id, file, row_count, byte_count, checksum, min_sent_at, max_sent_at, created_at FROM archive_slices"


async def slices(database: Database, condition: str = "TRUE", *args: object) -> list[Slice]:
    """In order of their ids."""
    (result,) = await database.read([Statement(f"{_SLICE} WHERE {condition} ORDER BY id", args)])
    return [Slice(row[0], text(row[1]), row[2], row[3], bytes(row[4]), *row[5:]) for row in result.rows]


async def index_of(database: Database, slice_id: int) -> list[Stretch]:
    """In order of their rows."""
    (result,) = await database.read(
        [
            Statement(
                "SELECT timeline, conversation, first_row, row_count, min_position, max_position, min_sent_at, max_sent_at"
                " FROM archive_index WHERE slice = %s ORDER BY first_row",
                (slice_id,),
            )
        ]
    )
    return [Stretch(text(row[0]), text(row[1]), *row[2:]) for row in result.rows]


async def is_slice(database: Database, file: str) -> bool:
    (result,) = await database.read([Statement("SELECT 1 FROM archive_slices WHERE file = %s", (file,))])
    return bool(result.rows)


def file_begun(file: str, now: int) -> Statement:
    return Statement("INSERT INTO archive_files (file, state, since) VALUES (%s, 'writing', %s)", (file, now), 1)


def file_given_up(file: str, now: int) -> Statement:
    """It never became a slice; or somebody has declared it gone already."""
    return Statement(
        "UPDATE archive_files SET state = 'gone', since = %s WHERE file = %s AND state = 'writing'", (now, file)
    )


def slice_comes(file: str, made: Made, now: int) -> list[Statement]:
    """The first fails (FENCE) where the file was declared gone meanwhile."""
    return [
        Statement("DELETE FROM archive_files WHERE file = %s AND state = 'writing'", (file,), 1),
        Statement(
            "INSERT INTO archive_slices (file, row_count, byte_count, checksum, min_sent_at, max_sent_at, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (file, made.rows, len(made.data), made.checksum, made.min_sent_at, made.max_sent_at, now),
            1,
        ),
        Statement("SET @slice = LAST_INSERT_ID()"),
        *_index(made.stretches),
    ]


def _index(stretches: Sequence[Stretch]) -> Iterator[Statement]:
    for at in range(0, len(stretches), _TOGETHER):
        rows = ",".join(
            f"('{s.timeline}','{s.conversation}',@slice,{s.first},{s.rows},"
            f"{s.min_position},{s.max_position},{s.min_sent_at},{s.max_sent_at})"
            for s in stretches[at : at + _TOGETHER]
        )
        yield Statement(
            "INSERT INTO archive_index (timeline, conversation, slice, first_row, row_count,"
            f" min_position, max_position, min_sent_at, max_sent_at) VALUES {rows}"
        )


def slice_goes(one: Slice, now: int) -> list[Statement]:
    """Its file is removed later: somebody may be reading it."""
    return [
        Statement("DELETE FROM archive_slices WHERE id = %s", (one.id,), 1),
        Statement("DELETE FROM archive_index WHERE slice = %s", (one.id,)),
        Statement("INSERT INTO archive_files (file, state, since) VALUES (%s, 'gone', %s)", (one.file, now), 1),
    ]


def rows_go(rows: Range, before: int, count: int | None) -> Statement:
    """`count`: exactly so many, or all is rolled back."""
    condition, args = where(rows)
    return Statement(
        f"DELETE messages FROM messages FORCE INDEX (PRIMARY) WHERE {condition} AND sent_at < %s", (*args, before), count
    )
