"""SQL of the switchings that centres have ordered."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.permits import OrderKind, OrderState, SwitchingOrder

Conn = ReadConn | WriteConn

_ORDER = """
    select id, connection_id, unit_key, unit_id, site_id, sc_device_id, point_id, kind, value, load_id, device_id,
           setting, restore_at, peer, received_at, state, group_id, reason, repeats
      from sc_orders
"""


async def lock_unit(conn: WriteConn, unit_key: int) -> None:
    """Let no other order of a unit be written down until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('sc_orders', $1))", unit_key)


async def fetch_last(
    conn: Conn, unit_key: int, points: Collection[tuple[str, str]]
) -> dict[tuple[str, str], SwitchingOrder]:
    """Return the youngest order for each (device id, point id) that has one."""
    rows = await conn.fetch(
        """
        select o.* from unnest($2::text[], $3::text[]) as p (sc_device_id, point_id)
         cross join lateral (
               select id, connection_id, unit_key, unit_id, site_id, sc_device_id, point_id, kind, value, load_id,
                      device_id, setting, restore_at, peer, received_at, state, group_id, reason, repeats
                 from sc_orders
                where unit_key = $1 and sc_device_id = p.sc_device_id and point_id = p.point_id
                order by received_at desc limit 1) o
        """,
        unit_key,
        [device for device, _ in points],
        [point for _, point in points],
    )
    return {(row["sc_device_id"], row["point_id"]): _order(row) for row in rows}


async def insert(conn: WriteConn, order: SwitchingOrder) -> None:
    """Write an order down before anybody is asked to carry it out."""
    await conn.execute(
        """
        insert into sc_orders (id, connection_id, unit_key, unit_id, site_id, sc_device_id, point_id, kind, value,
                               load_id, device_id, setting, restore_at, peer, received_at, state, group_id, reason,
                               repeats)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
        """,
        order.id, order.connection_id, order.unit_key, order.unit_id, order.site_id, order.sc_device_id,
        order.point_id, order.kind, order.value, order.load_id, order.device_id, order.setting, order.restore_at,
        order.peer, order.received_at,
        order.state, order.group_id, order.reason, order.repeats,
    )  # fmt: skip


async def note_repeat(conn: WriteConn, order_id: str) -> None:
    """Count that an order was said again."""
    await conn.execute("update sc_orders set repeats = repeats + 1 where id = $1", order_id)


async def save(conn: WriteConn, order_id: str, state: OrderState, *, group_id: str | None, reason: str | None) -> None:
    """Write what became of an order; one that is over stays so."""
    await conn.execute(
        """
        update sc_orders set state = $2, group_id = coalesce($3, group_id), reason = $4
         where id = $1 and state not in ('over', 'refused')
        """,
        order_id,
        state,
        group_id,
        reason,
    )


async def fetch_page(
    conn: Conn, *, connection_id: str, sites: Collection[str] | None, before: tuple[datetime, str] | None, limit: int
) -> list[SwitchingOrder]:
    """Return a connection's orders, the youngest first; ``sites`` limits them, None does not."""
    rows = await conn.fetch(
        _ORDER
        + """
         where connection_id = $1 and ($2::text[] is null or site_id = any($2))
           and ($3::timestamptz is null or (received_at, id) < ($3, $4))
         order by received_at desc, id desc limit $5
        """,
        connection_id,
        None if sites is None else list(sites),
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_order(row) for row in rows]


def _order(row: Mapping[str, Any]) -> SwitchingOrder:
    return SwitchingOrder(**{**dict(row), "kind": OrderKind(row["kind"]), "state": OrderState(row["state"])})
