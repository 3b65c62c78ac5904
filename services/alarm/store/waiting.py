"""SQL of what is known between the reports of a device: when it was heard, what it said last, how ingest beats."""

from collections.abc import Collection, Mapping

import orjson

from libs.common.db import WriteConn
from services.alarm.domain.beats import Place, Pulse
from services.alarm.domain.derived import Remembered
from services.alarm.domain.model import from_us, to_us


async def fetch_heard(conn: WriteConn, partitions: Collection[int]) -> list[tuple[str, int, int]]:
    """Return devices of partitions that were heard, or are waited for, since another time than their judged one.

    Device, partition and time. [µs]
    """
    rows = await conn.fetch(
        "select device_id, partition, heard_at from heard where partition = any($1::integer[])", sorted(partitions)
    )
    return [(row["device_id"], row["partition"], to_us(row["heard_at"])) for row in rows]


async def put_heard(conn: WriteConn, heard: Collection[tuple[str, int, int]]) -> None:
    """Write when devices were heard: device, partition and time. [µs]"""
    await conn.execute(
        """
        insert into heard (device_id, partition, heard_at)
        select * from unnest($1::text[], $2::integer[], $3::timestamptz[])
            on conflict (device_id) do update set partition = excluded.partition, heard_at = excluded.heard_at
        """,
        [device_id for device_id, _, _ in heard],
        [partition for _, partition, _ in heard],
        [from_us(heard_us) for _, _, heard_us in heard],
    )


async def fetch_last_values(conn: WriteConn, partitions: Collection[int]) -> list[tuple[str, Remembered]]:
    """Return the last usable values of devices of partitions."""
    rows = await conn.fetch(
        "select device_id, point_values from last_values where partition = any($1::integer[])", sorted(partitions)
    )
    return [
        (row["device_id"], {point: (value, since_us) for point, (value, since_us) in row["point_values"].items()})
        for row in rows
    ]


async def put_last_values(conn: WriteConn, values: Collection[tuple[str, int, Remembered]]) -> None:
    """Write the last usable values of devices: device, partition, and point to value and time. [µs]"""
    await conn.execute(
        """
        insert into last_values (device_id, partition, point_values)
        select device_id, partition, point_values::jsonb
          from unnest($1::text[], $2::integer[], $3::text[]) as new (device_id, partition, point_values)
            on conflict (device_id) do update set
               partition = excluded.partition, point_values = excluded.point_values
        """,
        [device_id for device_id, _, _ in values],
        [partition for _, partition, _ in values],
        [orjson.dumps(dict(remembered)).decode() for _, _, remembered in values],
    )


async def fetch_pulses(conn: WriteConn, partitions: Collection[int]) -> dict[Place, Pulse]:
    """Return what is known of the processes of ingest in partitions."""
    rows = await conn.fetch(
        """
        select partition, instance, beat_at, resumed_at from ingest_beats where partition = any($1::integer[])
        """,
        sorted(partitions),
    )
    return {
        (row["partition"], row["instance"]): Pulse(
            to_us(row["beat_at"]), None if row["resumed_at"] is None else to_us(row["resumed_at"])
        )
        for row in rows
    }


async def put_pulses(conn: WriteConn, pulses: Mapping[Place, Pulse]) -> None:
    """Write what is known of processes of ingest."""
    await conn.execute(
        """
        insert into ingest_beats (partition, instance, beat_at, resumed_at)
        select * from unnest($1::integer[], $2::text[], $3::timestamptz[], $4::timestamptz[])
            on conflict (partition, instance) do update set
               beat_at = excluded.beat_at, resumed_at = excluded.resumed_at
        """,
        [partition for partition, _ in pulses],
        [instance for _, instance in pulses],
        [from_us(pulse.beat_us) for pulse in pulses.values()],
        [None if pulse.resumed_us is None else from_us(pulse.resumed_us) for pulse in pulses.values()],
    )


async def delete_pulses(conn: WriteConn, gone: Collection[Place]) -> None:
    """Forget processes of ingest that have been away for too long."""
    await conn.execute(
        """
        delete from ingest_beats b using unnest($1::integer[], $2::text[]) as gone (partition, instance)
         where b.partition = gone.partition and b.instance = gone.instance
        """,
        [partition for partition, _ in gone],
        [instance for _, instance in gone],
    )
