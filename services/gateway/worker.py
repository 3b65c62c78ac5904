"""The loop that writes the audit log from what all services say."""

from collections.abc import Sequence

from pydantic import ValidationError

from libs.common.bus import envelope
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.audit import AuditEvent
from libs.common.db import WriteConn
from services.gateway import store
from services.gateway.domain import AuditEntry


class AuditHandler:
    """Effects of ``audit.events``: see ``consumer.EffectHandler``. It keeps nothing in memory."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing to load."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing to forget."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Append a batch; an event that came twice is one entry."""
        await store.add_audit(conn, [entry(received) for received in batch if received.value is not None])

    def committed(self) -> None:
        """Nobody waits for it."""


def entry(received: Received) -> AuditEntry:
    """Return the entry of an event; its id is the event's, or its place where a stranger gave none."""
    try:
        event = AuditEvent.from_json(received.value or b"")
    except (ValidationError, ValueError) as exc:
        raise PoisonMessage(received, f"not an audit event: {exc}") from exc
    place = f"{received.topic}/{received.partition}/{received.offset}"
    return AuditEntry(
        entry_id=envelope.event_id(received) or place,
        at=event.at,
        actor=event.actor,
        door=event.door,
        action=event.action,
        subject=event.subject,
        before=event.before,
        after=event.after,
    )
