"""The cluster of the rows about the record: its own folder, a store in its database, as large as a row wants it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from msgspec import Struct

from chat.bridge import open_bridge, open_database
from chat.errors import SetupError
from chat.ports import Statement
from chat.settings import Loaded, load
from chat.tools.bench.running import chat, run_report, tell
from chat.tools.cluster import bring_up, take_down, wait_ready
from chat.tools.load.report import Report
from chat.tools.state import State

FIRST_PORT: Final = 27_500
READY_S: Final = 180.0
#: For the archiver's first look, which goes once through the table.
LOOK_S: Final = 900.0
#: Beyond all: the archiver that runs beside persist moves nothing by itself.
NEVER: Final = 1_000_000_000
#: Days: a fifth of the two years of a store stays hot.
HOT_DAYS: Final = 146.0
WHOLE_TOWN: Final = 125_000
_SERVICES: Final = {"edges": 1, "routers": 1, "persists": 1}

Say = Callable[[str], None]


class Kept(Struct):
    """What the folder's store is, written beside it. `whole`: its making has come to its end."""

    rows: int = 0
    archived: bool = False
    whole: bool = True


def store_settings(file: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Readers ask faster than a person; the archiver does nothing unasked. Raises SettingsError."""
    flags: dict[tuple[str, ...], Any] = {
        ("up", "first_port"): FIRST_PORT,
        **{("up", name): 0 for name in _SERVICES},
        ("edge", "requests_per_second"): 100_000.0,
        ("edge", "requests_burst"): 100_000,
        ("archive", "age_days"): 10_000.0,
        ("archive", "max_rows"): NEVER,
        ("archive", "keep_rows"): NEVER,
    }
    return load(file, environ, flags, cluster=False)


class StoreCluster:
    """`folder` is its own. Comes up when it is first needed."""

    def __init__(
        self, folder: Path, loaded: Loaded, *, owner: int | None, scale: float, data: Path | None, say: Say
    ) -> None:
        self.folder, self._loaded, self._owner, self._scale, self._data, self._say = folder, loaded, owner, scale, data, say
        self._state = State(folder)
        self._is_up = False

    async def have(self, rows: int, archived: bool) -> None:
        """A store of so many rows: all hot, or a fifth of them. One that cannot become so is made anew. Raises
        SetupError."""
        await self._up()
        kept = self._kept()
        if kept.rows > rows or (kept.archived and not (archived and kept.rows == rows)):
            self._say(f"a store of {rows:,} rows{'' if archived else ', none of them archived'}: it is made anew")
            await self.down()
            await trio.to_thread.run_sync(shutil.rmtree, self.folder)
            await self._up()
            kept = Kept()
        if kept.rows < rows or not kept.whole:
            await self._services(dict.fromkeys(_SERVICES, 0))
            self._keep(Kept(rows, whole=False))
            await self._chat("store", "make", "--rows", str(rows), *self._town(), *self._logs())
            self._keep(Kept(rows))
        await self._services(_SERVICES)
        await self._archiver_rests()
        if archived and not kept.archived:
            self._keep(Kept(rows, True))
            await self._chat("archive", "run", "--once", "--older-than", f"{HOT_DAYS:g}", state=False)

    def archiving(self) -> None:
        """What is done next leaves the store archived."""
        self._keep(Kept(self._kept().rows, True))

    async def report(self, words: Sequence[str]) -> Report:
        return await run_report([*words, "--state", str(self.folder)])

    async def down(self) -> None:
        self._is_up = False
        await take_down(self._state, True, self._say)

    # ------------------------------------------------------------------ parts

    async def _up(self) -> None:
        if not self._is_up:
            await bring_up(self._state, self._loaded, self._owner, False, self._say)
            self._is_up = True

    async def _services(self, numbers: Mapping[str, int]) -> None:
        await tell(self._state, {"do": "scale", **numbers}, f"the cluster was not scaled to {dict(numbers)}")
        await wait_ready(self._state, READY_S, self._say)

    async def _archiver_rests(self) -> None:
        """Its first look is over; the next is a day away."""
        config = load(self._state.settings, {}).config
        looked = Statement("SELECT COUNT(*), COALESCE(SUM(ended_at IS NULL), 0) FROM archive_runs")
        with trio.move_on_after(LOOK_S):
            async with open_bridge(), open_database(config.mysql) as database:
                while True:
                    (result,) = await database.read([looked])
                    runs, open_ones = result.rows[0]
                    if runs and not open_ones:
                        return
                    await trio.sleep(0.5)
        raise SetupError(
            f"the archiver is not done with its first look after {LOOK_S:g} s: see its log in {self._state.logs}"
        )

    async def _chat(self, *words: str, state: bool = True) -> None:
        where = ["--state", str(self.folder)] if state else ["--config", str(self._state.settings)]
        done = await trio.run_process([*chat(*words), *where], check=False, capture_stdout=True)
        if done.returncode:
            raise SetupError(f"chat {' '.join(words)} ended with {done.returncode}")
        self._say(done.stdout.decode().strip())

    def _town(self) -> list[str]:
        return [] if self._scale == 1 else ["--town-rows", str(max(1_000, int(WHOLE_TOWN * self._scale)))]

    def _logs(self) -> list[str]:
        return [] if self._data is None else ["--data", str(self._data)]

    # ------------------------------------------------------------------ what it is

    @property
    def _file(self) -> Path:
        return self.folder / "store.json"

    def _kept(self) -> Kept:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError):
            return Kept()

    def _keep(self, kept: Kept) -> None:
        self._file.write_bytes(msgspec.json.encode(kept))
