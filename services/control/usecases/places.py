"""What the bus tells of sites: alarms that stand and maintenance windows, in one transaction with the position.

Only OFFs ask for it. A wake-up needs none of it, so this may fall behind, or be away, while loads are woken.
"""

from collections.abc import Sequence

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent
from libs.common.db import WriteConn
from services.control import bus
from services.control.store import places as store
from services.control.usecases.ports import SteadyClock


class PlaceHandler:
    """The effects of ``alarm.events`` and ``alarm.maintenance``; everything it knows is in the database."""

    def __init__(self, *, clock: SteadyClock) -> None:
        self._clock = clock

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Nobody waits for it: the next OFF that is asked about sees it."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Take alarms and windows in their order.

        Raises:
            PoisonMessage: A message is neither.
        """
        last: dict[str, AlarmEvent] = {}
        for received in batch:
            try:
                if received.topic == topics.MAINTENANCE:
                    await self._window(conn, received)
                    continue
                event = bus.read_alarm(received)
            except bus.Unreadable as exc:
                raise PoisonMessage(received, str(exc)) from exc
            known = last.get(event.alarm_id)
            # What was found in late data stands no more.
            if not event.historical and (known is None or known.sequence < event.sequence):
                last[event.alarm_id] = event
        await store.put_alarms(conn, list(last.values()), self._clock.now())

    async def _window(self, conn: WriteConn, received: Received) -> None:
        if received.value is None:
            await store.drop_windows(conn, [received.key or ""])
        else:
            await store.put_window(conn, bus.read_window(received))
