"""SQL of orders that set something inside devices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from libs.common.contracts.control import CommandAction, CommandState
from libs.common.db import ReadConn, WriteConn
from services.control.domain.adjusting import IN_FLIGHT, Adjustment

_COLUMNS = (
    "adjustment_id, action, site_id, device_id, line_id, point, value, state, created_at, not_after, next_at, actor, "
    "reason, note, attempt, looks, sent_at, wire_not_after, found, found_at, group_id, door"
)
"""Ours; nothing from outside gets into a statement."""
_NAMES = _COLUMNS.split(", ")


@dataclass(frozen=True, slots=True)
class AdjustmentStep:
    """One step in the life of an order."""

    at: datetime
    state: str
    reason: str
    attempt: int
    found: float | None


async def serialise_orders(conn: WriteConn) -> None:
    """Let one transaction at a time take orders, so that no two of them find a point free."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('control.adjustments', 0))")


async def put(conn: WriteConn, steps: Sequence[Adjustment], at: datetime) -> None:
    """Write orders as they have become, one after the other, and each step into their history."""
    if not steps:
        return
    last = list({one.adjustment_id: one for one in steps}.values())
    await conn.execute(
        f"""
        insert into adjustments ({_COLUMNS})
        select * from unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::double precision[], $8::text[],
            $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::text[],
            $15::integer[], $16::integer[], $17::timestamptz[], $18::timestamptz[], $19::double precision[],
            $20::timestamptz[], $21::text[], $22::text[])
            on conflict (adjustment_id) do update set
               state = excluded.state, next_at = excluded.next_at, reason = excluded.reason,
               attempt = excluded.attempt, looks = excluded.looks, sent_at = excluded.sent_at,
               wire_not_after = excluded.wire_not_after, found = excluded.found, found_at = excluded.found_at,
               not_after = excluded.not_after
        """,  # noqa: S608
        *([_plain(getattr(one, name)) for one in last] for name in _NAMES),
    )
    await conn.execute(
        """
        insert into adjustment_history (adjustment_id, at, state, reason, attempt, found)
        select id, $2, state, reason, attempt, found
          from unnest($1::text[], $3::text[], $4::text[], $5::integer[], $6::double precision[])
          with ordinality as t(id, state, reason, attempt, found, number)
         order by number
        """,
        [one.adjustment_id for one in steps],
        at,
        [one.state.value for one in steps],
        [one.reason for one in steps],
        [one.attempt for one in steps],
        [one.found for one in steps],
    )


def _plain(value: object) -> object:
    return value.value if isinstance(value, CommandAction | CommandState) else value


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


async def lock_open(
    conn: WriteConn, device_ids: Collection[str], action: CommandAction, point: str | None
) -> list[Adjustment]:
    """Return the orders of devices for a point, or for the clock or a restart, that are not final; locked."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from adjustments
         where device_id = any($1::text[]) and action = $2 and point is not distinct from $3 and next_at is not null
         order by adjustment_id for update
        """,  # noqa: S608
        sorted(device_ids),
        action.value,
        point,
    )
    return [_adjustment(row) for row in rows]


