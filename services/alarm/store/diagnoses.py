"""SQL of fault localisation: devices as told, what is to be looked at, and diagnoses."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from libs.common.contracts.base import JsonObject
from libs.common.contracts.device import DeviceStatus
from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.diagnosis.grouping import Member


@dataclass(frozen=True, slots=True)
class Watched:
    """A device as ``device.status`` last told of it."""

    device_id: str
    site_id: str
    connectivity: str
    since: datetime | None
    last_report_at: datetime | None
    line_id: str | None
    reason: str | None
    rsrp_dbm: float | None
    sinr_db: float | None
    coverage_level: int | None
    radio_at: datetime | None
    battery_percent: float | None
    battery_v: float | None
    battery_at: datetime | None
    iccid: str | None
    imei: str | None
    told_at: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """What another topic told of a device: a fault event, the fate of its last command."""

    device_id: str
    name: str
    value: bool | float | str
    at: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device that is to be looked at."""

    device_id: str
    asked: int
    """Rises with every request; a look that began before the last one does not settle it."""
    by_hand: str | None
    """Who asked, when a person did."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the service itself knows of a device's surroundings."""

    planned: str | None
    window: str | None
    mains_alarm: datetime | None
    line_down: datetime | None
    auth_refused: datetime | None
    data_gap: datetime | None
    skew_times: int
    skew_at: datetime | None
    shared_card: str | None
    """Another device that reports the same card with another module."""
    neighbours: Sequence[Watched]
    """The other devices of the site, as last told."""


@dataclass(frozen=True, slots=True)
class DiagnosisRow:
    """A diagnosis as it stands."""

    diagnosis_id: str
    device_id: str
    site_id: str
    cause: str
    common_cause: str
    confidence: str
    evidence: Sequence[JsonObject]
    unreachable: Sequence[JsonObject]
    also_possible: Sequence[str]
    card: Mapping[str, Any]
    began_at: datetime
    changed_at: datetime
    looked_at: datetime
    ended_at: datetime | None
    sequence: int
    alarm_id: str | None
    group_id: str | None
    told: bool
    """Whether others were told of it; what joins a group that is known already is not."""
    asked_by: str | None


@dataclass(frozen=True, slots=True)
class DiagnosisFilter:
    """Which diagnoses are asked for; None does not limit."""

    open: bool | None = None
    sites: Sequence[str] | None = None
    device_id: str | None = None
    causes: Sequence[str] | None = None
    group_id: str | None = None
    began_from: datetime | None = None
    began_before: datetime | None = None


# The lists of columns are ours; nothing from outside gets into a statement.
_WATCHED = ", ".join(Watched.__dataclass_fields__)
_ROW = ", ".join(DiagnosisRow.__dataclass_fields__)


# Devices as told


async def put_statuses(conn: WriteConn, statuses: Sequence[DeviceStatus], told_at: Sequence[datetime]) -> None:
    """Write the latest status of devices, one per device; an older one than known changes nothing."""
    rows = [
        (
            one.device_id,
            one.site_id,
            one.connectivity.value,
            one.connectivity_since,
            one.last_report_at,
            one.line_id,
            one.reason,
            one.signal.rsrp_dbm,
            one.signal.sinr_db,
            one.signal.coverage_level,
            one.signal.at,
            one.battery.level_percent,
            one.battery.voltage_v,
            one.battery.at,
            one.sim.iccid,
            one.sim.imei,
            at,
        )
        for one, at in zip(statuses, told_at, strict=True)
    ]
    await conn.execute(
        f"""
        insert into watched_devices as w ({_WATCHED})
        select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
                             $7::text[], $8::double precision[], $9::double precision[], $10::integer[],
                             $11::timestamptz[], $12::double precision[], $13::double precision[], $14::timestamptz[],
                             $15::text[], $16::text[], $17::timestamptz[])
            on conflict (device_id) do update set
               site_id = excluded.site_id, connectivity = excluded.connectivity, since = excluded.since,
               last_report_at = excluded.last_report_at, line_id = excluded.line_id, reason = excluded.reason,
               rsrp_dbm = excluded.rsrp_dbm, sinr_db = excluded.sinr_db, coverage_level = excluded.coverage_level,
               radio_at = excluded.radio_at, battery_percent = excluded.battery_percent,
               battery_v = excluded.battery_v, battery_at = excluded.battery_at, iccid = excluded.iccid,
               imei = excluded.imei, told_at = excluded.told_at
         where excluded.told_at >= w.told_at
        """,  # noqa: S608
        *(list(column) for column in zip(*rows, strict=True)),
    )


