"""All SQL of export: rows to domain objects and back. Decisions are made elsewhere."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from libs.common.contracts.delivery import DeliveryState
from libs.common.db import ReadConn, WriteConn
from services.export.dialects.messages import DeviceDetail, DeviceRef, PointType, UnitFacts, UnitRef
from services.export.domain.connection import Connection, ConnectionId, ConnectionOptions, Phase, Unit, UnitKey
from services.export.domain.delivery import Begun, Delivery, Step, Target
from services.export.domain.latest import ActiveAlarm, AlarmState, Sample
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.pushing import Held

Conn = ReadConn | WriteConn

# ---- connections ------------------------------------------------------------------------------------

_CONNECTION = "select id, name, dialect, url, options, enabled, removed_at from sc_connections"


async def fetch_connections(conn: Conn) -> list[Connection]:
    """Return every connection; a removed one as long as units of it still take their leave."""
    rows = await conn.fetch(
        _CONNECTION
        + """
         where removed_at is null
            or exists (select from units u where u.connection_id = sc_connections.id and u.phase = 'leaving')
         order by id
        """
    )
    return [_connection(row) for row in rows]


async def fetch_connection(conn: Conn, connection_id: str) -> Connection | None:
    """Return one connection that is not removed."""
    row = await conn.fetchrow(_CONNECTION + " where id = $1 and removed_at is null", connection_id)
    return None if row is None else _connection(row)


async def put_connection(
    conn: WriteConn, connection: Connection, *, credentials: bytes | None, keep_credentials: bool, now: datetime
) -> None:
    """Create or change a connection; one that was removed comes back."""
    await conn.execute(
        """
        insert into sc_connections (id, name, dialect, url, options, credentials, enabled, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $9, $9)
        on conflict (id) do update
           set name = excluded.name, dialect = excluded.dialect, url = excluded.url, options = excluded.options,
               credentials = case when $8 then sc_connections.credentials else excluded.credentials end,
               enabled = excluded.enabled, updated_at = excluded.updated_at, removed_at = null
        """,
        connection.id,
        connection.name,
        connection.dialect,
        connection.url,
        {**asdict(connection.options), "peers": list(connection.options.peers)},
        credentials,
        connection.enabled,
        keep_credentials,
        now,
    )


async def remove_connection(conn: WriteConn, connection_id: str, now: datetime) -> bool:
    """Mark a connection as removed; return whether there was one."""
    done = await conn.execute(
        "update sc_connections set removed_at = $2, updated_at = $2 where id = $1 and removed_at is null",
        connection_id,
        now,
    )
    return bool(done == "UPDATE 1")


async def fetch_credentials(conn: Conn, connection_id: str) -> bytes | None:
    """Return a connection's credentials as they are stored: encrypted."""
    sealed: bytes | None = await conn.fetchval("select credentials from sc_connections where id = $1", connection_id)
    return sealed


async def save_credentials(conn: WriteConn, connection_id: str, credentials: bytes, now: datetime) -> None:
    """Replace a connection's credentials, which are encrypted."""
    await conn.execute(
        "update sc_connections set credentials = $2, updated_at = $3 where id = $1", connection_id, credentials, now
    )


def _connection(row: Mapping[str, Any]) -> Connection:
    options = dict(row["options"])
    return Connection(
        id=ConnectionId(row["id"]),
        name=row["name"],
        dialect=row["dialect"],
        url=row["url"],
        options=ConnectionOptions(**{**options, "peers": tuple(options.get("peers", ()))}),
        enabled=row["enabled"],
        removed=row["removed_at"] is not None,
    )


# ---- units ------------------------------------------------------------------------------------------

_UNIT_COLUMNS = """
    key, connection_id, unit_id, unit_code, name, sites, facts, phase, assigned_address, access_right, last_login_at,
    login_not_before, login_failures, logged_in_at, heard_at, send_failures, error, clock_skew_s, finding, heartbeat_s
"""
_UNIT = f"select {_UNIT_COLUMNS} from units"  # noqa: S608 - our own words


async def fetch_units(conn: Conn, connection_id: str) -> list[Unit]:
    """Return a connection's units that have not left."""
    rows = await conn.fetch(_UNIT + " where connection_id = $1 and phase not in ('leaving', 'left') order by unit_id",
                            connection_id)  # fmt: skip
    return [_unit(row) for row in rows]


