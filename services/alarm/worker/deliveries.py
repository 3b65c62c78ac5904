"""Noting what became of deliveries."""

import logging
from collections.abc import Sequence

from libs.common.bus.port import Received
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.store import deliveries as deliveries_store

logger = logging.getLogger(__name__)

DELIVERIES_GROUP = "alarm.deliveries"


class DeliveriesHandler:
    """Notes where the delivery of each alarm event stands (上报状态); keeps nothing in memory."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Write the states of deliveries that concern alarms.

        Raises:
            PoisonMessage: A message cannot be read.
        """
        found = []
        for received in batch:
            event = bus.read_delivery(received)
            if event.alarm_id is not None:
                found.append((str(event.alarm_id), event))
        await deliveries_store.put_deliveries(conn, found)

    def committed(self) -> None:
        """Nobody waits for it."""