async def fetch_watched(conn: ReadConn, device_id: str) -> Watched | None:
    """Return a device as last told, None when nobody told of it."""
    row = await conn.fetchrow(f"select {_WATCHED} from watched_devices where device_id = $1", device_id)  # noqa: S608
    return None if row is None else Watched(**dict(row))


async def put_marks(conn: WriteConn, marks: Sequence[Mark]) -> None:
    """Write what was told of devices, in order; an older one than known changes nothing."""
    for mark in marks:
        await conn.execute(
            """
            insert into device_marks as m (device_id, name, value, at, source) values ($1, $2, $3, $4, $5)
                on conflict (device_id, name) do update set
                   value = excluded.value, at = excluded.at, source = excluded.source
             where excluded.at >= m.at
            """,
            mark.device_id,
            mark.name,
            mark.value,
            mark.at,
            mark.source,
        )


async def delete_marks(conn: WriteConn, marks: Collection[tuple[str, str]]) -> None:
    """Forget what was told of devices, by device and name."""
    await conn.executemany(
        "delete from device_marks where device_id = $1 and name = $2", [list(pair) for pair in sorted(marks)]
    )


async def fetch_marks(conn: ReadConn, device_id: str, *, since: datetime) -> list[Mark]:
    """Return what was told of a device since then."""
    rows = await conn.fetch(
        "select device_id, name, value, at, source from device_marks where device_id = $1 and at >= $2 order by name",
        device_id,
        since,
    )
    return [Mark(**dict(row)) for row in rows]


async def fetch_around(
    conn: ReadConn, device_id: str, site_id: str, *, line_id: str | None, iccid: str | None, now: datetime
) -> Around:
    """Return what alarms, windows, shutdowns and neighbours say of a device's surroundings.

    Args:
        conn: Where to read.
        device_id: The device.
        site_id: Where it is.
        line_id: What it hangs on.
        iccid: The card that it reports.
        now: Our clock.
    """
    planned = await conn.fetchval(
        "select reference from shutdowns where device_id = $1 and (until is null or until > $2)", device_id, now
    )
    window = await conn.fetchval(
        """
        select window_id from maintenance_windows
         where site_id = $1 and (device_ids is null or $2 = any(device_ids))
           and starts_at <= $3 and ends_at > $3 and called_off_at is null
         order by window_id limit 1
        """,
        site_id,
        device_id,
        now,
    )
    mains = await conn.fetchval(
        """
        select min(a.began_at) from alarms a join rules r on r.rule_id = a.rule_id
         where a.site_id = $1 and a.ended_at is null and r.takes = 'supply'
        """,
        site_id,
    )
    found = await conn.fetchrow(
        """
        select min(began_at) filter (where signal = 'wattring.condition.line_down' and subject = $2) as line_down,
               min(began_at) filter (where signal = 'wattring.condition.auth_failed'
                                       and (device_id = $1 or subject in ($1, $2))) as auth_refused,
               min(began_at) filter (where signal = 'wattring.condition.data_gap' and device_id = $1) as data_gap
          from alarms where site_id = $3 and ended_at is null
        """,
        device_id,
        line_id,
        site_id,
    )
    skew = await conn.fetchrow(
        """
        select count(*) as times, max(began_at) as at from alarms
         where device_id = $1 and signal = 'wattring.condition.device_clock_skew' and began_at > $2
        """,
        device_id,
        now - DAY,
    )
    shared = await conn.fetchval(
        """
        select o.device_id from watched_devices o join watched_devices m on m.device_id = $1
         where o.iccid = $2 and o.device_id <> $1 and o.imei <> m.imei order by o.device_id limit 1
        """,
        device_id,
        iccid,
    )
    rows = await conn.fetch(
        f"select {_WATCHED} from watched_devices where site_id = $1 and device_id <> $2 order by device_id limit $3",  # noqa: S608
        site_id,
        device_id,
        MAX_NEIGHBOURS,
    )
    return Around(
        planned=planned,
        window=window,
        mains_alarm=mains,
        line_down=found["line_down"],
        auth_refused=found["auth_refused"],
        data_gap=found["data_gap"],
        skew_times=skew["times"],
        skew_at=skew["at"],
        shared_card=shared,
        neighbours=[Watched(**dict(row)) for row in rows],
    )


DAY = timedelta(days=1)
MAX_NEIGHBOURS = 5_000
"""Devices of a site that are looked at."""


# What is to be looked at


