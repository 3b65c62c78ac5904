"""Logging: one line of JSON per event on stderr, facts in ``extra``, ids from the context.

Call ``setup_logging`` once, in ``main``. Elsewhere: ``logging.getLogger(__name__)``, a constant message,
``extra={...}``. Secrets and whole payloads are never logged; should one come here all the same, ``redact`` hides it.

A line has ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``process``, ``message``, then what the context says
(request, service, worker, site …), the trace id and the facts; ``exc_info`` is the traceback.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from libs.common.redact import presentable, redact
from libs.common.settings import CommonSettings
from libs.common.tracing import current_trace_id

_context: ContextVar[Mapping[str, Any] | None] = ContextVar("wattring_log_context", default=None)

QUIET = {
    # Ten lines a second while a broker is away, and passwords at DEBUG; what matters comes out of its calls.
    "aiokafka": logging.CRITICAL,
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "opentelemetry": logging.ERROR,
    "pymodbus": logging.CRITICAL,
    "alembic": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.CRITICAL,
}
"""Loggers of libraries that say too much, or say what we say ourselves in our words."""

_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; all else came by ``extra``."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09} | {
    0x0A: "\\n",
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""What begins a line, moves the cursor or turns the direction of writing."""


@contextmanager
def log_context(**facts: Any) -> Iterator[None]:
    """Add facts (site, device, correlation id …) to every line logged within the block."""
    token = _context.set({**(_context.get() or {}), **facts})
    try:
        yield
    finally:
        _context.reset(token)


def current_context() -> Mapping[str, Any]:
    """Return the facts that lines logged here would have."""
    return _context.get() or {}


def setup_logging(settings: CommonSettings, process: str) -> None:
    """Configure the root logger of this process; ``process`` names it in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process) if settings.log_format == "json" else TextLines(process))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(settings.log_level)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # their words on our handler
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """For machines: one JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; whatever a record holds, there is one."""
        line: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": _message_of(record),
        }
        for name, value in _facts_of(record).items():
            line.setdefault(name, value)
        if record.exc_info or record.stack_info:
            line["exc_info"] = _trace_of(record)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextLines(logging.Formatter):
    """For a person at a terminal: time, level, process, logger, message, facts; a traceback below."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; control characters are written out, so that no value can imitate a line."""
        facts = " ".join(f"{name}={value}" for name, value in _facts_of(record).items())
        text = f"{_time_of(record)} {record.levelname:<7} {self._process} {record.name}: {_message_of(record)}"
        text = (f"{text}  {facts}" if facts else text).translate(_CONTROL)
        return f"{text}\n{_trace_of(record)}" if record.exc_info or record.stack_info else text


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message_of(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # a library's arguments do not fit its text: still worth a line
        message = f"{record.msg} {record.args}"
    return str(presentable(message))


def _facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return context, trace id and extra, the nearest winning, ready to be read by anyone."""
    facts = {**current_context(), **{name: value for name, value in vars(record).items() if name not in _RECORD}}
    trace_id = current_trace_id()
    if trace_id is not None:
        facts.setdefault("trace_id", trace_id)
    shown: dict[str, Any] = presentable(facts)
    return shown


def _trace_of(record: logging.LogRecord) -> str:
    parts = [] if not record.exc_info else traceback.format_exception(*record.exc_info)
    if record.stack_info:
        parts.append(record.stack_info)
    return redact("".join(parts).encode("utf-8", "replace").decode().rstrip())
