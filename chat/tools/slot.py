"""One part under supervision: started, watched until it ends, started again with a growing pause."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

import structlog
import trio

from chat.tools import priority
from chat.tools.parts import Part, write_files
from chat.tools.readiness import until
from chat.tools.running import Listener, Running
from chat.tools.state import Entry, State

log = structlog.get_logger()

#: Before the next start, by how often in a row it ended soon. The first time at once: an outage is as short as a start.
PAUSES: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: Having been ready for this long, a process counts as sound again.
SOUND_S: Final = 10.0


class Slot:
    """`changed` is called whenever what `entry` says has changed."""

    def __init__(self, part: Part, state: State, environ: Mapping[str, str], changed: Callable[[], None]) -> None:
        self.part = part
        self.ready = trio.Event()
        self.gone = trio.Event()
        self.state = "starting"
        self.restarts = 0
        self.started = False  # has a task that keeps it
        self.running: Running | None = None
        self._state = state
        self._environ = environ
        self._changed = changed
        self._ended_soon = 0
        self._stopping = False
        self._restarting = False
        self._pause = trio.CancelScope()

    def adopt(self, running: Running, ready: bool) -> None:
        """Take over a process of a supervisor that died."""
        self.running = running
        if ready:
            self.state = "running"
            self.ready.set()

    def entry(self) -> Entry:
        return Entry(
            name=self.part.name,
            role=self.part.role,
            address=self.part.address,
            state=self.state,
            pid=self.running.pid if self.running else None,
            started=self.running.identity.started if self.running else 0,
            fingerprint=self.part.fingerprint,
            restarts=self.restarts,
        )

    async def keep(self) -> None:
        """Run it until `stop`, in a task of its own. Cancelled, the process is left to the next supervisor."""
        try:
            while self.running is not None or not self._stopping:
                if self.running is None:
                    if not await self._prepare():
                        await self._before_next(None, 0)
                        continue
                    if self._stopping:
                        break
                began = trio.current_time()
                code = await self._watch()
                self.running = None
                if self.ready.is_set():  # who waits already goes on waiting for the next one to be ready
                    self.ready = trio.Event()
                if not self._stopping:
                    await self._before_next(code, trio.current_time() - began)
        finally:
            if self._stopping:
                self._set("stopped")
                self.gone.set()

    async def _prepare(self) -> bool:
        """Write the files; before the first start also what must be done once."""
        part, once = self.part, self.part.once
        self._set("starting")
        try:
            await trio.to_thread.run_sync(write_files, part)
            if once is None or once.done.exists():
                return True
            await trio.to_thread.run_sync(lambda: shutil.rmtree(once.clear, ignore_errors=True))
            with self._state.log(part.name).open("ab") as output:
                done = await trio.run_process(
                    once.command, stdout=output, stderr=subprocess.STDOUT, check=False, env=self._environ
                )
            if done.returncode == 0:
                once.done.touch()
                return True
            log.error("preparation_failed", part=part.name, code=done.returncode)
        except OSError as error:
            log.error("preparation_failed", part=part.name, error=str(error))
        return False

    async def _watch(self) -> int | None:
        """Start it unless it was adopted, and return when it has ended."""
        listener = Listener()
        try:
            await listener.open()
            started = self.running is None
            if self.running is None:
                try:
                    self.running = Running.start(self.part, self._state.log(self.part.name), self._environ, listener.address)
                except OSError as error:
                    log.error("not_started", part=self.part.name, error=str(error))
                    return None
                self._set("starting")
            async with trio.open_nursery() as nursery:
                if started and self.part.nice:
                    nursery.start_soon(self._yield, self.running.pid)
                if not self.ready.is_set():
                    nursery.start_soon(self._await_ready, listener)
                code = await self.running.exited()
                nursery.cancel_scope.cancel()
            return code
        finally:
            listener.close()

    async def _yield(self, pid: int) -> None:
        if not await priority.lower(pid, self.part.nice):
            log.warning("priority_kept", part=self.part.name, pid=pid)

    async def _await_ready(self, listener: Listener) -> None:
        if self.part.check:
            await until(self.part.check)
        else:
            await listener.ready()
        if not self._stopping:
            self.ready.set()
            self._set("running")

    async def _before_next(self, code: int | None, lived: float) -> None:
        self.restarts += 1
        if self._restarting:
            self._restarting = False
            self._set("starting")
            return
        self._ended_soon = 0 if lived > SOUND_S else self._ended_soon + 1
        pause = PAUSES[min(max(self._ended_soon - 1, 0), len(PAUSES) - 1)] * random.uniform(0.8, 1.2)
        log.warning("ended", part=self.part.name, code=code, lived_s=round(lived, 1), again_in_s=round(pause, 2))
        self._set("waiting" if pause else "starting")
        with trio.CancelScope() as self._pause:
            await trio.sleep(pause)

    async def stop(self, seconds: float | None = None) -> None:
        """End it for good. `seconds` instead of the part's own time to stop. Returns when it has ended."""
        self._stopping = True
        self._pause.cancel()
        if self.running:
            self._set("stopping")
            await self.running.stop(self.part.stop_s if seconds is None else seconds)
        await self.gone.wait()

    async def restart(self) -> None:
        """Stop it (it drains), and return when its successor is ready."""
        running = self.running
        if running is not None:
            self._restarting = True
            self._set("stopping")
            await running.stop(self.part.stop_s)
            while self.running is running:  # noqa: ASYNC110 - until `keep`, which is told at the same moment, has gone on
                await trio.sleep(0.01)
        await self.ready.wait()

    def _set(self, state: str) -> None:
        self.state = state
        self._changed()