async def want(
    conn: WriteConn, device_ids: Collection[str], *, due_at: datetime, pause: timedelta, by_hand: str | None = None
) -> None:
    """Ask for looks at devices.

    Args:
        conn: The transaction.
        device_ids: The devices.
        due_at: When at the earliest; an earlier wish stands.
        pause: So long after the last look at an open diagnosis, unless a person asks.
        by_hand: Who asks, when a person does.
    """
    await conn.execute(
        """
        insert into diagnosis_wanted as w (device_id, due_at, by_hand)
        select d.device_id,
               case when $4::text is null then greatest($2::timestamptz, o.looked_at + $3::interval) else $2 end, $4
          from unnest($1::text[]) as d (device_id)
          left join diagnoses o on o.device_id = d.device_id and o.ended_at is null
         order by d.device_id
            on conflict (device_id) do update set
               due_at = least(w.due_at, excluded.due_at), asked = w.asked + 1,
               by_hand = coalesce(excluded.by_hand, w.by_hand)
        """,
        sorted(set(device_ids)),
        due_at,
        pause,
        by_hand,
    )


async def want_open(conn: WriteConn, device_ids: Collection[str], *, due_at: datetime) -> None:
    """Ask for looks at those devices that have an open diagnosis or are waiting for a look: they were heard."""
    await conn.execute(
        """
        insert into diagnosis_wanted as w (device_id, due_at)
        select d.device_id, $2::timestamptz from unnest($1::text[]) as d (device_id)
         where exists (select from diagnoses o where o.device_id = d.device_id and o.ended_at is null)
            or exists (select from diagnosis_wanted x where x.device_id = d.device_id)
         order by d.device_id
            on conflict (device_id) do update set due_at = least(w.due_at, excluded.due_at), asked = w.asked + 1
        """,
        sorted(set(device_ids)),
        due_at,
    )


async def fetch_due(conn: ReadConn, now: datetime, limit: int) -> list[Wanted]:
    """Return what is to be looked at now, what people asked for first."""
    rows = await conn.fetch(
        """
        select device_id, asked, by_hand from diagnosis_wanted where due_at <= $1
         order by by_hand is null, due_at, device_id limit $2
        """,
        now,
        limit,
    )
    return [Wanted(**dict(row)) for row in rows]


async def settle(conn: WriteConn, wanted: Wanted, next_at: datetime | None) -> None:
    """Note that a look is done, unless somebody has asked again since it began.

    Args:
        conn: The transaction.
        wanted: What was asked for.
        next_at: When to look again; None: when somebody asks.
    """
    if next_at is None:
        await conn.execute(
            "delete from diagnosis_wanted where device_id = $1 and asked = $2", wanted.device_id, wanted.asked
        )
    else:
        await conn.execute(
            """
            update diagnosis_wanted set due_at = $3, by_hand = null
             where device_id = $1 and asked = $2
            """,
            wanted.device_id,
            wanted.asked,
            next_at,
        )


# Diagnoses


async def lock_device(conn: WriteConn, device_id: str) -> None:
    """Wait until nobody else writes what a look at this device has found; held to the end of the transaction."""
    await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _DEVICE_LOCK, device_id)


async def lock_cause(conn: WriteConn, common_cause: str) -> None:
    """Wait until nobody else begins a diagnosis of this common cause; taken after ``lock_device``."""
    await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _CAUSE_LOCK, common_cause)


_DEVICE_LOCK, _CAUSE_LOCK = 0x64_69_61_67, 0x64_69_61_63


async def fetch_open(conn: WriteConn, device_id: str) -> DiagnosisRow | None:
    """Return the open diagnosis of a device and keep others from changing it in this transaction."""
    row = await conn.fetchrow(
        f"select {_ROW} from diagnoses where device_id = $1 and ended_at is null for update",  # noqa: S608
        device_id,
    )
    return None if row is None else DiagnosisRow(**dict(row))


async def fetch_diagnosis(conn: ReadConn, diagnosis_id: str) -> DiagnosisRow | None:
    """Return a diagnosis, None when there is none."""
    row = await conn.fetchrow(f"select {_ROW} from diagnoses where diagnosis_id = $1", diagnosis_id)  # noqa: S608
    return None if row is None else DiagnosisRow(**dict(row))


