"""SQL of the policies of set points: versions, of which the youngest of each scope and target holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class SetpointPolicyRow:
    """One version of a policy."""

    revision: int
    scope: str
    target: str
    rules: Mapping[str, Any] | None
    """By name; None: the policy was taken away."""
    source: str
    """Where the rules come from, as whoever set them says."""
    changed_by: str
    changed_at: datetime


async def lock(conn: WriteConn) -> None:
    """Let one transaction at a time change policies, so that revisions become visible in their order."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('control.setpoint_policies', 0))")


async def insert(
    conn: WriteConn, scope: str, target: str, rules: Mapping[str, Any] | None, source: str, actor: str, at: datetime
) -> SetpointPolicyRow:
    """Insert a version; the caller holds the lock."""
    row = await conn.fetchrow(
        """
        insert into setpoint_policies (scope, target, rules, source, changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6)
        returning revision, scope, target, rules, source, changed_by, changed_at
        """,
        scope,
        target,
        rules,
        source,
        actor,
        at,
    )
    assert row is not None  # noqa: S101 - an insert returns its row
    return SetpointPolicyRow(**dict(row))


async def fetch_current(conn: ReadConn | WriteConn) -> list[SetpointPolicyRow]:
    """Return the policies that hold."""
    rows = await conn.fetch(
        """
        select distinct on (scope, target) revision, scope, target, rules, source, changed_by, changed_at
          from setpoint_policies order by scope, target, revision desc
        """
    )
    return [SetpointPolicyRow(**dict(row)) for row in rows if row["rules"] is not None]


async def fetch_versions(conn: ReadConn | WriteConn, scope: str, target: str, limit: int) -> list[SetpointPolicyRow]:
    """Return the versions of one policy, the youngest first."""
    rows = await conn.fetch(
        """
        select revision, scope, target, rules, source, changed_by, changed_at
          from setpoint_policies where scope = $1 and target = $2 order by revision desc limit $3
        """,
        scope,
        target,
        limit,
    )
    return [SetpointPolicyRow(**dict(row)) for row in rows]
