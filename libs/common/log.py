"""Logging: one line of JSON per event on stderr, facts in ``extra``, ids from the context.

Call ``setup_logging`` once, in ``main``. Elsewhere: ``logging.getLogger(__name__)``, a constant message,
``extra={...}``. Secrets and whole payloads are never logged.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from libs.common.settings import CommonSettings
from libs.common.tracing import current_trace_id

_context: ContextVar[dict[str, Any] | None] = ContextVar("wattring_log_context", default=None)

QUIET = {
    "aiokafka": logging.CRITICAL,  # ten lines a second while a broker is away; what matters comes out of its calls
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "pymodbus": logging.CRITICAL,
    "alembic": logging.WARNING,
    "uvicorn.access": logging.WARNING,
}
"""Loggers of libraries that say too much, or say what we say ourselves in our words."""


@contextmanager
def log_context(**facts: Any) -> Iterator[None]:
    """Add facts (site, device, correlation id …) to every line logged within the block."""
    token = _context.set({**(_context.get() or {}), **facts})
    try:
        yield
    finally:
        _context.reset(token)


class _ContextFilter(logging.Filter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def filter(self, record: logging.LogRecord) -> bool:
        record.process_name = self._process
        for name, value in (_context.get() or {}).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        trace_id = current_trace_id()
        if trace_id is not None:
            record.trace_id = trace_id
        return True


class _TextFormatter(logging.Formatter):
    """For a person at a terminal: time, level, message, facts."""

    _plain = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "process_name", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        facts = " ".join(f"{k}={v}" for k, v in vars(record).items() if k not in self._plain)
        return f"{text}  {facts}" if facts else text


def setup_logging(settings: CommonSettings, process: str) -> None:
    """Configure the root logger of this process; ``process`` names it in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_ContextFilter(process))
    if settings.log_format == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}{process_name}",
                style="{",
                rename_fields={
                    "asctime": "time",
                    "levelname": "level",
                    "name": "logger",
                    "process_name": "process",
                },
                json_ensure_ascii=False,
            )
        )
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(process_name)s %(name)s: %(message)s"))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(settings.log_level)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
