"""SQL of permits: what each centre may order, in versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.permits import NOTHING, Permits

Conn = ReadConn | WriteConn


@dataclass(frozen=True, slots=True)
class PermitsRow:
    """One version of what a centre may order."""

    connection_id: str
    revision: int
    permits: Permits
    source: str
    changed_by: str
    changed_at: datetime


async def fetch_current(conn: Conn, connection_id: str) -> Permits:
    """Return what a centre may order now."""
    found = await fetch_versions(conn, connection_id, 1)
    return found[0].permits if found else NOTHING


async def fetch_versions(conn: Conn, connection_id: str, limit: int) -> list[PermitsRow]:
    """Return the versions of a centre's permits, the youngest first."""
    rows = await conn.fetch(
        """
        select connection_id, revision, permits, source, changed_by, changed_at
          from sc_permits where connection_id = $1 order by revision desc limit $2
        """,
        connection_id,
        limit,
    )
    return [_row(row) for row in rows]


async def insert(
    conn: WriteConn, connection_id: str, permits: Permits, *, source: str, changed_by: str, changed_at: datetime
) -> PermitsRow:
    """Write the next version; the connection's row must be locked."""
    revision = await conn.fetchval(
        """
        insert into sc_permits (connection_id, revision, permits, source, changed_by, changed_at)
        select $1, coalesce(max(revision), 0) + 1, $2, $3, $4, $5 from sc_permits where connection_id = $1
        returning revision
        """,
        connection_id,
        permits.as_json(),
        source,
        changed_by,
        changed_at,
    )
    return PermitsRow(connection_id, revision, permits, source, changed_by, changed_at)


async def lock_connection(conn: WriteConn, connection_id: str) -> bool:
    """Hold a connection's row until the transaction ends; return whether there is one."""
    found = await conn.fetchval(
        "select id from sc_connections where id = $1 and removed_at is null for no key update", connection_id
    )
    return found is not None


def _row(row: Mapping[str, Any]) -> PermitsRow:
    return PermitsRow(
        connection_id=row["connection_id"],
        revision=row["revision"],
        permits=Permits.of_json(row["permits"]),
        source=row["source"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )
