"""The agent's log on stderr, with stable event names and without secrets: JSON lines, or columns on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog

_JSON = structlog.processors.JSONRenderer()


def configure_logs(level: int = logging.INFO) -> None:
    """Configure structlog for this process, unless it is already configured."""
    if structlog.is_configured():
        return
    # Tracebacks with local variables would contain tokens.
    for_eyes = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    last = [for_eyes] if sys.stderr.isatty() else [structlog.processors.format_exc_info, _JSON]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
