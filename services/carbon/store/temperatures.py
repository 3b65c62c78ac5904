"""SQL of outdoor temperatures: the mean of a civil day at a place (a site or a region), by version."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from libs.common.db import ReadConn, WriteConn


async def put_temperatures(
    conn: WriteConn, place: str, days: Mapping[date, float], *, source: str, by: str, at: datetime
) -> int:
    """Store daily means [°C]; what is the same as before adds no version. Returns how many versions were added."""
    rows = await conn.fetch(
        """
        insert into outdoor_temperatures (place, day, version, mean_c, source, recorded_by, recorded_at)
        select $1, n.day, coalesce(o.version, 0) + 1, n.mean_c, $4, $5, $6
          from unnest($2::date[], $3::float8[]) as n(day, mean_c)
          left join lateral (
              select version, mean_c, source from outdoor_temperatures
               where place = $1 and day = n.day order by version desc limit 1
          ) as o on true
         where o.version is null or o.mean_c <> n.mean_c or o.source <> $4
        returning day
        """,
        place,
        list(days),
        list(days.values()),
        source,
        by,
        at,
    )
    return len(rows)


async def fetch_temperatures(
    conn: ReadConn, places: Sequence[str], start: date, end: date
) -> list[tuple[str, date, float, str]]:
    """Return (place, day, daily mean [°C], source) of the civil days ``[start, end)``, by place and day."""
    rows = await conn.fetch(
        """
        select distinct on (place, day) place, day, mean_c, source
          from outdoor_temperatures
         where place = any($1::text[]) and day >= $2 and day < $3
         order by place, day, version desc
        """,
        list(places),
        start,
        end,
    )
    return [(row["place"], row["day"], row["mean_c"], row["source"]) for row in rows]