async def fetch_diagnoses(
    conn: ReadConn, wanted: DiagnosisFilter, *, after: tuple[datetime, str] | None, limit: int
) -> list[DiagnosisRow]:
    """Return diagnoses, the youngest first.

    Args:
        conn: Where to read.
        wanted: The filter.
        after: Begin and id of the last one of the page before.
        limit: How many at most.
    """
    rows = await conn.fetch(
        f"""
        select {_ROW} from diagnoses
         where ($1::boolean is null or (ended_at is null) = $1)
           and ($2::text[] is null or site_id = any($2))
           and ($3::text is null or device_id = $3)
           and ($4::text[] is null or cause = any($4))
           and ($5::text is null or group_id = $5)
           and ($6::timestamptz is null or began_at >= $6)
           and ($7::timestamptz is null or began_at < $7)
           and ($8::timestamptz is null or (began_at, diagnosis_id) < ($8, $9::text))
         order by began_at desc, diagnosis_id desc
         limit $10
        """,  # noqa: S608
        wanted.open,
        None if wanted.sites is None else list(wanted.sites),
        wanted.device_id,
        None if wanted.causes is None else list(wanted.causes),
        wanted.group_id,
        wanted.began_from,
        wanted.began_before,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [DiagnosisRow(**dict(row)) for row in rows]


async def put_diagnosis(conn: WriteConn, row: DiagnosisRow) -> None:
    """Write a diagnosis, a new one or what it is from now on."""
    await conn.execute(
        f"""
        insert into diagnoses ({_ROW})
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
            on conflict (diagnosis_id) do update set
               cause = excluded.cause, common_cause = excluded.common_cause, confidence = excluded.confidence,
               evidence = excluded.evidence, unreachable = excluded.unreachable,
               also_possible = excluded.also_possible, card = excluded.card, changed_at = excluded.changed_at,
               looked_at = excluded.looked_at, ended_at = excluded.ended_at, sequence = excluded.sequence,
               alarm_id = excluded.alarm_id, group_id = excluded.group_id, told = excluded.told
        """,  # noqa: S608
        row.diagnosis_id,
        row.device_id,
        row.site_id,
        row.cause,
        row.common_cause,
        row.confidence,
        list(row.evidence),
        list(row.unreachable),
        list(row.also_possible),
        dict(row.card),
        row.began_at,
        row.changed_at,
        row.looked_at,
        row.ended_at,
        row.sequence,
        row.alarm_id,
        row.group_id,
        row.told,
        row.asked_by,
    )


async def fetch_members(conn: WriteConn, common_cause: str, *, since: datetime) -> list[Member]:
    """Return the open diagnoses of a common cause that began since then; they are locked, in order of their ids."""
    rows = await conn.fetch(
        """
        select diagnosis_id, began_at, group_id from diagnoses
         where common_cause = $1 and began_at >= $2 and ended_at is null
         order by diagnosis_id for update
        """,
        common_cause,
        since,
    )
    return [Member(**dict(row)) for row in rows]


async def set_group(conn: WriteConn, diagnosis_ids: Collection[str], group_id: str) -> None:
    """Put diagnoses into a group."""
    await conn.execute(
        "update diagnoses set group_id = $2 where diagnosis_id = any($1::text[])", sorted(diagnosis_ids), group_id
    )


async def fetch_group_sizes(conn: ReadConn, group_ids: Collection[str]) -> dict[str, int]:
    """Return how many diagnoses, open or ended, each group has."""
    if not group_ids:
        return {}
    rows = await conn.fetch(
        "select group_id, count(*) as size from diagnoses where group_id = any($1::text[]) group by group_id",
        sorted(group_ids),
    )
    return {row["group_id"]: row["size"] for row in rows}


# Codes of receivers


async def fetch_receiver_codes(conn: ReadConn, receiver: str) -> dict[str, str]:
    """Return the codes that a receiver has in place of ours, by cause."""
    rows = await conn.fetch("select cause, code from receiver_codes where receiver = $1 order by cause", receiver)
    return {row["cause"]: row["code"] for row in rows}


async def put_receiver_codes(
    conn: WriteConn, receiver: str, codes: Mapping[str, str], *, changed_by: str, at: datetime
) -> None:
    """Write the codes of a receiver, in place of what it had."""
    await conn.execute("delete from receiver_codes where receiver = $1", receiver)
    await conn.executemany(
        "insert into receiver_codes (receiver, cause, code, changed_by, changed_at) values ($1, $2, $3, $4, $5)",
        [(receiver, cause, code, changed_by, at) for cause, code in sorted(codes.items())],
    )


# The daily look at cards


async def begin_card_check(conn: WriteConn, day: date, at: datetime) -> bool:
    """Note that the cards of a day are looked at; return False when somebody has done so."""
    found = await conn.fetchval(
        """
        insert into card_checks (day, at, cards, findings) values ($1, $2, 0, '{}')
            on conflict (day) do nothing returning day
        """,
        day,
        at,
    )
    return found is not None


async def end_card_check(conn: WriteConn, day: date, cards: int, findings: JsonObject) -> None:
    """Note what the look at the cards of a day has found."""
    await conn.execute("update card_checks set cards = $2, findings = $3 where day = $1", day, cards, findings)


async def fetch_last_card_findings(conn: ReadConn, before: date) -> JsonObject:
    """Return what the look before that day has found, by card; nothing when there was none."""
    found: JsonObject | None = await conn.fetchval(
        "select findings from card_checks where day < $1 order by day desc limit 1", before
    )
    return found or {}
