"""SQL of hourly samples."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from libs.common.db import ReadConn, WriteConn
from services.export.domain.latest import Sample

Conn = ReadConn | WriteConn


async def save_samples(conn: WriteConn, samples: Sequence[Sample]) -> None:
    """Write samples; the first one of a point and hour stays, whoever wrote it."""
    rows: dict[tuple[str, datetime], dict[str, list[float]]] = {}
    for sample in samples:
        points = rows.setdefault((sample.device_id, sample.hour), {})
        points.setdefault(sample.point, [sample.value, sample.at.timestamp()])
    await conn.executemany(
        """
        insert into hourly_samples (device_id, hour, points) values ($1, $2, $3)
        on conflict (device_id, hour) do update set points = excluded.points || hourly_samples.points
        """,
        [(device_id, hour, points) for (device_id, hour), points in sorted(rows.items())],
    )


async def fetch_samples(conn: Conn, devices: Collection[str], start: datetime, end: datetime) -> list[Sample]:
    """Return the samples within a closed span, oldest first per device."""
    rows = await conn.fetch(
        """
        select device_id, hour, points from hourly_samples
         where device_id = any($1) and hour between date_trunc('hour', $2::timestamptz) and $3
         order by device_id, hour
        """,
        list(devices),
        start,
        end,
    )
    samples = [
        Sample(row["device_id"], point, row["hour"], value, datetime.fromtimestamp(posix_s, tz=UTC))
        for row in rows
        for point, (value, posix_s) in row["points"].items()
    ]
    return [sample for sample in samples if start <= sample.at <= end]
