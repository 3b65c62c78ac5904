"""SQL of wake-up orders, isolations and idempotency keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class WakeUp:
    """An order to wake loads; suspends the plans over them until somebody releases it."""

    wake_up_id: str
    scope: str
    """``loads``, ``device``, ``site``, ``region`` or ``all``."""
    target: str
    reason: str
    actor: str
    created_at: datetime
    suspends: bool
    released_by: str | None = None
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """A work permit: a load stays off, open-ended, until it is released or expires."""

    isolation_id: str
    load_id: str
    site_id: str
    state: str
    """``requested``, ``active`` or ``ended``."""
    owner: str
    permit: str
    """Number of the work permit."""
    reason: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    off_command_id: str
    approved_by: str | None = None
    approved_at: datetime | None = None
    warned: bool = False
    ended_by: str | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None


async def insert_wake_up(
    conn: WriteConn, order: WakeUp, load_ids: Sequence[str], unreachable: Sequence[str] = ()
) -> None:
    """Insert an order, what nobody can reach of it and, if it suspends, what it suspends."""
    await conn.execute(
        """
        insert into wake_ups (wake_up_id, scope, target, reason, actor, created_at, suspends, unreachable)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        order.wake_up_id,
        order.scope,
        order.target,
        order.reason,
        order.actor,
        order.created_at,
        order.suspends,
        sorted(unreachable),
    )
    if order.suspends:
        await conn.execute(
            "insert into suspensions (load_id, wake_up_id) select unnest($1::text[]), $2",
            sorted(set(load_ids)),
            order.wake_up_id,
        )


async def fetch_suspending(conn: ReadConn | WriteConn) -> list[WakeUp]:
    """Return the orders that are in force and let plans rest."""
    rows = await conn.fetch(
        """
        select wake_up_id, scope, target, reason, actor, created_at, suspends, released_by, released_at
          from wake_ups where suspends and released_at is null order by created_at
        """
    )
    return [WakeUp(**dict(row)) for row in rows]


async def fetch_suspended(conn: ReadConn | WriteConn, load_ids: Sequence[str]) -> dict[str, str]:
    """Return those of the loads whose plans rest, each with an order that lets them."""
    rows = await conn.fetch(
        """
        select load_id, min(wake_up_id) as wake_up_id from suspensions
         where load_id = any($1::text[]) group by load_id
        """,
        list(load_ids),
    )
    return {row["load_id"]: row["wake_up_id"] for row in rows}


async def release_wake_up(conn: WriteConn, wake_up_id: str, actor: str, at: datetime) -> bool:
    """Let plans go on; returns whether the order was in force."""
    tag = await conn.execute(
        """
        update wake_ups set released_by = $2, released_at = $3
         where wake_up_id = $1 and suspends and released_at is null
        """,
        wake_up_id,
        actor,
        at,
    )
    await conn.execute("delete from suspensions where wake_up_id = $1", wake_up_id)
    return bool(tag == "UPDATE 1")


async def fetch_wake_up(conn: ReadConn, wake_up_id: str) -> WakeUp | None:
    """Return one order."""
    row = await conn.fetchrow(
        """
        select wake_up_id, scope, target, reason, actor, created_at, suspends, released_by, released_at
          from wake_ups where wake_up_id = $1
        """,
        wake_up_id,
    )
    return None if row is None else WakeUp(**dict(row))


