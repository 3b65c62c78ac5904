"""What a source of pulled rows offers."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from libs.common.errors import Unavailable
from services.ingest.domain.pull import Mark


class PullFailed(Unavailable):
    """The source cannot be read now; ``facts["retry_after_s"]``: when it wants to be asked again, where it says so."""

    code = "pull_failed"
    title_zh = "拉取失败"


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows."""

    rows: list[Mapping[str, Any]]
    complete: bool
    """Nothing more comes of what was asked for."""
    mark: Mark | None = None
    """Of a complete one: how far the source has been read now; None where it has no watermark. All rows from the
    overlap up to it have been given, this time or in this reading."""
    behind: bool = False
    """Of a complete one: there is more, to be asked for at once."""


class PullSource(Protocol):
    """One source."""

    def pages(self, mark: Mark | None) -> AsyncIterator[Page]:
        """Yield what the source has since a watermark, None at first; the last page is ``complete``.

        Raises:
            PullFailed: It cannot be read.
            InvalidInput: Its secret cannot be used.
        """

    async def close(self) -> None:
        """Close connections."""
