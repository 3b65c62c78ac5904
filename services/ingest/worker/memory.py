"""What a device remembers, as the owner of its line offers it to whoever fills gaps."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.ingest.drivers.port import ArchiveSession, RawReport

Result = TypeVar("Result")


class SpareTime(Protocol):
    """Does something on the line when nothing else wants it."""

    async def __call__(self, job: Callable[[], Awaitable[Result]]) -> Result:
        """Return what ``job`` returns. Raises ``LineDown``, and whatever the job raises."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one device."""

    session: ArchiveSession
    points: frozenset[str]
    """Of its profile."""
    spare: SpareTime
    deliver: Callable[[RawReport], Awaitable[None]]
    """Accepts a report out of the memory. Raises ``SpoolFull``."""