async def fetch_unit(conn: Conn, connection_id: str, unit_id: str) -> Unit | None:
    """Return one unit that has not left."""
    row = await conn.fetchrow(
        _UNIT + " where connection_id = $1 and unit_id = $2 and phase not in ('leaving', 'left')",
        connection_id,
        unit_id,
    )
    return None if row is None else _unit(row)


async def fetch_unit_by_key(conn: Conn, key: UnitKey) -> Unit | None:
    """Return one unit, whatever its phase."""
    row = await conn.fetchrow(_UNIT + " where key = $1", key)
    return None if row is None else _unit(row)


async def lock_unit(conn: WriteConn, key: UnitKey) -> Unit | None:
    """Return one unit and hold its row until the transaction ends."""
    row = await conn.fetchrow(_UNIT + " where key = $1 for update", key)
    return None if row is None else _unit(row)


async def lock_units(conn: WriteConn, keys: Collection[UnitKey]) -> dict[UnitKey, Unit]:
    """Return units and hold their rows until the transaction ends; taken in one order, as everybody does."""
    rows = await conn.fetch(_UNIT + " where key = any($1) order by key for update", list(keys))
    return {UnitKey(row["key"]): _unit(row) for row in rows}


async def units_named(conn: Conn, unit_id: str) -> list[Unit]:
    """Return the units of that id, of whatever connection."""
    rows = await conn.fetch(_UNIT + " where unit_id = $1 and phase not in ('leaving', 'left') order by key", unit_id)
    return [_unit(row) for row in rows]


async def put_unit(
    conn: WriteConn, connection_id: str, ref: UnitRef, *, name: str, sites: Sequence[str], facts: UnitFacts
) -> UnitKey:
    """Create or change a unit; one that had left comes back and keeps the time of its last LOGIN."""
    key = await conn.fetchval(
        """
        insert into units (connection_id, unit_id, unit_code, name, sites, facts)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (connection_id, unit_id) do update
           set unit_code = excluded.unit_code, name = excluded.name, sites = excluded.sites, facts = excluded.facts,
               phase = case when units.phase in ('leaving', 'left') then 'new' else units.phase end
        returning key
        """,
        connection_id,
        ref.unit_id,
        ref.unit_code,
        name,
        list(sites),
        asdict(facts),
    )
    return UnitKey(key)


async def leave_units(conn: WriteConn, connection_id: str, unit_id: str | None = None) -> list[UnitKey]:
    """Take leave of one or all units of a connection; those that were never let in are gone at once."""
    rows = await conn.fetch(
        """
        with going as (
            select key from units
             where connection_id = $1 and ($2::text is null or unit_id = $2) and phase not in ('leaving', 'left')
             order by key
               for update
        )
        update units
           set phase = case when phase in ('registered', 'lost') then 'leaving' else 'left' end,
               login_failures = 0, login_not_before = null
          from going where units.key = going.key
        returning units.key
        """,
        connection_id,
        unit_id,
    )
    return [UnitKey(row["key"]) for row in rows]


async def save_session(conn: WriteConn, unit: Unit) -> None:
    """Write what is known of a unit's session."""
    await save_sessions(conn, [unit])


async def save_sessions(conn: WriteConn, units: Collection[Unit], *, released_by: str | None = None) -> None:
    """Write what is known of units' sessions, whose rows are locked.

    Args:
        conn: Where.
        units: As they are now.
        released_by: Who gives their queues free, unless these are another's by now.
    """
    await conn.execute(
        """
        update units u
           set phase = n.phase, assigned_address = n.assigned_address, access_right = n.access_right,
               last_login_at = n.last_login_at, login_not_before = n.login_not_before,
               login_failures = n.login_failures, logged_in_at = n.logged_in_at, heard_at = n.heard_at,
               send_failures = n.send_failures, error = n.error, clock_skew_s = n.clock_skew_s, finding = n.finding,
               sending_by = nullif(u.sending_by, $14),
               sending_until = case when u.sending_by = $14 then null else u.sending_until end
          from unnest($1::bigint[], $2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::timestamptz[],
                      $7::integer[], $8::timestamptz[], $9::timestamptz[], $10::integer[], $11::text[],
                      $12::double precision[], $13::text[])
            as n (key, phase, assigned_address, access_right, last_login_at, login_not_before, login_failures,
                  logged_in_at, heard_at, send_failures, error, clock_skew_s, finding)
         where u.key = n.key
        """,
        [unit.key for unit in units],
        [unit.phase for unit in units],
        [unit.assigned_address for unit in units],
        [unit.right for unit in units],
        [unit.last_login_at for unit in units],
        [unit.login_not_before for unit in units],
        [unit.login_failures for unit in units],
        [unit.logged_in_at for unit in units],
        [unit.heard_at for unit in units],
        [unit.send_failures for unit in units],
        [unit.error for unit in units],
        [unit.clock_skew_s for unit in units],
        [unit.finding for unit in units],
        released_by,
    )


