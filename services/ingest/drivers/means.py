"""What all drivers of a process share: secrets, the way out, and what has come in by pushes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from libs.common.outgoing import AddressGuard
from libs.common.secretstore import SecretStore
from services.ingest.drivers.pushed import PushBoard

if TYPE_CHECKING:  # it stands on the port, which shows these means to drivers
    from services.ingest.drivers.dtu import DtuHub

Latest = Callable[[str], Awaitable[tuple[Mapping[str, float | None], datetime] | None]]
"""A device's latest report as the history has it, in canonical units; None where there is none or it is not known."""


@dataclass(frozen=True, slots=True)
class Means:
    """What drivers may use."""

    secrets: SecretStore
    """Where a line's ``credentials_ref`` and certificates lead to."""
    guard: AddressGuard
    """Which addresses may be called."""
    pushes: PushBoard
    latest: Latest
    folder: Path
    """This process's own, for what a driver keeps on disk: certificates."""
    alone_since: Callable[[], float] = lambda: float("inf")
    """From which moment of the monotonic clock on a push can have come to no other process of ingest. [s]"""
    hub: "DtuHub | None" = None
    """Where terminals dial in; None where this process does not listen for them."""
