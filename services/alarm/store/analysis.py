"""SQL of the analysis of alarms. All ranges are half-open and of the begin, as people were told (``raised_at``)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import ReadConn


@dataclass(frozen=True, slots=True)
class Scope:
    """Which alarms are looked at; None does not limit."""

    start: datetime
    end: datetime
    sites: Sequence[str] | None = None
    signal: str | None = None
    levels: Sequence[int] | None = None
    told: bool | None = None
    """Only those that nothing explains, or only the others."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many alarms have something in common."""

    key: str
    alarms: int
    active: int
    told: int


@dataclass(frozen=True, slots=True)
class Durations:
    """How long it took until alarms were acknowledged and until they were over, by level. [s]"""

    level: int
    alarms: int
    acknowledged: int
    acknowledge_median_s: float | None
    acknowledge_p90_s: float | None
    ended: int
    clear_median_s: float | None
    clear_p90_s: float | None


@dataclass(frozen=True, slots=True)
class Chatter:
    """An alarm of a device that comes and goes faster than anybody can look."""

    device_id: str
    signal: str
    bursts: int


@dataclass(frozen=True, slots=True)
class Stale:
    """An alarm that has been active for very long."""

    alarm_id: str
    site_id: str
    device_id: str | None
    signal: str
    level: int
    began_at: datetime


@dataclass(frozen=True, slots=True)
class SiteState:
    """What is active and told at a site."""

    site_id: str
    worst_level: int
    alarms: int
    unacknowledged: int


KEYS = {
    "level": "a.level::text",
    "signal": "a.signal",
    "site": "a.site_id",
    "kind": "coalesce(s.equipment_type, '-')",
    "end_reason": "coalesce(a.end_reason, 'active')",
    "hour": "to_char(a.raised_at at time zone $7, 'YYYY-MM-DD\"T\"HH24:00')",
    "day": "to_char(a.raised_at at time zone $7, 'YYYY-MM-DD')",
    "hour_of_day": "to_char(a.raised_at at time zone $7, 'HH24')",
    "weekday": "to_char(a.raised_at at time zone $7, 'ID')",
}
"""What counts may be by; nothing of it comes from outside."""

_COUNTS = """
    select {key} as key, count(*) as alarms, count(*) filter (where a.ended_at is null) as active,
           count(*) filter (where a.inhibited_by is null) as told
      from alarms a {join}
     where a.raised_at >= $1 and a.raised_at < $2
       and ($3::text[] is null or a.site_id = any($3))
       and ($4::text is null or a.signal = $4)
       and ($5::integer[] is null or a.level = any($5))
       and ($6::boolean is null or (a.inhibited_by is null) = $6)
       and $7::text is not null
     group by 1
"""
_STATEMENTS = {
    name: _COUNTS.format(key=key, join="left join signals s on s.code = a.signal" if "s." in key else "")
    for name, key in KEYS.items()
}


async def fetch_counts(conn: ReadConn, scope: Scope, by: str, zone: str) -> list[Count]:
    """Return how many alarms there were by something, in no order.

    Args:
        conn: Where to read.
        scope: Which alarms.
        by: One of ``KEYS``.
        zone: Whose local time hours and days are in.
    """
    rows = await conn.fetch(_STATEMENTS[by], *_scoped(scope), zone)
    return [Count(**dict(row)) for row in rows]


async def fetch_durations(conn: ReadConn, scope: Scope) -> list[Durations]:
    """Return how long alarms took, by level."""
    rows = await conn.fetch(
        """
        select level, count(*) as alarms, count(acknowledged_at) as acknowledged,
               percentile_cont(0.5) within group (order by extract(epoch from acknowledged_at - raised_at)::float8)
                   as acknowledge_median_s,
               percentile_cont(0.9) within group (order by extract(epoch from acknowledged_at - raised_at)::float8)
                   as acknowledge_p90_s,
               count(ended_at) as ended,
               percentile_cont(0.5) within group (order by extract(epoch from ended_at - began_at)::float8)
                   as clear_median_s,
               percentile_cont(0.9) within group (order by extract(epoch from ended_at - began_at)::float8)
                   as clear_p90_s
          from alarms
         where raised_at >= $1 and raised_at < $2
           and ($3::text[] is null or site_id = any($3))
           and ($4::text is null or signal = $4)
           and ($5::integer[] is null or level = any($5))
           and ($6::boolean is null or (inhibited_by is null) = $6)
         group by level order by level
        """,
        *_scoped(scope),
    )
    return [Durations(**dict(row)) for row in rows]


