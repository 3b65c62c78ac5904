"""SQL of outages: times in which a site or a circuit had no supply, so that no day of them is a usual one."""

from collections.abc import Sequence
from datetime import datetime

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.savings.shutdowns.outages import Outage

COLUMNS = """
    outage_id, site_id, circuit_id, began_at, ended_at, reason, recorded_by, recorded_at, withdrawn_by, withdrawn_at
"""


async def add_outage(conn: WriteConn, one: Outage) -> None:
    """Store an outage."""
    await conn.execute(
        """
        insert into outages (outage_id, site_id, circuit_id, began_at, ended_at, reason, recorded_by, recorded_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        one.outage_id,
        one.site_id,
        one.circuit_id,
        one.began_at,
        one.ended_at,
        one.reason,
        one.recorded_by,
        one.recorded_at,
    )


async def withdraw_outage(conn: WriteConn, outage_id: str, by: str, at: datetime) -> Outage | None:
    """Withdraw an outage that holds; return it as it is then, None if none of that id holds."""
    row = await conn.fetchrow(
        f"""
        update outages set withdrawn_by = $2, withdrawn_at = $3
         where outage_id = $1 and withdrawn_at is null
        returning {COLUMNS}
        """,  # noqa: S608  # a constant of this module
        outage_id,
        by,
        at,
    )
    return None if row is None else _outage(row)


async def fetch_outage(conn: ReadConn | WriteConn, outage_id: str) -> Outage | None:
    """Return an outage, withdrawn or not."""
    row = await conn.fetchrow(f"select {COLUMNS} from outages where outage_id = $1", outage_id)  # noqa: S608
    return None if row is None else _outage(row)


async def fetch_outages(conn: ReadConn, sites: Sequence[SiteId], start: datetime, end: datetime) -> list[Outage]:
    """Return the outages that hold and touch ``[start, end)``, by site and time."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from outages
         where site_id = any($1::text[]) and began_at < $3 and ended_at > $2 and withdrawn_at is null
         order by site_id, began_at, outage_id
        """,  # noqa: S608  # a constant of this module
        list(sites),
        start,
        end,
    )
    return [_outage(row) for row in rows]


def _outage(row: Record) -> Outage:
    return Outage(
        outage_id=row["outage_id"],
        site_id=SiteId(row["site_id"]),
        circuit_id=None if row["circuit_id"] is None else CircuitId(row["circuit_id"]),
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        recorded_by=row["recorded_by"],
        recorded_at=row["recorded_at"],
        withdrawn_by=row["withdrawn_by"],
        withdrawn_at=row["withdrawn_at"],
    )
