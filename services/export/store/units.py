"""SQL of units: who there is, and by which name; rows to units and back."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.dialects.messages import UnitFacts, UnitRef
from services.export.domain.connection import ConnectionId, Phase, Unit, UnitKey

Conn = ReadConn | WriteConn

UNIT_COLUMNS = """
    key, connection_id, unit_id, unit_code, name, sites, facts, phase, assigned_address, access_right, last_login_at,
    login_not_before, login_failures, logged_in_at, heard_at, send_failures, error, clock_skew_s, finding, heartbeat_s
"""

UNIT = f"select {UNIT_COLUMNS} from units"  # noqa: S608 - our own words


async def fetch_units(conn: Conn, connection_id: str) -> list[Unit]:
    """Return a connection's units that have not left."""
    rows = await conn.fetch(UNIT + " where connection_id = $1 and phase not in ('leaving', 'left') order by unit_id",
                            connection_id)  # fmt: skip
    return [unit_of(row) for row in rows]


async def fetch_unit(conn: Conn, connection_id: str, unit_id: str) -> Unit | None:
    """Return one unit that has not left."""
    row = await conn.fetchrow(
        UNIT + " where connection_id = $1 and unit_id = $2 and phase not in ('leaving', 'left')",
        connection_id,
        unit_id,
    )
    return None if row is None else unit_of(row)


async def fetch_unit_by_key(conn: Conn, key: UnitKey) -> Unit | None:
    """Return one unit, whatever its phase."""
    row = await conn.fetchrow(UNIT + " where key = $1", key)
    return None if row is None else unit_of(row)


async def lock_unit(conn: WriteConn, key: UnitKey) -> Unit | None:
    """Return one unit and hold its row until the transaction ends."""
    row = await conn.fetchrow(UNIT + " where key = $1 for update", key)
    return None if row is None else unit_of(row)


async def lock_units(conn: WriteConn, keys: Collection[UnitKey]) -> dict[UnitKey, Unit]:
    """Return units and hold their rows until the transaction ends; taken in one order, as everybody does."""
    rows = await conn.fetch(UNIT + " where key = any($1) order by key for update", list(keys))
    return {UnitKey(row["key"]): unit_of(row) for row in rows}


async def units_named(conn: Conn, unit_id: str) -> list[Unit]:
    """Return the units of that id, of whatever connection."""
    rows = await conn.fetch(UNIT + " where unit_id = $1 and phase not in ('leaving', 'left') order by key", unit_id)
    return [unit_of(row) for row in rows]


async def put_unit(
    conn: WriteConn, connection_id: str, ref: UnitRef, *, name: str, sites: Sequence[str], facts: UnitFacts
) -> UnitKey:
    """Create or change a unit; one that had left comes back and keeps the time of its last LOGIN."""
    key = await conn.fetchval(
        """
        insert into units (connection_id, unit_id, unit_code, name, sites, facts)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (connection_id, unit_id) do update
           set unit_code = excluded.unit_code, name = excluded.name, sites = excluded.sites, facts = excluded.facts,
               phase = case when units.phase in ('leaving', 'left') then 'new' else units.phase end
        returning key
        """,
        connection_id,
        ref.unit_id,
        ref.unit_code,
        name,
        list(sites),
        asdict(facts),
    )
    return UnitKey(key)


async def leave_units(conn: WriteConn, connection_id: str, unit_id: str | None = None) -> list[UnitKey]:
    """Take leave of one or all units of a connection; those that were never let in are gone at once."""
    rows = await conn.fetch(
        """
        with going as (
            select key from units
             where connection_id = $1 and ($2::text is null or unit_id = $2) and phase not in ('leaving', 'left')
             order by key
               for update
        )
        update units
           set phase = case when phase in ('registered', 'lost') then 'leaving' else 'left' end,
               login_failures = 0, login_not_before = null
          from going where units.key = going.key
        returning units.key
        """,
        connection_id,
        unit_id,
    )
    return [UnitKey(row["key"]) for row in rows]


async def assigned_addresses(conn: Conn) -> list[str]:
    """Return every address that a centre has assigned to a unit."""
    rows = await conn.fetch(
        "select distinct assigned_address from units where assigned_address is not null and phase <> 'left'"
    )
    return [row["assigned_address"] for row in rows]


async def count_units(conn: Conn) -> dict[tuple[str, str], int]:
    """Return how many units of each connection are in each phase."""
    rows = await conn.fetch("select connection_id, phase, count(*) as n from units group by connection_id, phase")
    return {(row["connection_id"], row["phase"]): row["n"] for row in rows}


def unit_of(row: Mapping[str, Any]) -> Unit:
    """Return the unit of a row with ``UNIT_COLUMNS``."""
    return Unit(
        key=UnitKey(row["key"]),
        connection_id=ConnectionId(row["connection_id"]),
        ref=UnitRef(row["unit_id"], row["unit_code"]),
        name=row["name"],
        sites=tuple(row["sites"]),
        facts=UnitFacts(**row["facts"]),
        phase=Phase(row["phase"]),
        assigned_address=row["assigned_address"],
        right=row["access_right"],
        last_login_at=row["last_login_at"],
        login_not_before=row["login_not_before"],
        login_failures=row["login_failures"],
        logged_in_at=row["logged_in_at"],
        heard_at=row["heard_at"],
        send_failures=row["send_failures"],
        error=row["error"],
        clock_skew_s=row["clock_skew_s"],
        finding=row["finding"],
        heartbeat_s=row["heartbeat_s"],
    )
