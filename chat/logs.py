"""structlog, set up once per process. Logs go to standard error; standard output is for data."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from chat.config import Config


def set_up_logs(config: Config, **process: Any) -> None:
    """JSON lines, or text for people. `process` (role, name) is in every line. Colours only on a terminal without
    NO_COLOR. The drivers' own logging is shown from warnings on, in the same form."""
    level = getattr(logging, config.log_level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: Any
    if config.log_format == "json":
        last = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
        shared.pop()  # the console renderer formats exceptions itself
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=shared))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # aiokafka tells every retry as an error; the adapters report what comes of it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
