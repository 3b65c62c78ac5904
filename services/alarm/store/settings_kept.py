"""SQL of what devices are set to, beside what the platform has ordered."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.model import from_us, to_us
from services.alarm.domain.settings_kept import DeviceSetting


async def fetch_settings(conn: WriteConn, partitions: Collection[int]) -> list[DeviceSetting]:
    """Return the settings of devices in partitions."""
    rows = await conn.fetch(
        """
        select device_id, point, site_id, partition, wanted, ordered_at, state, reason, order_id, found, found_at
          from device_settings where partition = any($1::integer[])
        """,
        sorted(partitions),
    )
    return [_setting(dict(row)) for row in rows]


async def put_settings(conn: WriteConn, settings: Collection[DeviceSetting]) -> None:
    """Write settings, each once."""
    for one in settings:
        await conn.execute(
            """
            insert into device_settings (device_id, point, site_id, partition, wanted, ordered_at, state, reason,
                                         order_id, found, found_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                on conflict (device_id, point) do update set
                   site_id = excluded.site_id, partition = excluded.partition, wanted = excluded.wanted,
                   ordered_at = excluded.ordered_at, state = excluded.state, reason = excluded.reason,
                   order_id = excluded.order_id, found = excluded.found, found_at = excluded.found_at
            """,
            one.device_id,
            one.point,
            one.site_id,
            one.partition,
            one.wanted,
            from_us(one.ordered_us),
            one.state,
            one.reason,
            one.order_id,
            one.found,
            None if one.found_us is None else from_us(one.found_us),
        )


async def fetch_page(
    conn: ReadConn, *, device_id: str | None, sites: Sequence[str] | None, after: tuple[str, str] | None, limit: int
) -> list[DeviceSetting]:
    """Return settings in order of device and point; of ``sites`` only, if given."""
    rows = await conn.fetch(
        """
        select device_id, point, site_id, partition, wanted, ordered_at, state, reason, order_id, found, found_at
          from device_settings
         where ($1::text is null or device_id = $1) and ($2::text[] is null or site_id = any($2))
           and ($3::text is null or (device_id, point) > ($3, $4::text))
         order by device_id, point
         limit $5
        """,
        device_id,
        None if sites is None else list(sites),
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [_setting(dict(row)) for row in rows]


def _setting(row: dict[str, Any]) -> DeviceSetting:
    ordered_at: datetime = row.pop("ordered_at")
    found_at: datetime | None = row.pop("found_at")
    return DeviceSetting(**row, ordered_us=to_us(ordered_at), found_us=None if found_at is None else to_us(found_at))