async def note_heard(conn: WriteConn, keys: Collection[UnitKey], now: datetime, *, not_since: datetime) -> None:
    """Note that the centre asked these units something, unless that was noted after ``not_since``."""
    await conn.execute(
        """
        with silent as (
            select key from units where key = any($1) and (heard_at is null or heard_at < $3) order by key for update
        )
        update units set heard_at = $2 from silent where units.key = silent.key
        """,
        list(keys),
        now,
        not_since,
    )


async def save_heartbeats(conn: WriteConn, keys: Collection[UnitKey], interval_s: float) -> None:
    """Write how often the centre says that it asks for units' status."""
    await conn.execute("update units set heartbeat_s = $2 where key = any($1)", list(keys), interval_s)


async def units_in(conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int) -> list[Unit]:
    """Return the units of these slots that the centre has let in."""
    rows = await conn.fetch(
        _UNIT + " where connection_id = $1 and key % $3 = any($2) and phase = 'registered' order by key",
        connection_id,
        list(slots),
        slot_count,
    )
    return [_unit(row) for row in rows]


async def values_told_at(conn: Conn, key: UnitKey) -> datetime | None:
    """Return up to when a unit's centre has been told its values; None when it was told none yet."""
    found: datetime | None = await conn.fetchval("select values_told_at from units where key = $1", key)
    return found


async def note_values_told(conn: WriteConn, key: UnitKey, at: datetime) -> None:
    """Write up to when a unit's centre has been told its values."""
    await conn.execute("update units set values_told_at = $2 where key = $1", key, at)


async def note_skew(conn: WriteConn, keys: Collection[UnitKey], skew_s: float) -> None:
    """Note how much a centre's clock differs from ours."""
    await conn.execute(
        """
        with told as (select key from units where key = any($1) order by key for update)
        update units set clock_skew_s = $2 from told where units.key = told.key
        """,
        list(keys),
        skew_s,
    )


async def units_to_log_in(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime,
    interval_s: float, limit: int,
) -> list[Unit]:  # fmt: skip
    """Return units that wait for a LOGIN and may have it now, the longest waiting first.

    A unit without a mapping waits for one, since a LOGIN carries the list of devices; when that list changes
    afterwards, another LOGIN tells the centre.
    """
    rows = await conn.fetch(
        _UNIT
        + """
         where connection_id = $1 and key % $3 = any($2)
           and (phase in ('new', 'refused', 'lost') or phase = 'registered' and devices_changed)
           and exists (select from mapping_devices d where d.unit_key = units.key)
           and (last_login_at is null or last_login_at <= $4::timestamptz - make_interval(secs => $5)
                or last_login_at > $4::timestamptz + make_interval(secs => $5))
           and (login_not_before is null or login_not_before <= $4)
         order by last_login_at nulls first, key
         limit $6
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        interval_s,
        limit,
    )
    return [_unit(row) for row in rows]


async def units_to_log_out(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime
) -> list[Unit]:
    """Return units whose LOGOUT is due."""
    rows = await conn.fetch(
        _UNIT
        + """
         where connection_id = $1 and key % $3 = any($2) and phase = 'leaving'
           and (login_not_before is null or login_not_before <= $4)
         order by key
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
    )
    return [_unit(row) for row in rows]


