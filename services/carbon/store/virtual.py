"""SQL of virtual meters: every version of every definition."""

from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.virtual import Term, VirtualMeter


async def lock_definitions(conn: WriteConn) -> None:
    """Keep others from defining virtual meters until the transaction ends: two could make a cycle of each other."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('virtual meters', 79))")


async def add_definition(conn: WriteConn, one: VirtualMeter, *, name: str, version: int, by: str, at: datetime) -> None:
    """Store a version of a definition."""
    await conn.execute(
        """
        insert into virtual_meters (meter_id, version, name, children, factors, constant_kw, allow_partial,
                                    recorded_at, recorded_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        one.id,
        version,
        name,
        [term.child for term in one.terms],
        [term.factor for term in one.terms],
        one.constant_kw,
        one.allow_partial,
        at,
        by,
    )


async def fetch_definitions(conn: ReadConn | WriteConn) -> list[tuple[VirtualMeter, str, int]]:
    """Return the definitions that hold, with their names and versions, by id."""
    rows = await conn.fetch(
        """
        select distinct on (meter_id) meter_id, version, name, children, factors, constant_kw, allow_partial
          from virtual_meters order by meter_id, version desc
        """
    )
    return [
        (
            VirtualMeter(
                id=row["meter_id"],
                terms=[Term(child, factor) for child, factor in zip(row["children"], row["factors"], strict=True)],
                constant_kw=row["constant_kw"],
                allow_partial=row["allow_partial"],
            ),
            row["name"],
            row["version"],
        )
        for row in rows
    ]