async def fetch_wake_ups(conn: ReadConn, *, before: tuple[datetime, str] | None, limit: int) -> list[WakeUp]:
    """Return orders, the youngest first."""
    rows = await conn.fetch(
        """
        select wake_up_id, scope, target, reason, actor, created_at, suspends, released_by, released_at
          from wake_ups
         where $1::timestamptz is null or (created_at, wake_up_id) < ($1, $2)
         order by created_at desc, wake_up_id desc
         limit $3
        """,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [WakeUp(**dict(row)) for row in rows]


ISOLATION_COLUMNS = """
    isolation_id, load_id, site_id, state, owner, permit, reason, requested_by, requested_at, expires_at,
    off_command_id, approved_by, approved_at, warned, ended_by, ended_at, end_reason
"""


async def insert_isolation(conn: WriteConn, isolation: Isolation) -> None:
    """Insert a requested isolation."""
    await conn.execute(
        """
        insert into isolations (isolation_id, load_id, site_id, state, owner, permit, reason, requested_by,
                                requested_at, expires_at, off_command_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        isolation.isolation_id,
        isolation.load_id,
        isolation.site_id,
        isolation.state,
        isolation.owner,
        isolation.permit,
        isolation.reason,
        isolation.requested_by,
        isolation.requested_at,
        isolation.expires_at,
        isolation.off_command_id,
    )


async def lock_isolation(conn: WriteConn, isolation_id: str) -> Isolation | None:
    """Lock and return an isolation."""
    row = await conn.fetchrow(
        f"select {ISOLATION_COLUMNS} from isolations where isolation_id = $1 for update",  # noqa: S608
        isolation_id,
    )
    return None if row is None else Isolation(**dict(row))


async def update_isolation(conn: WriteConn, isolation: Isolation) -> None:
    """Write a locked isolation's state."""
    await conn.execute(
        """
        update isolations
           set state = $2, approved_by = $3, approved_at = $4, warned = $5, ended_by = $6, ended_at = $7,
               end_reason = $8
         where isolation_id = $1
        """,
        isolation.isolation_id,
        isolation.state,
        isolation.approved_by,
        isolation.approved_at,
        isolation.warned,
        isolation.ended_by,
        isolation.ended_at,
        isolation.end_reason,
    )


async def lock_expiring(conn: WriteConn, now: datetime, warn_before: datetime) -> list[Isolation]:
    """Lock and return isolations that are over, or about to be over and nobody was warned."""
    rows = await conn.fetch(
        f"""
        select {ISOLATION_COLUMNS} from isolations
         where (state = 'active' and (expires_at <= $1 or (expires_at <= $2 and not warned)))
            or (state = 'requested' and expires_at <= $1)
         order by isolation_id
           for update skip locked
        """,  # noqa: S608
        now,
        warn_before,
    )
    return [Isolation(**dict(row)) for row in rows]


async def fetch_isolations(conn: ReadConn, *, state: str | None = None) -> list[Isolation]:
    """Return isolations, the youngest first."""
    rows = await conn.fetch(
        f"""
        select {ISOLATION_COLUMNS} from isolations where $1::text is null or state = $1
         order by requested_at desc, isolation_id desc limit 1000
        """,  # noqa: S608
        state,
    )
    return [Isolation(**dict(row)) for row in rows]


# Idempotency.


async def take_key(conn: WriteConn, caller: str, key: str) -> bool:
    """Hold the key until the transaction ends; False while another request with it is running."""
    taken: bool = await conn.fetchval(
        "select pg_try_advisory_xact_lock(hashtextextended($1 || '~' || $2, 0))", caller, key
    )
    return taken


async def fetch_key(conn: WriteConn, caller: str, key: str) -> tuple[bytes, int, Any] | None:
    """Return the hash of the body, the status and the answer of the request that used the key first."""
    row = await conn.fetchrow(
        "select body_hash, status, response from idempotency_keys where caller = $1 and key = $2", caller, key
    )
    return None if row is None else (row["body_hash"], row["status"], row["response"])


async def put_key(
    conn: WriteConn, caller: str, key: str, body_hash: bytes, status: int, response: Any, at: datetime
) -> None:
    """Keep the answer for whoever asks again."""
    await conn.execute(
        """
        insert into idempotency_keys (caller, key, body_hash, status, response, created_at)
        values ($1, $2, $3, $4, $5, $6)
        """,
        caller,
        key,
        body_hash,
        status,
        response,
        at,
    )


async def forget_keys(conn: WriteConn, before: datetime) -> int:
    """Delete keys older than that."""
    tag = await conn.execute("delete from idempotency_keys where created_at < $1", before)
    return int(tag.split()[-1])