async def lock_silent_units(
    conn: WriteConn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime, silence_s: float,
    heartbeats: float,
) -> list[Unit]:  # fmt: skip
    """Return registered units whose centre has not been heard of for too long; holds their rows.

    Where a centre has said how often it asks, as many of its questions must have failed to come at least.
    """
    rows = await conn.fetch(
        _UNIT
        + """
         where connection_id = $1 and key % $3 = any($2) and phase = 'registered'
           and heard_at < $4::timestamptz
                          - make_interval(secs => greatest($5::float8, $6::float8 * coalesce(heartbeat_s, 0)))
         order by key
           for update skip locked
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        silence_s,
        heartbeats,
    )
    return [_unit(row) for row in rows]


async def claim_login(conn: WriteConn, key: UnitKey, *, now: datetime, interval_s: float) -> bool:
    """Write the time of a LOGIN before it is sent; return whether it may be sent.

    A last LOGIN further in the future than the interval is nonsense (the wall clock was set back); one that is less
    far may be another replica's clock, and is believed.
    """
    done = await conn.execute(
        """
        update units set last_login_at = $2, devices_changed = false
         where key = $1 and (phase in ('new', 'refused', 'lost') or phase = 'registered' and devices_changed)
           and (last_login_at is null or last_login_at <= $2::timestamptz - make_interval(secs => $3)
                or last_login_at > $2::timestamptz + make_interval(secs => $3))
        """,
        key,
        now,
        interval_s,
    )
    return bool(done == "UPDATE 1")


async def claim_sending(
    conn: WriteConn, keys: Collection[UnitKey], owner: str, *, hold_s: float
) -> dict[UnitKey, Unit]:
    """Reserve units' queues for one call of ``owner`` each; return the units of which it may be made.

    That is those that have been let in once. Whoever believes in a lease that has lapsed is held off by this as long as
    a call of the new holder may last, and the other way round. Like leases it counts in the database's time, and an
    owner's own claim is its former self's.
    """
    rows = await conn.fetch(
        f"""
        with free as (
            select key as free_key from units
             where key = any($1) and (sending_until is null or sending_by = $2 or sending_until <= clock_timestamp())
               and phase in ('registered', 'lost') and logged_in_at is not null
             order by key
               for update
        )
        update units set sending_by = $2, sending_until = clock_timestamp() + make_interval(secs => $3)
          from free where key = free_key
        returning {_UNIT_COLUMNS}
        """,  # noqa: S608 - our own words
        list(keys),
        owner,
        hold_s,
    )
    return {UnitKey(row["key"]): _unit(row) for row in rows}


async def release_sending(conn: WriteConn, keys: Collection[UnitKey], owner: str) -> None:
    """Give units' queues free again, unless they are another's by now; their rows are locked before, in one order."""
    await conn.execute(
        "update units set sending_by = null, sending_until = null where key = any($1) and sending_by = $2",
        list(keys),
        owner,
    )


async def assigned_addresses(conn: Conn) -> list[str]:
    """Return every address that a centre has assigned to a unit."""
    rows = await conn.fetch(
        "select distinct assigned_address from units where assigned_address is not null and phase <> 'left'"
    )
    return [row["assigned_address"] for row in rows]


async def count_units(conn: Conn) -> dict[tuple[str, str], int]:
    """Return how many units of each connection are in each phase."""
    rows = await conn.fetch("select connection_id, phase, count(*) as n from units group by connection_id, phase")
    return {(row["connection_id"], row["phase"]): row["n"] for row in rows}


def _unit(row: Mapping[str, Any]) -> Unit:
    return Unit(
        key=UnitKey(row["key"]),
        connection_id=ConnectionId(row["connection_id"]),
        ref=UnitRef(row["unit_id"], row["unit_code"]),
        name=row["name"],
        sites=tuple(row["sites"]),
        facts=UnitFacts(**row["facts"]),
        phase=Phase(row["phase"]),
        assigned_address=row["assigned_address"],
        right=row["access_right"],
        last_login_at=row["last_login_at"],
        login_not_before=row["login_not_before"],
        login_failures=row["login_failures"],
        logged_in_at=row["logged_in_at"],
        heard_at=row["heard_at"],
        send_failures=row["send_failures"],
        error=row["error"],
        clock_skew_s=row["clock_skew_s"],
        finding=row["finding"],
        heartbeat_s=row["heartbeat_s"],
    )


# ---- mappings ---------------------------------------------------------------------------------------


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
        found.setdefault((row["device_id"], row["source"]), []).append(
            Target(
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
        )
    return found


# ---- alarms -----------------------------------------------------------------------------------------


async def save_alarm_states(conn: WriteConn, states: Collection[AlarmState]) -> None:
    """Write the last known step of alarms, one each; an older step than the one known changes nothing."""
    await conn.execute(
        """
        insert into alarm_states
               (alarm_id, site_id, device_id, signal, level, sequence, began_at, ended_at, historical)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[],
                             $7::timestamptz[], $8::timestamptz[], $9::boolean[])
        on conflict (alarm_id) do update
           set level = excluded.level, sequence = excluded.sequence, ended_at = excluded.ended_at
         where alarm_states.sequence < excluded.sequence
        """,
        [state.alarm_id for state in states],
        [state.site_id for state in states],
        [state.device_id for state in states],
        [state.signal for state in states],
        [state.level for state in states],
        [state.sequence for state in states],
        [state.began_at for state in states],
        [state.ended_at for state in states],
        [state.historical for state in states],
    )


async def active_alarms(conn: Conn, devices: Collection[str]) -> list[ActiveAlarm]:
    """Return the alarms that hold at these devices."""
    rows = await conn.fetch(
        """
        select device_id, signal, level from alarm_states
         where device_id = any($1) and ended_at is null and not historical
        """,
        list(devices),
    )
    return [ActiveAlarm(row["device_id"], row["signal"], row["level"]) for row in rows]


async def alarms_within(conn: Conn, devices: Collection[str], start: datetime, end: datetime) -> list[Held]:
    """Return the alarms that held at these devices at some time within a span, in the order in which they began."""
    rows = await conn.fetch(
        """
        select device_id, signal, level, began_at, ended_at from alarm_states
         where device_id = any($1) and not historical and began_at <= $3 and (ended_at is null or ended_at > $2)
         order by began_at
        """,
        list(devices),
        start,
        end,
    )
    return [Held(row["device_id"], row["signal"], row["level"], row["began_at"], row["ended_at"]) for row in rows]


# ---- deliveries -------------------------------------------------------------------------------------


async def plan_by_index(conn: WriteConn) -> None:
    """Have the statements of this transaction planned for few rows of large tables.

    A plan is kept with its connection. One that was made while there were hardly any deliveries reads all of them for
    each unit, and goes on to do so when there are thousands.
    """
    await conn.execute("set local enable_seqscan = off")


_DELIVERY = """
    select id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
           sc_device_code, point_id, level, at, began_at, text, detail, value, traceparent, state, attempts, alone,
           queued_at, next_attempt_at, finished_at, error, network_alarm
      from deliveries
