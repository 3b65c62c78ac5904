"""SQL of mappings: a unit's devices and points, and whom a device's alarms are told by them."""

from collections.abc import Collection

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.export.dialects.messages import DeviceDetail, DeviceRef, PointType
from services.export.domain.connection import ConnectionId, UnitKey
from services.export.domain.delivery import Target
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

Conn = ReadConn | WriteConn


async def fetch_mapping(conn: Conn, key: UnitKey) -> UnitMapping:
    """Return a unit's mapping in its own order."""
    devices = await conn.fetch(
        "select sc_device_id, sc_device_code, name, details from mapping_devices where unit_key = $1 order by place",
        key,
    )
    points = await conn.fetch(
        """
        select sc_device_id, point_id, device_id, kind, source, type, name, level, network_alarm
          from mapping_points where unit_key = $1 order by place
        """,
        key,
    )
    return UnitMapping(
        devices=tuple(
            MappedDevice(
                ref=DeviceRef(row["sc_device_id"], row["sc_device_code"]),
                name=row["name"],
                details={DeviceDetail(name): text for name, text in row["details"].items()},
            )
            for row in devices
        ),
        points=tuple(
            MappedPoint(
                device_id=row["device_id"],
                kind=SourceKind(row["kind"]),
                source=row["source"],
                sc_device_id=row["sc_device_id"],
                point_id=row["point_id"],
                type=PointType(row["type"]),
                name=row["name"],
                level=row["level"],
                network_alarm=row["network_alarm"],
            )
            for row in points
        ),
    )


async def put_mapping(conn: WriteConn, key: UnitKey, mapping: UnitMapping) -> None:
    """Replace a unit's mapping, and note when its devices are others than before."""
    await conn.execute(
        """
        update units set devices_changed = true
         where key = $1
           and (select array_agg(sc_device_id || ' ' || sc_device_code order by place)
                  from mapping_devices where unit_key = $1) is distinct from $2::text[]
        """,
        key,
        [f"{device.ref.device_id} {device.ref.device_code}" for device in mapping.devices] or None,
    )
    await conn.execute("delete from mapping_devices where unit_key = $1", key)
    await conn.executemany(
        """
        insert into mapping_devices (unit_key, sc_device_id, sc_device_code, name, details, place)
        values ($1, $2, $3, $4, $5, $6)
        """,
        [
            (
                key,
                device.ref.device_id,
                device.ref.device_code,
                device.name,
                {detail.value: text for detail, text in device.details.items()},
                place,
            )
            for place, device in enumerate(mapping.devices)
        ],
    )
    await conn.executemany(
        """
        insert into mapping_points
               (unit_key, sc_device_id, point_id, device_id, kind, source, type, name, level, network_alarm, place)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        [
            (
                key, point.sc_device_id, point.point_id, point.device_id, point.kind, point.source, point.type,
                point.name, point.level, point.network_alarm, place,
            )
            for place, point in enumerate(mapping.points)
        ],
    )  # fmt: skip


async def mapping_sizes(conn: Conn) -> list[tuple[str, str, int, int]]:
    """Return connection, unit id, mapped devices and mapped points of every unit that has not left."""
    rows = await conn.fetch(
        """
        select u.connection_id, u.unit_id,
               (select count(*) from mapping_devices d where d.unit_key = u.key) as devices,
               (select count(*) from mapping_points p where p.unit_key = u.key) as points
          from units u
         where u.phase not in ('leaving', 'left')
         order by u.connection_id, u.unit_id
        """
    )
    return [(row["connection_id"], row["unit_id"], row["devices"], row["points"]) for row in rows]


async def mapped_devices(conn: Conn) -> set[str]:
    """Return our devices of which some centre may ask values."""
    rows = await conn.fetch(
        """
        select distinct p.device_id
          from mapping_points p join units u on u.key = p.unit_key
         where p.kind = 'point' and u.phase not in ('leaving', 'left')
        """
    )
    return {row["device_id"] for row in rows}


async def alarm_targets(
    conn: Conn, devices: Collection[str], signals: Collection[str]
) -> dict[tuple[str, str], list[Target]]:
    """Return whom alarms of these devices and signals are told, by (device, signal)."""
    rows = await conn.fetch(
        """
        select p.device_id, p.source, p.unit_key, u.connection_id, c.dialect, p.sc_device_id, d.sc_device_code,
               d.name as device_name, p.point_id, p.name, p.level, p.network_alarm
          from mapping_points p
          join mapping_devices d on d.unit_key = p.unit_key and d.sc_device_id = p.sc_device_id
          join units u on u.key = p.unit_key
          join sc_connections c on c.id = u.connection_id
         where p.device_id = any($1) and p.kind = 'signal' and p.source = any($2)
           and u.phase not in ('leaving', 'left') and c.removed_at is null
         order by p.unit_key, p.place
        """,
        list(devices),
        list(signals),
    )
    found: dict[tuple[str, str], list[Target]] = {}
    for row in rows:
        found.setdefault((row["device_id"], row["source"]), []).append(target_of(row))
    return found


def target_of(row: Record) -> Target:
    """Return whom an alarm is told by a mapped point, from a row that has all of it."""
    return Target(
        unit_key=UnitKey(row["unit_key"]),
        connection_id=ConnectionId(row["connection_id"]),
        dialect=row["dialect"],
        sc_device=DeviceRef(row["sc_device_id"], row["sc_device_code"]),
        point_id=row["point_id"],
        name=row["name"],
        device_name=row["device_name"] or "",
        level=row["level"],
        network_alarm=row["network_alarm"] or "",
    )
