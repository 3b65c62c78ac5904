"""Callbacks and feeds of owners who are no more: the handler of group ``export.owners``.

A key that was revoked and a person whose account was closed are told nothing any more, and a person who may see less
is told less. The gateway says so in the audit log, once, in the transaction in which it happens.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import orjson
from pydantic import ValidationError

from libs.common.bus import outbox, topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import WriteConn
from services.export import bus
from services.export.callbacks import endpoints
from services.export.domain.callbacks import OwnerChange, owner_change_of
from services.export.feeds import batches, destinations

logger = logging.getLogger(__name__)

GROUP = "export.owners"
TOPICS = (topics.AUDIT,)
GATEWAY = b"gateway"
"""Who alone can say what became of a key or of a person (``ce_source``)."""
GATHER_S = 1.0
"""So long a revocation may take at most besides its way: the audit log is long and little of it concerns us. [s]"""


class CallbackOwners:
    """Follows what becomes of the owners of endpoints and feeds."""

    def __init__(self, clock: Clock, *, changed: Callable[[], None]) -> None:
        """Prepare the handler; ``changed`` is called after a commit that has changed one of theirs."""
        self._clock = clock
        self._changed = changed
        self._has_changed = False

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Let the senders look again."""
        if self._has_changed:
            self._changed()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Do what a batch of audit events asks for.

        Raises:
            PoisonMessage: One cannot be read.
        """
        self._has_changed = False
        for received in batch:
            event = _read(received)
            change = None if event is None else owner_change_of(event.action, event.subject, event.after)
            if event is not None and change is not None:
                await self._follow(conn, change, event.at)

    async def _follow(self, conn: WriteConn, change: OwnerChange, at: datetime) -> None:
        after: Mapping[str, object]
        if change.ended is not None:
            after = {"reason": change.ended}
            found = {
                ("callback.disable", "callback"): await endpoints.disable_of(conn, change.owner, change.ended),
                ("feed.destination.pause", "feed-destination"): await destinations.pause_of(
                    conn, change.owner, change.ended
                ),
            }
        else:
            after = {"limits": None if change.limits is None else list(change.limits)}
            found = {
                ("callback.limit", "callback"): await endpoints.limit_of(conn, change.owner, change.limits, at),
                ("feed.limit", "feed"): await batches.limit_of(conn, change.owner, change.limits, at),
            }
        for (action, kind), ids in found.items():
            await self._told(conn, action, [f"{kind}:{each}" for each in ids], after)

    async def _told(self, conn: WriteConn, action: str, subjects: Sequence[str], after: Mapping[str, object]) -> None:
        for subject in subjects:
            logger.warning("what is told follows its owner", extra={"subject": subject, "action": action})
        now = self._clock.now()
        audited = [
            bus.change_audited("service:export", action, subject, after=after, request_id=None, at=now)
            for subject in subjects
        ]
        await outbox.put(conn, audited)
        self._has_changed = self._has_changed or bool(subjects)


def _read(received: Received) -> AuditEvent | None:
    if received.value is None or ("ce_source", GATEWAY) not in received.headers:
        return None
    try:
        event = AuditEvent.from_json(received.value)
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise PoisonMessage(received, f"no audit event: {exc}"[:500]) from exc
    return None if event.succeeded is False else event