"""

PointKey = tuple[UnitKey, str, str, str]
"""Unit, alarm, device of the centre, point."""


async def fetch_begun(conn: Conn, alarms: Collection[str]) -> dict[PointKey, tuple[Begun, Target]]:
    """Return what was queued for these alarms, and whom it was queued for (mapped still, or no longer)."""
    rows = await conn.fetch(
        """
        select b.unit_key, b.alarm_id, b.sc_device_id, b.sc_device_code, b.point_id, b.serial, b.level,
               b.state = 'given_up' as given_up, b.connection_id, c.dialect, p.name, d.name as device_name,
               b.network_alarm,
               exists (select from deliveries e
                        where e.unit_key = b.unit_key and e.alarm_id = b.alarm_id and e.sc_device_id = b.sc_device_id
                          and e.point_id = b.point_id and e.step = 'end') as ended
          from unnest($1::text[]) as wanted (alarm)
         cross join lateral (select * from deliveries where alarm_id = wanted.alarm offset 0) as b
          join units u on u.key = b.unit_key
          join sc_connections c on c.id = b.connection_id
          left join mapping_points p
            on p.unit_key = b.unit_key and p.sc_device_id = b.sc_device_id and p.point_id = b.point_id
          left join mapping_devices d on d.unit_key = b.unit_key and d.sc_device_id = b.sc_device_id
         where b.step = 'begin' and u.phase not in ('leaving', 'left')
        """,
        list(alarms),
    )
    return {
        (UnitKey(row["unit_key"]), row["alarm_id"], row["sc_device_id"], row["point_id"]): (
            Begun(row["serial"], row["level"], row["given_up"], row["ended"]),
            Target(
                unit_key=UnitKey(row["unit_key"]),
                connection_id=ConnectionId(row["connection_id"]),
                dialect=row["dialect"],
                sc_device=DeviceRef(row["sc_device_id"], row["sc_device_code"]),
                point_id=row["point_id"],
                name=row["name"],
                device_name=row["device_name"] or "",
                level=row["level"],
                network_alarm=row["network_alarm"],
            ),
        )
        for row in rows
    }


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


async def insert_deliveries(conn: WriteConn, deliveries: Sequence[Delivery]) -> None:
    """Queue deliveries, in this order; one that is queued already is left as it is."""
    if not deliveries:
        return
    await conn.execute(
        """
        insert into deliveries
               (id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
                sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
                next_attempt_at, finished_at, detail, network_alarm)
        select id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
               sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
               next_attempt_at, finished_at, detail, network_alarm
          from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                      $9::bigint[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::timestamptz[],
                      $15::timestamptz[], $16::text[], $17::double precision[], $18::text[], $19::text[],
                      $20::timestamptz[], $21::timestamptz[], $22::timestamptz[], $23::text[],
                      $24::text[]) with ordinality
            as n (id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
                  sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
                  next_attempt_at, finished_at, detail, network_alarm, place)
         order by place
        on conflict on constraint deliveries_once do nothing
        """,
        *map(
            list,
            zip(
                *(
                    (
                        d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step,
                        d.serial, d.sc_device.device_id, d.sc_device.device_code, d.point_id, d.level, d.at, d.began_at,
                        d.text, d.value, d.traceparent, d.state, d.queued_at, d.next_attempt_at, d.finished_at,
                        d.detail, d.network_alarm,
                    )
                    for d in deliveries
                ),
                strict=True,
            ),
        ),
    )  # fmt: skip


async def active_reports(conn: Conn, key: UnitKey) -> list[Delivery]:
    """Return the BEGINs of a unit's alarms that have no END yet, oldest first."""
    rows = await conn.fetch(
        _DELIVERY
        + """
         where unit_key = $1 and step = 'begin' and state <> 'given_up'
           and not exists (select from deliveries e
                            where e.unit_key = deliveries.unit_key and e.alarm_id = deliveries.alarm_id
                              and e.sc_device_id = deliveries.sc_device_id and e.point_id = deliveries.point_id
                              and e.step = 'end')
         order by seq
        """,
        key,
    )
    return [_delivery(row) for row in rows]


