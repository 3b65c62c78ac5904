"""Questions to the services that own what stands in the files, and how their answers are read."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from libs.common.errors import Unavailable

CALL_TIMEOUT_S = 60.0
"""A page may be of many readings, and nobody waits for it. [s]"""
PAGE_ROWS = 1000

M = TypeVar("M", bound=BaseModel)


class Asked(Protocol):
    """A service that answers questions (``libs.common.client.ServiceClient``)."""

    async def get(self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> Any:
        """Return the parsed answer.

        Raises:
            PlatformError: It is away (``Unavailable``) or refuses.
        """


class AskedForFiles(Asked, Protocol):
    """One that has files too."""

    async def download(self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> bytes:
        """Return a file. Raises ``PlatformError``."""


async def pages_of(client: Asked, path: str, params: Mapping[str, Any]) -> AsyncIterator[Any]:
    """Return the pages of an answer, one after the other."""
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        answer = await client.get(path, timeout_s=CALL_TIMEOUT_S, **params, **more)
        yield answer
        following = answer.get("next_cursor") if isinstance(answer, dict) else None
        if following is None or following == cursor:
            return
        cursor = following


def text_of(at: datetime) -> str:
    """Return a time as addresses have it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_as(model: type[M], answer: Any, who: str) -> M:
    """Return an answer as what it should be.

    Raises:
        Unavailable: It is something else.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as exc:
        raise Unavailable(f"{who} answered what nobody can read", message_zh=f"{who} 的应答无法解读") from exc