async def fetch_off(conn: WriteConn, device_ids: Collection[str]) -> dict[str, str]:
    """Return, by device, a load behind it that is off by an order of ours, is about to be, or is being woken."""
    rows = await conn.fetch(
        """
        select device_id, min(load_id) as load_id
          from (select device_id, load_id from off_leases where closed_at is null and device_id = any($1::text[])
                union all
                select device_id, load_id from commands where not is_final and device_id = any($1::text[])
                union all
                select device_id, load_id from wake_up_todo where device_id = any($1::text[])) as o
         group by device_id
        """,
        sorted(device_ids),
    )
    return {row["device_id"]: row["load_id"] for row in rows}


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
        union
        select device_id from wake_up_todo where device_id = any($1::text[])
        """,
        sorted(device_ids),
        sorted(state.value for state in IN_FLIGHT),
        now,
    )
    return {row["device_id"] for row in rows}


async def fetch_being_set(conn: ReadConn | WriteConn, device_ids: Collection[str], point: str) -> set[str]:
    """Return those of the devices in which an order for the point is on its way or in doubt."""
    rows = await conn.fetch(
        """
        select distinct device_id from adjustments
         where device_id = any($1::text[]) and point = $2 and next_at is not null and state = any($3::text[])
        """,
        sorted(device_ids),
        point,
        sorted(state.value for state in (*IN_FLIGHT, CommandState.UNKNOWN)),
    )
    return {row["device_id"] for row in rows}


async def fetch_restarts(conn: ReadConn | WriteConn, since: datetime) -> list[Adjustment]:
    """Return the restarts that were sent after that time, over or not, and those that are not over; oldest first."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from adjustments
         where action = 'restart' and sent_at is not null and (next_at is not null or sent_at > $1)
         order by sent_at
        """,  # noqa: S608
        since,
    )
    return [_adjustment(row) for row in rows]


async def fetch(conn: ReadConn, adjustment_id: str) -> Adjustment | None:
    """Return one order."""
    row = await conn.fetchrow(f"select {_COLUMNS} from adjustments where adjustment_id = $1", adjustment_id)  # noqa: S608
    return None if row is None else _adjustment(row)


async def lock_waiting(
    conn: WriteConn, *, group_id: str | None = None, adjustment_id: str | None = None
) -> list[Adjustment]:
    """Return the orders of a group, or the one, that wait for a second person; locked."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from adjustments
         where ($1::text is null or group_id = $1) and ($2::text is null or adjustment_id = $2)
           and ($1::text is not null or $2::text is not null) and state = $3
         order by adjustment_id for update
        """,  # noqa: S608
        group_id,
        adjustment_id,
        CommandState.APPROVAL.value,
    )
    return [_adjustment(row) for row in rows]


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """An order for many devices."""

    group_id: str
    action: CommandAction
    point: str | None
    value: float | None
    target: Mapping[str, Any]
    """Which devices were meant, as the order says it."""
    actor: str
    note: str | None
    created_at: datetime
    refused: Sequence[Mapping[str, Any]]
    """Devices that were refused, with the reason."""


async def insert_group(conn: WriteConn, group: SettingGroup) -> None:
    """Write an order for many."""
    await conn.execute(
        """
        insert into adjustment_groups (group_id, action, point, value, target, actor, note, created_at, refused)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        group.group_id,
        group.action.value,
        group.point,
        group.value,
        dict(group.target),
        group.actor,
        group.note,
        group.created_at,
        [dict(one) for one in group.refused],
    )


_GROUP = "group_id, action, point, value, target, actor, note, created_at, refused"


async def fetch_group(conn: ReadConn | WriteConn, group_id: str) -> SettingGroup | None:
    """Return an order for many."""
    row = await conn.fetchrow(f"select {_GROUP} from adjustment_groups where group_id = $1", group_id)  # noqa: S608
    return None if row is None else _group(row)


async def fetch_members(conn: ReadConn | WriteConn, group_id: str) -> list[Adjustment]:
    """Return the orders of a group, by device."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from adjustments where group_id = $1 order by device_id, adjustment_id",  # noqa: S608
        group_id,
    )
    return [_adjustment(row) for row in rows]


async def fetch_groups(
    conn: ReadConn, *, sites: Sequence[str] | None, before: tuple[datetime, str] | None, limit: int
) -> list[tuple[SettingGroup, dict[str, int]]]:
    """Return orders for many, the youngest first, each with how many of its members are in which state.

    With ``sites`` those of which every member is at one of them; an order of which all were refused is for those who
    see everything.
    """
    rows = await conn.fetch(
        f"""
        select {_GROUP},
               (select coalesce(jsonb_object_agg(state, number), '{{}}') from
                 (select state, count(*) as number from adjustments a where a.group_id = g.group_id group by state) c
               ) as states
          from adjustment_groups g
         where ($1::timestamptz is null or (created_at, group_id) < ($1, $2::text))
           and ($3::text[] is null
                or exists (select from adjustments a where a.group_id = g.group_id)
                   and not exists (select from adjustments a
                                    where a.group_id = g.group_id and a.site_id <> all($3)))
         order by created_at desc, group_id desc
         limit $4
        """,  # noqa: S608
        None if before is None else before[0],
        None if before is None else before[1],
        None if sites is None else list(sites),
        limit,
    )
    return [(_group(row), dict(row["states"])) for row in rows]


def _group(row: asyncpg.Record) -> SettingGroup:
    values = {name: row[name] for name in _GROUP.split(", ")}
    return SettingGroup(**{**values, "action": CommandAction(row["action"])})


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
