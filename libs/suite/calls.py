"""What the parts of the command line share: how they speak, and what they ask of the running suite."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from libs.common.settings import CommonSettings

Settings = Callable[[], "CommonSettings"]
"""Reads the settings, when a command runs."""
Say = Callable[[str], None]
"""Prints a line."""


class Reads(Protocol):
    """The API of the suite, for a command that only looks."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET."""


class Suite(Reads, Protocol):
    """The API of the suite."""

    def post(self, path: str, body: Any = None) -> Any:
        """Return the parsed answer of a POST."""


def items(api: Reads, path: str, **wanted: Any) -> Iterator[Any]:
    """Yield the items of a list, page by page as they are asked for."""
    cursor: str | None = None
    while True:
        page = api.get(path, **wanted, cursor=cursor)
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return
