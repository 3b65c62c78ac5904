"""SQL of the guards' policies: versions, of which the youngest of each scope and target holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One version of a policy."""

    revision: int
    scope: str
    target: str
    limits: Mapping[str, Any] | None
    """None: the policy was taken away."""
    source: str
    """Where the limits come from, as whoever set them says."""
    changed_by: str
    changed_at: datetime


async def lock(conn: WriteConn) -> None:
    """Let one transaction at a time change policies, so that revisions become visible in their order."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('control.guard_policies', 0))")


async def insert(
    conn: WriteConn, scope: str, target: str, limits: Mapping[str, Any] | None, source: str, actor: str, at: datetime
) -> PolicyRow:
    """Insert a version; the caller holds the lock."""
    row = await conn.fetchrow(
        """
        insert into guard_policies (scope, target, limits, source, changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6)
        returning revision, scope, target, limits, source, changed_by, changed_at
        """,
        scope,
        target,
        limits,
        source,
        actor,
        at,
    )
    assert row is not None  # noqa: S101 - an insert returns its row
    return PolicyRow(**dict(row))


async def last_revision(conn: ReadConn | WriteConn) -> int:
    """Return the revision of the last change, 0 before the first."""
    revision: int = await conn.fetchval("select coalesce(max(revision), 0) from guard_policies")
    return revision


async def count(conn: ReadConn | WriteConn) -> int:
    """Return how many policies hold."""
    return len(await fetch_current(conn))


async def fetch_current(conn: ReadConn | WriteConn) -> list[PolicyRow]:
    """Return the policies that hold."""
    rows = await conn.fetch(
        """
        select distinct on (scope, target) revision, scope, target, limits, source, changed_by, changed_at
          from guard_policies order by scope, target, revision desc
        """
    )
    return [PolicyRow(**dict(row)) for row in rows if row["limits"] is not None]


async def fetch_versions(conn: ReadConn | WriteConn, scope: str, target: str, limit: int) -> list[PolicyRow]:
    """Return the versions of one policy, the youngest first."""
    rows = await conn.fetch(
        """
        select revision, scope, target, limits, source, changed_by, changed_at
          from guard_policies where scope = $1 and target = $2 order by revision desc limit $3
        """,
        scope,
        target,
        limit,
    )
    return [PolicyRow(**dict(row)) for row in rows]
