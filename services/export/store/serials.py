"""SQL of the serial numbers that a unit gives its alarms."""

from collections.abc import Collection, Mapping

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import UnitKey

Conn = ReadConn | WriteConn


async def lock_serials(conn: WriteConn, keys: Collection[UnitKey]) -> dict[UnitKey, int]:
    """Return the next serial number of each unit and hold the units' rows until the transaction ends."""
    rows = await conn.fetch(
        "select key, next_serial from units where key = any($1) order by key for update", sorted(keys)
    )
    return {UnitKey(row["key"]): row["next_serial"] for row in rows}


async def open_serials(
    conn: Conn, wanted: Mapping[UnitKey, int], first: Mapping[UnitKey, int]
) -> dict[UnitKey, set[int]]:
    """Return the numbers of units' alarms whose END the centre has not acknowledged, near the next number.

    "Near" covers twice as many numbers as are wanted plus all that can be open; without a wrap it is empty.

    Args:
        conn: Where.
        wanted: How many numbers each unit wants.
        first: The next number of each.
    """
    # Two ranges, so that an index finds them: those before a wrap and those after it; each unit's by itself, so that
    # a plan of the time when there were no deliveries does not read all of them.
    rows = await conn.fetch(
        """
        select distinct u.key, b.serial
          from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as u (key, first, near)
         cross join lateral (values (u.first, u.first + u.near), (0, u.first + u.near - 4294967296)) as r (low, past)
         cross join lateral (
            select serial from deliveries b
             where unit_key = u.key and serial >= r.low and serial < r.past and step = 'begin' and state <> 'given_up'
               and not exists (select from deliveries e
                                where e.unit_key = b.unit_key and e.alarm_id = b.alarm_id
                                  and e.sc_device_id = b.sc_device_id and e.point_id = b.point_id
                                  and e.step = 'end' and e.state in ('delivered', 'given_up'))
            offset 0
         ) as b
        """,
        list(first),
        list(first.values()),
        [2 * wanted[key] + 1_000_000 for key in first],
    )
    found: dict[UnitKey, set[int]] = {}
    for row in rows:
        found.setdefault(UnitKey(row["key"]), set()).add(row["serial"])
    return found


async def save_next_serials(conn: WriteConn, numbers: Mapping[UnitKey, int]) -> None:
    """Write where units' numbers go on."""
    await conn.execute(
        """
        update units set next_serial = n.number
          from unnest($1::bigint[], $2::bigint[]) as n (key, number) where units.key = n.key
        """,
        list(numbers),
        list(numbers.values()),
    )
