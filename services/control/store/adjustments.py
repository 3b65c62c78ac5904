"""SQL of orders that set something inside devices."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from libs.common.contracts.control import CommandAction, CommandState
from libs.common.db import ReadConn, WriteConn
from services.control.domain.adjusting import IN_FLIGHT, Adjustment

_COLUMNS = (
    "adjustment_id, action, site_id, device_id, line_id, point, value, state, created_at, not_after, next_at, actor, "
    "reason, note, attempt, looks, sent_at, wire_not_after, found, found_at"
)
"""Ours; nothing from outside gets into a statement."""


@dataclass(frozen=True, slots=True)
class AdjustmentStep:
    """One step in the life of an order."""

    at: datetime
    state: str
    reason: str
    attempt: int
    found: float | None


async def put(conn: WriteConn, orders: Collection[Adjustment], at: datetime) -> None:
    """Write orders as they are now, and the step into their history."""
    for one in orders:
        await conn.execute(
            f"""
            insert into adjustments ({_COLUMNS})
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
                on conflict (adjustment_id) do update set
                   state = excluded.state, next_at = excluded.next_at, reason = excluded.reason,
                   attempt = excluded.attempt, looks = excluded.looks, sent_at = excluded.sent_at,
                   wire_not_after = excluded.wire_not_after, found = excluded.found, found_at = excluded.found_at
            """,  # noqa: S608
            one.adjustment_id,
            one.action.value,
            one.site_id,
            one.device_id,
            one.line_id,
            one.point,
            one.value,
            one.state.value,
            one.created_at,
            one.not_after,
            one.next_at,
            one.actor,
            one.reason,
            one.note,
            one.attempt,
            one.looks,
            one.sent_at,
            one.wire_not_after,
            one.found,
            one.found_at,
        )
        await conn.execute(
            """
            insert into adjustment_history (adjustment_id, at, state, reason, attempt, found)
            values ($1, $2, $3, $4, $5, $6)
            """,
            one.adjustment_id,
            at,
            one.state.value,
            one.reason,
            one.attempt,
            one.found,
        )


async def lock_many(conn: WriteConn, ids: Collection[str]) -> dict[str, Adjustment]:
    """Return orders by id, each locked; an id of something else is left out."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from adjustments where adjustment_id = any($1::text[]) order by adjustment_id for update",  # noqa: S608
        sorted(ids),
    )
    return {row["adjustment_id"]: _adjustment(row) for row in rows}


async def lock_due(conn: WriteConn, now: datetime, limit: int) -> list[Adjustment]:
    """Return orders whose time has come, locked, the oldest first; those that somebody else holds are left out."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from adjustments where next_at <= $1 order by next_at, adjustment_id limit $2"  # noqa: S608
        " for update skip locked",
        now,
        limit,
    )
    return [_adjustment(row) for row in rows]


async def lock_open(conn: WriteConn, device_id: str, point: str) -> list[Adjustment]:
    """Return the orders for a point that are not final, locked."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from adjustments where device_id = $1 and point = $2 and next_at is not null"  # noqa: S608
        " order by adjustment_id for update",
        device_id,
        point,
    )
    return [_adjustment(row) for row in rows]


async def fetch_busy(conn: WriteConn, device_ids: Collection[str], now: datetime) -> set[str]:
    """Return the devices among these that have something else to do first.

    That is another order in flight, a switching in flight or in doubt, or a wake-up that is due and that nobody on the
    spot holds up. An OFF that waits for its guards holds up nothing.
    """
    rows = await conn.fetch(
        """
        select device_id from adjustments where device_id = any($1::text[]) and state = any($2::text[])
        union
        select device_id from commands
         where device_id = any($1::text[]) and not is_final
           and (state in ('dispatched', 'accepted', 'verifying', 'unknown')
                or (action = 'close' and state = 'scheduled' and hold is null and not_before <= $3))
        """,
        sorted(device_ids),
        sorted(state.value for state in IN_FLIGHT),
        now,
    )
    return {row["device_id"] for row in rows}


async def fetch(conn: ReadConn, adjustment_id: str) -> Adjustment | None:
    """Return one order."""
    row = await conn.fetchrow(f"select {_COLUMNS} from adjustments where adjustment_id = $1", adjustment_id)  # noqa: S608
    return None if row is None else _adjustment(row)


async def fetch_steps(conn: ReadConn, adjustment_id: str) -> list[AdjustmentStep]:
    """Return the steps of an order, in order."""
    rows = await conn.fetch(
        "select at, state, reason, attempt, found from adjustment_history where adjustment_id = $1 order by id",
        adjustment_id,
    )
    return [AdjustmentStep(**dict(row)) for row in rows]


async def fetch_page(
    conn: ReadConn,
    *,
    device_id: str | None,
    sites: Sequence[str] | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Adjustment]:
    """Return orders, the youngest first; of ``sites`` only, if given."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from adjustments
         where ($1::text is null or device_id = $1) and ($2::text[] is null or site_id = any($2))
           and ($3::timestamptz is null or (created_at, adjustment_id) < ($3, $4::text))
         order by created_at desc, adjustment_id desc
         limit $5
        """,  # noqa: S608
        device_id,
        None if sites is None else list(sites),
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_adjustment(row) for row in rows]


def _adjustment(row: asyncpg.Record) -> Adjustment:
    values = dict(row)
    return Adjustment(**{**values, "action": CommandAction(row["action"]), "state": CommandState(row["state"])})
