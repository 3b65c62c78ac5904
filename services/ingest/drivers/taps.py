"""Listening in on a line: the frames as they go out and come in, for a person who looks for a fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Passing:
    """Bytes that went by."""

    device: str
    """Whom they concern; empty where nobody was asked."""
    sent: bool
    data: bytes
    """Empty where they are not to be seen."""
    size: int
    """How many there were. [B]"""


Listener = Callable[[Passing], None]


class Taps:
    """Who listens in on one line; costs nothing while nobody does."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> None:
        """Let somebody listen."""
        self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> None:
        """Let somebody listen no longer."""
        self._listeners = tuple(found for found in self._listeners if found != listener)

    def tell(self, device: str, data: bytes, *, sent: bool, hidden: bool = False) -> None:
        """Tell what goes by.

        Args:
            device: Whom it concerns.
            data: What.
            sent: Whether by us.
            hidden: It holds a password: only its length is told.
        """
        if self._listeners:
            passing = Passing(device, sent, b"" if hidden else data, len(data))
            for listener in self._listeners:
                listener(passing)


@runtime_checkable
class Tapped(Protocol):
    """A line that can be listened in on."""

    taps: Taps
