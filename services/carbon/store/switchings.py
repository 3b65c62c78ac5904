"""SQL of switchings: when loads went off and came on, as control proved it."""

from collections.abc import Sequence
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import LoadId, SiteId
from services.carbon.domain.savings.shutdowns.executed import Switching


async def add_switchings(conn: WriteConn, switchings: Sequence[tuple[SiteId, Switching]]) -> None:
    """Store switchings; what is told again changes nothing, but may name the occurrence that was not named before."""
    await conn.execute(
        """
        insert into load_switchings (load_id, at, off, site_id, occurrence_id, plan_id)
        select distinct on (load_id, at, off) load_id, at, off, site_id, occurrence_id, plan_id
          from unnest($1::text[], $2::timestamptz[], $3::boolean[], $4::text[], $5::text[], $6::text[])
            as n(load_id, at, off, site_id, occurrence_id, plan_id)
         order by load_id, at, off, occurrence_id nulls last
            on conflict on constraint load_switchings_pk
            do update set occurrence_id = excluded.occurrence_id, plan_id = excluded.plan_id
             where load_switchings.occurrence_id is null and excluded.occurrence_id is not null
        """,
        [one.load_id for _, one in switchings],
        [one.at for _, one in switchings],
        [one.off for _, one in switchings],
        [site for site, _ in switchings],
        [one.occurrence_id for _, one in switchings],
        [one.plan_id for _, one in switchings],
    )


async def fetch_switchings(conn: ReadConn, loads: Sequence[LoadId], start: datetime, end: datetime) -> list[Switching]:
    """Return the switchings of ``[start, end)`` and, of each load, the last one before, by load and time."""
    rows = await conn.fetch(
        """
        select s.load_id, s.at, s.off, s.occurrence_id, s.plan_id
          from unnest($1::text[]) as l(id)
          cross join lateral (
              select load_id, at, off, occurrence_id, plan_id from load_switchings
               where load_id = l.id and at < $3
                 and at >= coalesce((select max(at) from load_switchings where load_id = l.id and at < $2), $2)
          ) as s
         order by s.load_id, s.at
        """,
        list(loads),
        start,
        end,
    )
    return [Switching(row["load_id"], row["at"], row["off"], row["occurrence_id"], row["plan_id"]) for row in rows]


async def fetch_loads_of_plan(conn: ReadConn, plan: str, start: datetime, end: datetime) -> list[LoadId]:
    """Return the loads that a plan switched off in ``[start, end)``."""
    rows = await conn.fetch(
        """
        select distinct load_id from load_switchings
         where plan_id = $1 and off and at >= $2 and at < $3 order by load_id
        """,
        plan,
        start,
        end,
    )
    return [LoadId(row["load_id"]) for row in rows]


async def fetch_offs_of_occurrence(conn: ReadConn, occurrence: str) -> list[tuple[LoadId, datetime]]:
    """Return which loads went off under an occurrence, and when; more than once where it was interrupted."""
    rows = await conn.fetch(
        "select load_id, at from load_switchings where occurrence_id = $1 and off order by at, load_id", occurrence
    )
    return [(LoadId(row["load_id"]), row["at"]) for row in rows]
