"""The clock as an argument: wall time for events, monotonic time for durations."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

CIVIL_ZONE = ZoneInfo("Asia/Shanghai")
"""Civil days, tariffs and plans without a zone of their own are counted here."""


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> object:
        """Do not call it; nothing when it was called or cancelled already."""


class Clock(Protocol):
    """What code that needs time is given instead of reading it."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never step back, for durations. [s]"""

    async def sleep(self, delay_s: float) -> None:
        """Wait. [s]"""

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in the running loop after ``delay_s``, unless it is cancelled; cheaper than a task. [s]"""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC. [s]"""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait without blocking the loop. [s]"""
        await asyncio.sleep(max(delay_s, 0.0))

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in the running loop after ``delay_s``. [s]"""
        return asyncio.get_running_loop().call_later(max(delay_s, 0.0), call)


def require_aware(value: datetime, name: str) -> datetime:
    """Return ``value`` in UTC.

    Raises:
        ValueError: It carries no offset; a time without one is never guessed.
    """
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError(f"{name} has no time zone: {value.isoformat()}")
    return value.astimezone(UTC)
