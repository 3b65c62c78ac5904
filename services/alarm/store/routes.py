"""SQL of the routes that say who is told."""

from dataclasses import dataclass
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.routing import Route
from services.alarm.routebody import RouteBody


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route as it stands."""

    route_id: str
    body: RouteBody
    changed_by: str
    changed_at: datetime


async def fetch_routes(conn: ReadConn | WriteConn) -> dict[str, RouteRow]:
    """Return all routes by id, in their order."""
    rows = await conn.fetch(
        "select route_id, route, changed_by, changed_at from notification_routes order by position, route_id"
    )
    return {
        row["route_id"]: RouteRow(
            row["route_id"], RouteBody.model_validate(row["route"]), row["changed_by"], row["changed_at"]
        )
        for row in rows
    }


async def put_route(conn: WriteConn, row: RouteRow) -> None:
    """Write a route."""
    await conn.execute(
        """
        insert into notification_routes (route_id, name, position, enabled, route, changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (route_id) do update set
               name = excluded.name, position = excluded.position, enabled = excluded.enabled, route = excluded.route,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at
        """,
        row.route_id,
        row.body.name,
        row.body.position,
        row.body.enabled,
        row.body.model_dump(mode="json", by_alias=True),
        row.changed_by,
        row.changed_at,
    )


async def delete_route(conn: WriteConn, route_id: str) -> None:
    """Forget a route; what it told is still told to have ended."""
    await conn.execute("delete from notification_routes where route_id = $1", route_id)


async def fetch_enabled_routes(conn: ReadConn | WriteConn) -> dict[str, Route]:
    """Return the routes that are switched on, by id, in their order."""
    rows = await fetch_routes(conn)
    return {route_id: row.body.to_route(route_id) for route_id, row in rows.items() if row.body.enabled}
