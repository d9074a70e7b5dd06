"""What is hot, what is archived, the last run and the next: for `chat archive status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from chat.admin.console import when
from chat.config import ArchiveConfig
from chat.persist.archive.folder import shown
from chat.persist.archive.plan import HOUR_MS
from chat.ports import Database, Statement


@dataclass(frozen=True)
class Status:
    """Times in ms; None where there is nothing. `hot_rows` is counted, `hot_bytes` the server's own estimate. `next_run`:
    when rows are moved for their age at the earliest; None: archiving is off."""

    url: str
    slices: int
    rows: int
    bytes: int
    oldest: int | None
    newest: int | None
    files_to_remove: int
    hot_rows: int
    hot_bytes: int
    hot_oldest: int | None
    last_run: int | None
    last_why: str | None
    last_rows: int | None
    last_seconds: float | None
    running_since: int | None
    next_run: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        last = (
            f"{when(self.last_run)} ({self.last_why}): {self.last_rows:,} rows in {self.last_seconds:.1f} s"
            if self.last_run is not None
            else "never"
        )
        lines = {
            "archive": self.url or "off: [archive] url is empty",
            "slices": f"{self.slices:,}",
            "rows": f"{self.rows:,}",
            "bytes": f"{self.bytes:,}",
            "oldest": when(self.oldest) or "-",
            "newest": when(self.newest) or "-",
            "to remove": f"{self.files_to_remove:,} files",
            "hot rows": f"{self.hot_rows:,}",
            "hot bytes": f"{self.hot_bytes:,} (as the server estimates)",
            "hot oldest": when(self.hot_oldest) or "-",
            "last run": last,
            "running": f"since {when(self.running_since)}, or cut off" if self.running_since else "no",
            "next run": when(self.next_run) or "never",
        }
        return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


async def read_status(database: Database, config: ArchiveConfig, now: int) -> Status:
    """Counts the hot rows: seconds, where there are millions."""
    cold, files, hot, size, ended, last, by_itself = await database.read(
        [
            Statement(
                "SELECT COUNT(*), IFNULL(SUM(row_count), 0), IFNULL(SUM(byte_count), 0), MIN(min_sent_at), MAX(max_sent_at)"
                " FROM archive_slices"
            ),
            Statement("SELECT COUNT(*) FROM archive_files WHERE state = 'gone'"),
            Statement("SELECT COUNT(*), MIN(sent_at) FROM messages FORCE INDEX (by_conversation)"),
            Statement(
                "SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE()"
                " AND table_name = 'messages'"
            ),
            Statement(
                "SELECT began_at, ended_at, why, row_count FROM archive_runs WHERE ended_at IS NOT NULL"
                " ORDER BY id DESC LIMIT 1"
            ),
            Statement("SELECT began_at, ended_at FROM archive_runs ORDER BY id DESC LIMIT 1"),
            Statement("SELECT MAX(began_at) FROM archive_runs WHERE ended_at IS NOT NULL AND why <> 'asked'"),
        ]
    )
    slices, rows, size_cold, oldest, newest = cold.rows[0]
    began_at, ended_at, why, moved = ended.rows[0] if ended.rows else (None, None, None, None)
    running = last.rows[0][0] if last.rows and last.rows[0][1] is None else None
    next_run = None
    if config.url:
        due = (by_itself.rows[0][0] or 0) + int(config.run_hours * HOUR_MS)
        next_run = max(now, due)
    return Status(
        url=shown(config.url) if config.url else "",
        slices=int(slices),
        rows=int(rows),
        bytes=int(size_cold),
        oldest=oldest,
        newest=newest,
        files_to_remove=int(files.rows[0][0]),
        hot_rows=int(hot.rows[0][0]),
        hot_bytes=int(size.rows[0][0] or 0),
        hot_oldest=hot.rows[0][1],
        last_run=began_at,
        last_why=why,
        last_rows=moved,
        last_seconds=None if began_at is None else (ended_at - began_at) / 1000,
        running_since=running,
        next_run=next_run,
    )
