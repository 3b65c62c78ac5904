"""SQL of upstream apps: their limits in versions, what they have ordered, what sites have opted out of."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.control.domain.apps import AppLimits, OptOut


@dataclass(frozen=True, slots=True)
class LimitsRow:
    """One version of an app's limits."""

    revision: int
    caller: str
    limits: Mapping[str, Any] | None
    """None: they were taken away."""
    source: str
    """Where they come from, as whoever set them says."""
    changed_by: str
    changed_at: datetime


LIMIT_COLUMNS = "revision, caller, limits, source, changed_by, changed_at"
OPT_OUT_COLUMNS = "opt_out_id, site_id, starts_at, until, reason, declared_by, declared_at, ended_by, ended_at"


async def lock_caller(conn: WriteConn, caller: str) -> None:
    """Let one order of an app at a time be counted; the loads are locked before."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 10))", caller)


async def lock_callers(conn: WriteConn, callers: Iterable[str]) -> set[str]:
    """Lock the callers that nobody else has locked and return them; waits for nobody."""
    rows = await conn.fetch(
        """
        select caller from unnest($1::text[]) as c(caller)
         where pg_try_advisory_xact_lock(hashtextextended(caller, 10))
        """,
        sorted(set(callers)),
    )
    return {row["caller"] for row in rows}


async def insert_limits(
    conn: WriteConn, caller: str, limits: Mapping[str, Any] | None, source: str, actor: str, at: datetime
) -> LimitsRow:
    """Insert a version of an app's limits; the caller is locked."""
    row = await conn.fetchrow(
        f"""
        insert into app_limits (caller, limits, source, changed_by, changed_at) values ($1, $2, $3, $4, $5)
        returning {LIMIT_COLUMNS}
        """,  # noqa: S608
        caller,
        limits,
        source,
        actor,
        at,
    )
    assert row is not None  # noqa: S101 - an insert returns its row
    return LimitsRow(**dict(row))


async def fetch_limits(conn: ReadConn | WriteConn, callers: Collection[str]) -> dict[str, AppLimits | None]:
    """Return the limits of those callers that ever had any; None: they were taken away."""
    rows = await conn.fetch(
        """
        select distinct on (caller) caller, limits from app_limits
         where caller = any($1::text[]) order by caller, revision desc
        """,
        sorted(callers),
    )
    return {row["caller"]: None if row["limits"] is None else AppLimits.of_json(row["limits"]) for row in rows}


async def fetch_current(conn: ReadConn) -> list[LimitsRow]:
    """Return the limits of all apps."""
    rows = await conn.fetch(
        f"select distinct on (caller) {LIMIT_COLUMNS} from app_limits order by caller, revision desc"  # noqa: S608
    )
    return [LimitsRow(**dict(row)) for row in rows if row["limits"] is not None]


async def fetch_versions(conn: ReadConn | WriteConn, caller: str, limit: int) -> list[LimitsRow]:
    """Return the versions of one app's limits, the youngest first."""
    rows = await conn.fetch(
        f"select {LIMIT_COLUMNS} from app_limits where caller = $1 order by revision desc limit $2",  # noqa: S608
        caller,
        limit,
    )
    return [LimitsRow(**dict(row)) for row in rows]


async def count_callers(conn: ReadConn | WriteConn) -> int:
    """Return how many callers ever had limits."""
    number: int = await conn.fetchval("select count(distinct caller) from app_limits")
    return number


async def fetch_orders(conn: WriteConn, caller: str, since: datetime) -> list[datetime]:
    """Return when an app has ordered or set something or drafted a plan since then, the oldest first."""
    rows = await conn.fetch(
        """
        select created_at from command_groups where actor = $1 and created_at > $2
        union all
        select created_at from plans where app = $1 and created_at > $2
        union all
        select created_at from adjustments where actor = $1 and created_at > $2
         order by created_at
        """,
        caller,
        since,
    )
    return [row["created_at"] for row in rows]


async def count_off(conn: WriteConn, callers: Collection[str]) -> dict[str, int]:
    """Return how many loads are off by each caller's orders and plans, or are about to be: those with an open lease."""
    rows = await conn.fetch(
        """
        select c.actor, count(distinct c.load_id) as number
          from off_leases l join commands c using (command_id)
         where l.closed_at is null and c.actor = any($1::text[])
         group by c.actor
        """,
        sorted(callers),
    )
    return {row["actor"]: row["number"] for row in rows}


async def fetch_owners(conn: ReadConn | WriteConn, plan_ids: Collection[str]) -> dict[str, str]:
    """Return the app of each of these plans that is one's."""
    rows = await conn.fetch(
        "select plan_id, app from plans where plan_id = any($1::text[]) and app is not null", sorted(plan_ids)
    )
    return {row["plan_id"]: row["app"] for row in rows}


async def insert_opt_out(conn: WriteConn, one: OptOut) -> None:
    """Insert an opt-out."""
    await conn.execute(
        """
        insert into opt_outs (opt_out_id, site_id, starts_at, until, reason, declared_by, declared_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        one.opt_out_id,
        one.site_id,
        one.starts_at,
        one.until,
        one.reason,
        one.declared_by,
        one.declared_at,
    )


async def end_opt_out(conn: WriteConn, opt_out_id: str, actor: str, at: datetime) -> bool:
    """End an opt-out; return whether it had not been ended."""
    done = await conn.execute(
        "update opt_outs set ended_by = $2, ended_at = $3 where opt_out_id = $1 and ended_at is null",
        opt_out_id,
        actor,
        at,
    )
    return bool(done == "UPDATE 1")


async def fetch_opt_out(conn: ReadConn | WriteConn, opt_out_id: str) -> OptOut | None:
    """Return an opt-out."""
    row = await conn.fetchrow(f"select {OPT_OUT_COLUMNS} from opt_outs where opt_out_id = $1", opt_out_id)  # noqa: S608
    return None if row is None else OptOut(**dict(row))


async def opt_outs_at(conn: ReadConn | WriteConn, site_ids: Collection[str], now: datetime) -> list[OptOut]:
    """Return the opt-outs of sites that are not over."""
    rows = await conn.fetch(
        f"""
        select {OPT_OUT_COLUMNS} from opt_outs
         where site_id = any($1::text[]) and until > $2 and ended_at is null order by until desc
        """,  # noqa: S608
        sorted(site_ids),
        now,
    )
    return [OptOut(**dict(row)) for row in rows]


async def fetch_opt_outs(
    conn: ReadConn, *, site_ids: Collection[str] | None, before: tuple[datetime, str] | None, limit: int
) -> list[OptOut]:
    """Return opt-outs, ended ones too, the youngest first; of these sites only, if given."""
    at, key = before or (None, None)
    rows = await conn.fetch(
        f"""
        select {OPT_OUT_COLUMNS} from opt_outs
         where ($1::text[] is null or site_id = any($1))
           and ($2::timestamptz is null or (declared_at, opt_out_id) < ($2, $3))
         order by declared_at desc, opt_out_id desc limit $4
        """,  # noqa: S608
        None if site_ids is None else sorted(site_ids),
        at,
        key,
        limit,
    )
    return [OptOut(**dict(row)) for row in rows]
