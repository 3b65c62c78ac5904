"""SQL of connections to centres and their credentials."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import Connection, ConnectionId, ConnectionOptions

Conn = ReadConn | WriteConn

_CONNECTION = "select id, name, dialect, url, options, enabled, removed_at from sc_connections"


async def fetch_connections(conn: Conn) -> list[Connection]:
    """Return every connection; a removed one as long as units of it still take their leave."""
    rows = await conn.fetch(
        _CONNECTION
        + """
         where removed_at is null
            or exists (select from units u where u.connection_id = sc_connections.id and u.phase = 'leaving')
         order by id
        """
    )
    return [_connection(row) for row in rows]


async def fetch_connection(conn: Conn, connection_id: str) -> Connection | None:
    """Return one connection that is not removed."""
    row = await conn.fetchrow(_CONNECTION + " where id = $1 and removed_at is null", connection_id)
    return None if row is None else _connection(row)


async def put_connection(
    conn: WriteConn, connection: Connection, *, credentials: bytes | None, keep_credentials: bool, now: datetime
) -> None:
    """Create or change a connection; one that was removed comes back."""
    await conn.execute(
        """
        insert into sc_connections (id, name, dialect, url, options, credentials, enabled, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $9, $9)
        on conflict (id) do update
           set name = excluded.name, dialect = excluded.dialect, url = excluded.url, options = excluded.options,
               credentials = case when $8 then sc_connections.credentials else excluded.credentials end,
               enabled = excluded.enabled, updated_at = excluded.updated_at, removed_at = null
        """,
        connection.id,
        connection.name,
        connection.dialect,
        connection.url,
        {**asdict(connection.options), "peers": list(connection.options.peers)},
        credentials,
        connection.enabled,
        keep_credentials,
        now,
    )


async def remove_connection(conn: WriteConn, connection_id: str, now: datetime) -> bool:
    """Mark a connection as removed; return whether there was one."""
    done = await conn.execute(
        "update sc_connections set removed_at = $2, updated_at = $2 where id = $1 and removed_at is null",
        connection_id,
        now,
    )
    return bool(done == "UPDATE 1")


async def fetch_credentials(conn: Conn, connection_id: str) -> bytes | None:
    """Return a connection's credentials as they are stored: encrypted."""
    sealed: bytes | None = await conn.fetchval("select credentials from sc_connections where id = $1", connection_id)
    return sealed


async def save_credentials(conn: WriteConn, connection_id: str, credentials: bytes, now: datetime) -> None:
    """Replace a connection's credentials, which are encrypted."""
    await conn.execute(
        "update sc_connections set credentials = $2, updated_at = $3 where id = $1", connection_id, credentials, now
    )


def _connection(row: Mapping[str, Any]) -> Connection:
    options = dict(row["options"])
    return Connection(
        id=ConnectionId(row["id"]),
        name=row["name"],
        dialect=row["dialect"],
        url=row["url"],
        options=ConnectionOptions(**{**options, "peers": tuple(options.get("peers", ()))}),
        enabled=row["enabled"],
        removed=row["removed_at"] is not None,
    )