async def units_with_due_alarms(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime,
    besides: Collection[UnitKey], limit: int,
) -> list[UnitKey]:  # fmt: skip
    """Return units that have been let in once and have something due, those that have waited longest first.

    All that is open is looked through, so it is not to be asked with every alarm.

    Args:
        conn: Where.
        connection_id: Of which connection.
        slots: Units are spread over slots by their key; those of these.
        slot_count: How many slots there are.
        now: What is due by then.
        besides: Units that are left out.
        limit: At most so many.
    """
    rows = await conn.fetch(
        """
        with due as (
            select unit_key, min(seq) as first
              from deliveries
             where connection_id = $1 and state in ('queued', 'retrying', 'refused')
               and (next_attempt_at is null or next_attempt_at <= $4)
             group by unit_key
        )
        select u.key
          from units u join due on due.unit_key = u.key
         where u.key % $3 = any($2) and u.phase in ('registered', 'lost') and u.logged_in_at is not null
           and u.key <> all($5)
         order by due.first
         limit $6
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        list(besides),
        limit,
    )
    return [UnitKey(row["key"]) for row in rows]


async def units_with_more(conn: Conn, keys: Collection[UnitKey], now: datetime) -> list[UnitKey]:
    """Return those of the units in whose queues something is due, be it behind what is not."""
    rows = await conn.fetch(
        """
        select key from unnest($1::bigint[]) as wanted (key)
         where exists (select from deliveries
                        where unit_key = wanted.key and state in ('queued', 'retrying', 'refused')
                          and (next_attempt_at is null or next_attempt_at <= $2))
        """,
        list(keys),
        now,
    )
    return [UnitKey(row["key"]) for row in rows]


async def due_heads(
    conn: Conn, keys: Collection[UnitKey], *, now: datetime, limit: int
) -> dict[UnitKey, list[Delivery]]:
    """Return, by unit, the first open delivery of each point, those that are due, oldest first.

    Args:
        conn: Where.
        keys: Of which units.
        now: What is due by then.
        limit: At most so many of a unit.
    """
    rows = await conn.fetch(
        """
        select heads.*
          from unnest($1::bigint[]) as wanted (key)
         cross join lateral (
            select first.*
              from (select distinct on (sc_device_id, point_id)
                           id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial,
                           sc_device_id, sc_device_code, point_id, level, at, began_at, text, detail, value,
                           traceparent, state, attempts, alone, queued_at, next_attempt_at, finished_at, error,
                           network_alarm, seq
                      from deliveries
                     where unit_key = wanted.key and state in ('queued', 'retrying', 'refused')
                     order by sc_device_id, point_id, seq) as first
             where next_attempt_at is null or next_attempt_at <= $2
             order by seq
             limit $3
         ) as heads
         order by seq
        """,
        list(keys),
        now,
        limit,
    )
    found: dict[UnitKey, list[Delivery]] = {}
    for row in rows:
        found.setdefault(UnitKey(row["unit_key"]), []).append(_delivery(row))
    return found


async def save_attempts(conn: WriteConn, deliveries: Collection[Delivery]) -> set[str]:
    """Write what became of deliveries that are still open; return the ids of these."""
    rows = await conn.fetch(
        """
        with still as (
            select id as still_id from deliveries
             where id = any($1) and state in ('queued', 'retrying', 'refused')
             order by seq
               for update
        )
        update deliveries d
           set state = n.state, attempts = n.attempts, alone = n.alone, next_attempt_at = n.next_attempt_at,
               finished_at = n.finished_at, error = n.error
          from still
          join unnest($1::text[], $2::text[], $3::integer[], $4::boolean[], $5::timestamptz[], $6::timestamptz[],
                      $7::text[]) as n (id, state, attempts, alone, next_attempt_at, finished_at, error)
            on n.id = still_id
         where d.id = still_id
        returning d.id
        """,
        [d.id for d in deliveries],
        [d.state for d in deliveries],
        [d.attempts for d in deliveries],
        [d.alone for d in deliveries],
        [d.next_attempt_at for d in deliveries],
        [d.finished_at for d in deliveries],
        [d.error for d in deliveries],
    )
    return {row["id"] for row in rows}


async def hurry(conn: WriteConn, key: UnitKey, now: datetime) -> None:
    """Make everything that waits at a unit due now: it has just been let in."""
    await conn.execute(
        """
        update deliveries set next_attempt_at = $2
         where unit_key = $1 and state in ('queued', 'retrying', 'refused') and next_attempt_at > $2
        """,
        key,
        now,
    )


async def lock_open_of_units(conn: WriteConn, keys: Collection[UnitKey]) -> list[Delivery]:
    """Return everything open of these units, and hold the rows until the transaction ends."""
    rows = await conn.fetch(
        _DELIVERY + " where unit_key = any($1) and state in ('queued', 'retrying', 'refused') order by seq for update",
        list(keys),
    )
    return [_delivery(row) for row in rows]


async def lock_with_end(conn: WriteConn, delivery_id: str) -> list[Delivery]:
    """Return a delivery and, when it is a BEGIN, its END if that is queued; holds the rows."""
    rows = await conn.fetch(
        """
        select d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step, d.serial,
               d.sc_device_id, d.sc_device_code, d.point_id, d.level, d.at, d.began_at, d.text, d.detail, d.value,
               d.traceparent, d.state, d.attempts, d.alone, d.queued_at, d.next_attempt_at, d.finished_at, d.error,
               d.network_alarm
          from deliveries d join deliveries named
            on d.unit_key = named.unit_key and d.alarm_id = named.alarm_id and d.sc_device_id = named.sc_device_id
           and d.point_id = named.point_id
         where named.id = $1 and (d.id = named.id or named.step = 'begin')
         order by d.seq
           for update of d
        """,
        delivery_id,
    )
    return [_delivery(row) for row in rows]


async def list_deliveries(
    conn: Conn, *, connection_id: str | None, unit_id: str | None, site_id: str | None, state: str | None,
    alarm_id: str | None, sites: Sequence[str] | None, before: tuple[datetime, str] | None, limit: int,
) -> list[tuple[Delivery, str]]:  # fmt: skip
    """Return deliveries with their unit's id, newest first, after the cursor."""
    rows = await conn.fetch(
        """
        select d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step, d.serial,
               d.sc_device_id, d.sc_device_code, d.point_id, d.level, d.at, d.began_at, d.text, d.detail, d.value,
               d.traceparent, d.state, d.attempts, d.alone, d.queued_at, d.next_attempt_at, d.finished_at,
               d.error, d.network_alarm, u.unit_id
          from deliveries d join units u on u.key = d.unit_key
         where ($1::text is null or d.connection_id = $1)
           and ($2::text is null or u.unit_id = $2)
           and ($3::text is null or d.state = $3)
           and ($4::text is null or d.alarm_id = $4)
           and ($5::text[] is null or d.site_id = any($5))
           and ($6::timestamptz is null or (d.queued_at, d.id) < ($6, $7))
           and ($9::text is null or d.site_id = $9)
         order by d.queued_at desc, d.id desc
         limit $8
        """,
        connection_id,
        unit_id,
        state,
        alarm_id,
        None if sites is None else list(sites),
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
        site_id,
    )
    return [(_delivery(row), row["unit_id"]) for row in rows]


async def waiting(conn: Conn) -> dict[str, tuple[dict[str, int], datetime]]:
    """Return per connection how many deliveries wait in which state, and since when the oldest does."""
    rows = await conn.fetch(
        """
        select connection_id, state, count(*) as n, min(queued_at) as oldest
          from deliveries
         where state in ('queued', 'retrying', 'refused')
         group by connection_id, state
        """
    )
    found: dict[str, tuple[dict[str, int], datetime]] = {}
    for row in rows:
        counts, oldest = found.get(row["connection_id"], ({}, row["oldest"]))
        counts[row["state"]] = row["n"]
        found[row["connection_id"]] = (counts, min(oldest, row["oldest"]))
    return found


async def prune(conn: WriteConn, *, deliveries_before: datetime, samples_before: datetime, states_before: datetime,
                limit: int) -> int:  # fmt: skip
    """Delete what has been kept long enough, at most ``limit`` rows of each kind; return how many went.

    A BEGIN stays as long as its END is not finished: the END takes the serial number from it.
    """
    gone = 0
    for statement, before in (
        (
            """
            delete from deliveries where id in (
                select d.id from deliveries d
                 where d.finished_at < $1
                   and (d.step = 'end' or exists (
                        select from deliveries e
                         where e.unit_key = d.unit_key and e.alarm_id = d.alarm_id and e.sc_device_id = d.sc_device_id
                           and e.point_id = d.point_id and e.step = 'end' and e.finished_at < $1)
                        or exists (select from units u where u.key = d.unit_key and u.phase = 'left'))
                 order by d.finished_at, d.step limit $2)
            """,
            deliveries_before,
        ),
        (
            "delete from hourly_samples where ctid in (select ctid from hourly_samples where hour < $1 limit $2)",
            samples_before,
        ),
        (
            "delete from alarm_states where alarm_id in "
            "(select alarm_id from alarm_states where ended_at < $1 limit $2)",
            states_before,
        ),
        ("delete from sc_orders where id in (select id from sc_orders where received_at < $1 limit $2)",
         deliveries_before),
    ):  # fmt: skip
        done: str = await conn.execute(statement, before, limit)
        gone += int(done.split()[-1])
    return gone


def _delivery(row: Mapping[str, Any]) -> Delivery:
    return Delivery(
        id=row["id"],
        connection_id=ConnectionId(row["connection_id"]),
        unit_key=UnitKey(row["unit_key"]),
        alarm_id=row["alarm_id"],
        event_id=row["event_id"],
        site_id=row["site_id"],
        device_id=row["device_id"],
        step=Step(row["step"]),
        serial=row["serial"],
        sc_device=DeviceRef(row["sc_device_id"], row["sc_device_code"]),
        point_id=row["point_id"],
        level=row["level"],
        at=row["at"],
        began_at=row["began_at"],
        text=row["text"],
        detail=row["detail"],
        network_alarm=row["network_alarm"],
        value=row["value"],
        traceparent=row["traceparent"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        alone=row["alone"],
        queued_at=row["queued_at"],
        next_attempt_at=row["next_attempt_at"],
        finished_at=row["finished_at"],
        error=row["error"],
    )


# ---- hourly samples ---------------------------------------------------------------------------------


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
