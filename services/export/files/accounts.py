"""SQL of the accounts at the file server; passwords are stored encrypted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import UnitKey

Conn = ReadConn | WriteConn


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """One unit's account as it is stored."""

    unit_key: UnitKey
    username: str
    sealed: bytes
    uploads: bool
    changed_by: str
    changed_at: datetime


_ACCOUNT = "select unit_key, username, sealed, uploads, changed_by, changed_at from unit_file_accounts"


async def fetch(conn: Conn, unit_key: UnitKey) -> StoredAccount | None:
    """Return a unit's account."""
    row = await conn.fetchrow(_ACCOUNT + " where unit_key = $1", unit_key)
    return None if row is None else _account(row)


async def fetch_all(conn: Conn) -> list[StoredAccount]:
    """Return the accounts of all units that have not left."""
    rows = await conn.fetch(
        _ACCOUNT
        + """
         where exists (select from units u where u.key = unit_key and u.phase not in ('leaving', 'left'))
         order by unit_key
        """
    )
    return [_account(row) for row in rows]


async def put(
    conn: WriteConn, unit_key: UnitKey, username: str, sealed: bytes, *, uploads: bool, changed_by: str, at: datetime
) -> bool:
    """Create or change a unit's account; return False when another unit has the name."""
    done = await conn.execute(
        """
        insert into unit_file_accounts as a (unit_key, username, sealed, uploads, changed_by, changed_at)
        select $1, $2, $3, $4, $5, $6
         where not exists (select from unit_file_accounts o where o.username = $2 and o.unit_key <> $1)
        on conflict (unit_key) do update
           set username = excluded.username, sealed = excluded.sealed, uploads = excluded.uploads,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at
        """,
        unit_key,
        username,
        sealed,
        uploads,
        changed_by,
        at,
    )
    return bool(done == "INSERT 0 1")


async def lock(conn: WriteConn) -> None:
    """Let no other account be changed until the transaction ends: names are unique over all units."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('unit_file_accounts', 0))")


async def remove(conn: WriteConn, unit_key: UnitKey) -> bool:
    """Remove a unit's account; return whether there was one."""
    done = await conn.execute("delete from unit_file_accounts where unit_key = $1", unit_key)
    return bool(done == "DELETE 1")


def _account(row: Mapping[str, Any]) -> StoredAccount:
    return StoredAccount(**{**dict(row), "unit_key": UnitKey(row["unit_key"])})
