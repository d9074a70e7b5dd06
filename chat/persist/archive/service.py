"""The archiver as a process: ports opened, looks taken until SIGTERM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio
from msgspec.structs import replace

from chat.admin.http import serve_http
from chat.bridge import open_bridge, open_database
from chat.config import Config, MysqlConfig
from chat.errors import SetupError
from chat.metrics import ArchiveMetrics
from chat.notify import READY, notify
from chat.persist.archive.archiver import Archiver
from chat.persist.archive.folder import NO_URL, NoFolder, open_folder
from chat.stopping import stop_on_signals

log = structlog.get_logger()

#: A statement of the archiver may take longer than one that a client waits for: a histogram of ten million rows.
TIMEOUT_MS = 120_000


def patient(config: MysqlConfig) -> MysqlConfig:
    return replace(config, timeout_ms=max(config.timeout_ms, TIMEOUT_MS), connections=4)


@asynccontextmanager
async def open_archiver(
    config: Config, metrics: ArchiveMetrics | None = None, *, needed: bool = True
) -> AsyncIterator[Archiver]:
    """Within the bridge. Raises SetupError: no [archive] url (not where the archive is not `needed`, unless something turns
    out to be archived), or none that is understood."""
    if not config.archive.url and needed:
        raise SetupError(NO_URL)
    folder = open_folder(config.archive.url) if config.archive.url else NoFolder()
    async with open_database(patient(config.mysql)) as database:
        yield Archiver(config.archive, database=database, folder=folder, metrics=metrics or ArchiveMetrics())


async def run_archiver(config: Config) -> None:
    """Until SIGTERM: the slices under way are finished. Raises SetupError."""
    metrics, stop = ArchiveMetrics(), trio.Event()
    async with open_bridge(), open_archiver(config, metrics) as archiver, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signals, stop)
        if config.archive.metrics:
            await nursery.start(serve_http, config.archive.metrics, metrics.registry, lambda: "")
        log.info("ready", role="archiver", name=config.archive.name)
        notify(READY)
        await archiver.serve(stop)
        nursery.cancel_scope.cancel()
    log.info("stopped", role="archiver", name=config.archive.name)
