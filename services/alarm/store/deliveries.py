"""SQL of where the deliveries of alarms stand."""

from collections.abc import Sequence

from libs.common.contracts.delivery import DeliveryEvent
from libs.common.db import ReadConn, WriteConn
from services.alarm.views import DeliveryRow


async def put_deliveries(conn: WriteConn, deliveries: Sequence[tuple[str, DeliveryEvent]]) -> None:
    """Write the state of deliveries, each with the id of its alarm; an older state than known changes nothing."""
    for alarm_id, event in deliveries:
        await conn.execute(
            """
            insert into alarm_deliveries as d (alarm_id, destination, item, item_kind, state, attempts, at, error)
            values ($1, $2, $3, $4, $5, $6, $7, $8)
                on conflict (alarm_id, destination, item) do update set
                   item_kind = coalesce(excluded.item_kind, d.item_kind), state = excluded.state,
                   attempts = excluded.attempts, at = excluded.at, error = excluded.error
             where excluded.at >= d.at
            """,
            alarm_id,
            event.destination,
            event.item,
            event.item_kind,
            event.state.value,
            event.attempts,
            event.at,
            event.error,
        )


async def fetch_deliveries(conn: ReadConn, alarm_ids: Sequence[str]) -> dict[str, list[DeliveryRow]]:
    """Return the deliveries of alarms, by alarm, in order of destination and item."""
    rows = await conn.fetch(
        """
        select alarm_id, destination, item, item_kind, state, attempts, at, error
          from alarm_deliveries where alarm_id = any($1::text[])
         order by alarm_id, destination, item
        """,
        list(alarm_ids),
    )
    found: dict[str, list[DeliveryRow]] = {}
    for row in rows:
        found.setdefault(row["alarm_id"], []).append(DeliveryRow(**dict(row)))
    return found
