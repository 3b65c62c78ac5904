"""Keeps what was not understood where people can list it."""

from collections.abc import Sequence

from pydantic import ValidationError

from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import Rejected
from libs.common.db import WriteConn
from services.ingest.store import rejected as store


class RejectedHandler:
    """Effects of the group ``ingest.rejected``; it remembers nothing."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing to learn."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing to forget."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Keep a batch."""
        await store.insert(conn, [_rejected(received) for received in batch])

    def committed(self) -> None:
        """Nothing waits for the commit."""


def _rejected(received: Received) -> Rejected:
    try:
        return Rejected.from_json(received.value or b"")
    except (ValidationError, ValueError) as exc:
        raise PoisonMessage(received, f"not a rejection: {exc}") from exc