async def fetch_windows(conn: ReadConn, scope: Scope) -> list[tuple[datetime, int]]:
    """Return the told alarms of each ten minutes since the begin of the range, those without any left out."""
    rows = await conn.fetch(
        """
        select date_bin('10 minutes', raised_at, $1) as at, count(*) as number
          from alarms
         where raised_at >= $1 and raised_at < $2 and inhibited_by is null
           and ($3::text[] is null or site_id = any($3))
           and ($4::text is null or signal = $4)
           and ($5::integer[] is null or level = any($5))
           and $6::boolean is not false
         group by 1 order by 1
        """,
        *_scoped(scope),
    )
    return [(row["at"], row["number"]) for row in rows]


async def fetch_chatter(conn: ReadConn, scope: Scope, *, count: int, within_s: float, limit: int) -> list[Chatter]:
    """Return what began so often within so long, the worst first.

    So many within so long touch two spans of that length at most, so one of the two holds half of them. Nearly
    nothing does, and only what does is put into order.
    """
    rows = await conn.fetch(
        """
        with begins as materialized (
            select device_id, signal, began_at
              from alarms
             where raised_at >= $1 and raised_at < $2 and device_id is not null
               and ($3::text[] is null or site_id = any($3))
               and ($4::text is null or signal = $4)
               and ($5::integer[] is null or level = any($5))
               and ($6::boolean is null or (inhibited_by is null) = $6)),
        likely as (
            select distinct device_id, signal from (
                select device_id, signal
                  from begins
                 group by device_id, signal, date_bin(make_interval(secs => $8), began_at, $1)
                having count(*) >= ($7::integer + 1) / 2) as dense)
        select device_id, signal, count(*) as bursts from (
            select device_id, signal, began_at,
                   lag(began_at, $7::integer - 1) over (partition by device_id, signal order by began_at) as earlier
              from begins join likely using (device_id, signal)) as ordered
         where began_at - earlier <= make_interval(secs => $8)
         group by device_id, signal order by bursts desc, device_id, signal limit $9
        """,
        *_scoped(scope),
        count,
        within_s,
        limit,
    )
    return [Chatter(**dict(row)) for row in rows]


async def fetch_stale(
    conn: ReadConn, sites: Collection[str] | None, before: datetime, limit: int
) -> tuple[int, list[Stale]]:
    """Return how many told alarms have been active since before then, and the oldest of them."""
    allowed = None if sites is None else sorted(sites)
    rows = await conn.fetch(
        """
        select alarm_id, site_id, device_id, signal, level, began_at
          from alarms
         where ended_at is null and inhibited_by is null and began_at < $1 and ($2::text[] is null or site_id = any($2))
         order by began_at, alarm_id limit $3
        """,
        before,
        allowed,
        limit,
    )
    number = await conn.fetchval(
        """
        select count(*) from alarms
         where ended_at is null and inhibited_by is null and began_at < $1 and ($2::text[] is null or site_id = any($2))
        """,
        before,
        allowed,
    )
    return number, [Stale(**dict(row)) for row in rows]


async def fetch_site_states(conn: ReadConn, sites: Collection[str] | None) -> list[SiteState]:
    """Return the sites with told alarms that are active."""
    rows = await conn.fetch(
        """
        select site_id, min(level) as worst_level, count(*) as alarms,
               count(*) filter (where acknowledged_at is null) as unacknowledged
          from alarms
         where ended_at is null and inhibited_by is null and ($1::text[] is null or site_id = any($1))
         group by site_id order by worst_level, alarms desc, site_id
        """,
        None if sites is None else sorted(sites),
    )
    return [SiteState(**dict(row)) for row in rows]


async def fetch_signal_names(conn: ReadConn) -> dict[str, tuple[str, str]]:
    """Return English and Chinese name of each signal."""
    rows = await conn.fetch("select code, name_en, name_zh from signals")
    return {row["code"]: (row["name_en"], row["name_zh"]) for row in rows}


async def fetch_equipment(conn: ReadConn) -> dict[str, str]:
    """Return the Chinese name of each type of equipment."""
    rows = await conn.fetch("select distinct equipment_type, equipment_zh from signals")
    return {row["equipment_type"]: row["equipment_zh"] for row in rows}


def _scoped(scope: Scope) -> tuple[object, ...]:
    return (
        scope.start,
        scope.end,
        None if scope.sites is None else list(scope.sites),
        scope.signal,
        None if scope.levels is None else list(scope.levels),
        scope.told,
    )
