"""Fields of rows as a binary COPY takes them (PostgreSQL 18, SQL command COPY, "Binary Format").

For rows by the hundred thousand: most of their fields are the same in very many rows, and are written as bytes once.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from struct import Struct

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Signature, no flags, no extension."""
TRAILER = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COUNT = Struct("!h")
_INTEGER = Struct("!ii")
_TIME = Struct("!iq")
_LENGTH = Struct("!i")


def begin_row(fields: int) -> bytes:
    """Return how a row of so many fields begins."""
    return _COUNT.pack(fields)


def integer(value: int) -> bytes:
    """Return a field of type ``integer``."""
    return _INTEGER.pack(4, value)


def texts(values: Iterable[str]) -> list[bytes]:
    """Return fields of type ``text``; the connection's encoding is UTF-8, as asyncpg sets it."""
    return [_LENGTH.pack(len(encoded)) + encoded for encoded in map(str.encode, values)]


def instant(value: datetime) -> bytes:
    """Return a field of type ``timestamptz``; the time knows its zone."""
    return _TIME.pack(8, (value - _EPOCH) // _MICROSECOND)


def wall_time(value: datetime) -> bytes:
    """Return a field of type ``timestamp``; the time has no zone."""
    return instant(value.replace(tzinfo=UTC))
