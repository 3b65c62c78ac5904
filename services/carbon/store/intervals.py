"""SQL of registers, intervals and findings."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from struct import Struct

import numpy as np
import orjson
import polars as pl
from asyncpg import Record, UniqueViolationError

from libs.common import pgcopy
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from libs.common.pgcopy import copy_in
from services.carbon.domain.batches import CurrentTable, RegisterTable
from services.carbon.domain.booking import (
    INTERVAL_POINT,
    BookedInterval,
    CircuitFinding,
    CircuitSpan,
    Current,
    RegisterReading,
    Registers,
    Span,
    Window,
)
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.pushed import AskedDay, PushedDay
from services.carbon.domain.registers import CONFIRMATIONS, PERIOD_SLACK, FindingKind
from services.carbon.store.binary import Rows, copy_rows, grouped, row_type, seconds

FRAME: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "flag": pl.String,
    "version": pl.Int32,
}
"""Columns of a frame of stored intervals; a null energy is unknown."""
TRACED_MAX = 5_000
"""Registers of one meter in one trace: a day of one every twenty seconds."""

_REGISTER = row_type(("place", ">i4"), ("at", ">i8"), ("shown", ">f8"), ("ratio", ">f8"), ("marks", ">i2"))
_REGISTER_COLUMNS = (
    "device_id", "point", "source_time", "shown", "ratio", "uncertain", "disputed", "received_at", "manual",
)  # fmt: skip
_REGISTER_BEGIN = pgcopy.begin(len(_REGISTER_COLUMNS))
_REGISTER_ROW = Struct("!iqididi?i?iqi?")
"""Each field after its length, from ``source_time`` on."""
_INTERVAL_COLUMNS = (
    "circuit_id", "site_id", "start", "step_s", "version", "current", "energy_kwh", "flag", "lower_bound", "uncertain",
    "computed_at",
)  # fmt: skip
_INTERVAL_BEGIN = pgcopy.begin(len(_INTERVAL_COLUMNS))
_INTERVAL_ROW = Struct("!iqiiiii?")
"""From ``start`` to ``current``."""
_ENERGY = Struct("!id")
_FLAG_FIELDS = tuple(pgcopy.text(grade.flag) for grade in Grade)
_INTERVAL_END = Struct("!i?i?iq")
"""From ``lower_bound`` on."""
_PENDING_COLUMNS = ("kind", "subject", "at", "version")
_PENDING_BEGIN = pgcopy.begin(len(_PENDING_COLUMNS)) + pgcopy.text("interval")
_PENDING_ROW = Struct("!iqii")
CURRENT_ROW = row_type(
    ("place", ">i4"), ("start", ">i8"), ("version", ">i4"), ("energy", ">f8"), ("grade", ">i2"), ("marks", ">i2")
)
"""An interval that holds, of the span with number ``place``; marks: 1 lower bound, 2 uncertain."""


async def add_registers(conn: WriteConn, readings: Sequence[RegisterReading]) -> list[tuple[DeviceId, datetime]]:
    """Store registers; return (device, source time) of those that are new or different now.

    Of two that a meter told of one time the one that was received last counts and is disputed, whichever comes first.
    Nearly always all of them are new, and are copied.
    """
    try:
        async with conn.transaction():
            await copy_in(conn, "register_readings", _REGISTER_COLUMNS, _register_rows(readings))
    except UniqueViolationError:
        rows = await conn.fetch(_ADD, *_columns(readings))
        return [(DeviceId(row["device_id"]), row["source_time"]) for row in rows]
    return [(one.device_id, one.source_time) for one in readings]


def _register_rows(readings: Sequence[RegisterReading]) -> list[bytes]:
    heads: dict[tuple[DeviceId, str], bytes] = {}
    pack, micros, found = _REGISTER_ROW.pack, pgcopy.micros, []
    for one in readings:
        key = one.device_id, one.point
        head = heads.get(key)
        if head is None:
            head = heads[key] = _REGISTER_BEGIN + pgcopy.text(one.device_id) + pgcopy.text(one.point)
        found.append(
            head
            + pack(
                8, micros(one.source_time), 8, one.shown, 8, one.ratio, 1, one.uncertain, 1, one.disputed,
                8, micros(one.received_at), 1, one.manual,
            )
        )  # fmt: skip
    return found


_ADD = """
        insert into register_readings as r
               (device_id, point, source_time, shown, ratio, uncertain, disputed, received_at, manual)
        select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::float8[], $6::boolean[],
                             $7::boolean[], $8::timestamptz[], $9::boolean[])
            on conflict on constraint register_readings_pk do update
           set (shown, ratio, uncertain, received_at, manual) = (
                   select later.shown, later.ratio, later.uncertain, later.received_at, later.manual
                     from (values (excluded.shown, excluded.ratio, excluded.uncertain, excluded.received_at,
                                   excluded.manual),
                                  (r.shown, r.ratio, r.uncertain, r.received_at, r.manual))
                       as later(shown, ratio, uncertain, received_at, manual)
                    order by later.received_at desc, later.shown desc, later.ratio desc limit 1),
               disputed = r.disputed or excluded.disputed or (r.shown, r.ratio) <> (excluded.shown, excluded.ratio)
         where (excluded.received_at, excluded.shown, excluded.ratio) > (r.received_at, r.shown, r.ratio)
            or (not r.disputed
                and (excluded.disputed or (r.shown, r.ratio) <> (excluded.shown, excluded.ratio)))
        returning device_id, source_time
"""


def _columns(readings: Sequence[RegisterReading]) -> list[list[object]]:
    return [
        [one.device_id for one in readings],
        [one.point for one in readings],
        [one.source_time for one in readings],
        [one.shown for one in readings],
        [one.ratio for one in readings],
        [one.uncertain for one in readings],
        [one.disputed for one in readings],
        [one.received_at for one in readings],
        [one.manual for one in readings],
    ]


async def fetch_last_times(conn: ReadConn | WriteConn, points: Mapping[DeviceId, str]) -> dict[DeviceId, datetime]:
    """Return the newest time of each device that has registers of its point."""
    rows = await conn.fetch(
        """
        select d.id, l.source_time
          from unnest($1::text[], $2::text[]) as d(id, point)
          cross join lateral (
              select source_time from register_readings r
               where r.device_id = d.id and r.point = d.point order by source_time desc limit 1
          ) as l
        """,
        list(points),
        list(points.values()),
    )
    return {DeviceId(row["id"]): row["source_time"] for row in rows}


async def fetch_reach(conn: ReadConn | WriteConn, windows: Sequence[Window]) -> list[tuple[datetime, datetime | None]]:
    """Return how far the registers of each window can change anything: (from a register, to a register).

    Backwards that is as many trusted registers as confirm each other: whether the last ones count may depend on what
    follows them. Forwards it is the first trusted register that is a whole boundary away from the next one; whoever
    accepts it again knows that all that follows is judged as it was.
    """
    rows = await conn.fetch(
        """
        select coalesce((select r.source_time
                           from register_readings r
                          where r.device_id = w.before and r.point = w.before_point and not r.set_aside
                            and r.source_time >= w.valid_from and r.source_time < w.since
                            and r.source_time <= coalesce(w.ended, 'infinity')
                          order by r.source_time desc offset $1 - 1 limit 1), w.valid_from) as first,
               (select r.source_time
                  from register_readings r
                 where r.device_id = w.after and r.point = w.after_point and not r.set_aside
                   and r.source_time <= coalesce(w.valid_to, 'infinity')
                   and r.source_time >= (select date_bin(make_interval(secs => $2), n.source_time, 'epoch')
                                                + make_interval(secs => $2)
                                           from register_readings n
                                          where n.device_id = w.after and n.point = w.after_point and not n.set_aside
                                            and n.source_time > w.until
                                          order by n.source_time limit 1)
                 order by r.source_time limit 1) as last
          from rows from (json_to_recordset($3::text::json) as (
                   before text, before_point text, valid_from timestamptz, ended timestamptz, since timestamptz,
                   after text, after_point text, valid_to timestamptz, until timestamptz)) with ordinality
            as w(before, before_point, valid_from, ended, since, after, after_point, valid_to, until, place)
         order by w.place
        """,
        CONFIRMATIONS,
        STEP_S,
        _json(
            {
                "before": one.before.device_id,
                "before_point": one.before.point,
                "valid_from": one.before.valid_from,
                "ended": one.before.valid_to,
                "since": one.since,
                "after": one.after.device_id,
                "after_point": one.after.point,
                "valid_to": one.after.valid_to,
                "until": one.until,
            }
            for one in windows
        ),
    )
    return [(row["first"], row["last"]) for row in rows]


async def fetch_registers_of(conn: ReadConn | WriteConn, spans: Sequence[Span]) -> RegisterTable:
    """Return the registers of each span, from the last trusted one at or before its start."""
    rows = await copy_rows(
        conn,
        _REGISTER,
        """
        select w.place::int4, r.source_time, r.shown, r.ratio,
               ((r.uncertain or r.disputed)::int + 2 * r.set_aside::int + 4 * r.manual::int)::int2
          from rows from (json_to_recordset($1::text::json) as (
                   device_id text, point text, start timestamptz, until timestamptz)) with ordinality
            as w(device_id, point, start, until, place)
          cross join lateral (
              select *
                from register_readings r
               where r.device_id = w.device_id and r.point = w.point
                 and r.source_time <= coalesce(w.until, 'infinity')
                 and r.source_time >= coalesce(
                     (select b.source_time from register_readings b
                       where b.device_id = w.device_id and b.point = w.point and b.source_time <= w.start
                         and not b.set_aside
                       order by b.source_time desc limit 1), w.start)
          ) as r
        """,
        _json({"device_id": one.device_id, "point": one.point, "start": one.start, "until": one.end} for one in spans),
    )
    found, cuts = grouped(rows, "place", "at", len(spans))
    return RegisterTable(
        Registers(
            at=seconds(found["at"]),
            shown=found["shown"].astype(np.float64),
            ratio=found["ratio"].astype(np.float64),
            uncertain=(found["marks"] & 1) != 0,
            set_aside=(found["marks"] & 2) != 0,
            manual=(found["marks"] & 4) != 0,
        ),
        cuts,
    )


def _json(rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows as one argument; as arrays each of their fields would be looked at by itself."""
    return orjson.dumps(list(rows)).decode()


async def mark_set_aside(conn: WriteConn, marks: Sequence[tuple[DeviceId, datetime, bool]], point: str) -> None:
    """Record which registers the correction sets aside, so that none of them serves as a base, and which it uses."""
    await conn.execute(
        """
        update register_readings r set set_aside = m.set_aside
          from unnest($2::text[], $3::timestamptz[], $4::boolean[]) as m(device_id, source_time, set_aside)
         where r.device_id = m.device_id and r.point = $1 and r.source_time = m.source_time
        """,
        point,
        [device for device, _, _ in marks],
        [at for _, at, _ in marks],
        [aside for _, _, aside in marks],
    )


async def lock_circuits(conn: WriteConn, circuits: Sequence[CircuitId]) -> None:
    """Keep other recomputations of circuits out until the transaction ends; always taken in one order."""
    await conn.execute(
        """
        select pg_advisory_xact_lock(hashtextextended(c.id, 77))
          from (select id from unnest($1::text[]) as u(id) order by id collate "C" offset 0) as c
        """,
        list(circuits),
    )


async def fetch_current_of(conn: ReadConn | WriteConn, spans: Sequence[CircuitSpan]) -> CurrentTable:
    """Return the intervals that hold, of each span."""
    rows = await copy_rows(
        conn,
        CURRENT_ROW,
        """
        select w.place::int4, i.start, i.version, coalesce(i.energy_kwh, 'NaN')::float8,
               (array_position($1::text[], i.flag) - 1)::int2, (i.lower_bound::int + 2 * i.uncertain::int)::int2
          from rows from (json_to_recordset($2::text::json) as (
                   circuit_id text, start timestamptz, until timestamptz)) with ordinality
            as w(circuit_id, start, until, place)
          join intervals i on i.circuit_id = w.circuit_id and i.current
                          and i.start >= w.start and i.start < coalesce(w.until, 'infinity')
        """,
        [grade.flag for grade in Grade],
        _json({"circuit_id": one.circuit_id, "start": one.start, "until": one.end} for one in spans),
    )
    return current_of(rows, len(spans))


def current_of(rows: Rows, spans: int) -> CurrentTable:
    """Return rows of ``CURRENT_ROW`` by span."""
    found, cuts = grouped(rows, "place", "start", spans)
    return CurrentTable(
        Current(
            start=seconds(found["start"]),
            version=found["version"].astype(np.int64),
            energy_kwh=found["energy"].astype(np.float64),
            grade=found["grade"].astype(np.int8),
            lower_bound=(found["marks"] & 1) != 0,
            uncertain=(found["marks"] & 2) != 0,
        ),
        cuts,
    )


async def fetch_current(
    conn: ReadConn | WriteConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
) -> list[BookedInterval]:
    """Return the intervals that hold, of ``[start, end)``, by circuit and time."""
    rows = await conn.fetch(
        """
        select circuit_id, site_id, start, step_s, version, energy_kwh, flag, lower_bound, uncertain, computed_at
          from intervals
         where circuit_id = any($1::text[]) and start >= $2 and start < $3 and current
         order by circuit_id, start
        """,
        list(circuits),
        start,
        end,
    )
    return [booked(row) for row in rows]


async def fetch_frame(conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime) -> pl.DataFrame:
    """Return the intervals that hold, of ``[start, end)``, with the columns of ``FRAME``."""
    rows = await conn.fetch(
        """
        select circuit_id, start, energy_kwh, flag, version
          from intervals
         where circuit_id = any($1::text[]) and start >= $2 and start < $3 and current
         order by circuit_id, start
        """,
        list(circuits),
        start,
        end,
    )
    return pl.DataFrame([tuple(row) for row in rows], schema=FRAME, orient="row")


async def fetch_versions(conn: ReadConn, circuit: CircuitId, start: datetime) -> list[BookedInterval]:
    """Return all versions of one interval, oldest first."""
    rows = await conn.fetch(
        """
        select circuit_id, site_id, start, step_s, version, energy_kwh, flag, lower_bound, uncertain, computed_at
          from intervals where circuit_id = $1 and start = $2 order by version
        """,
        circuit,
        start,
    )
    return [booked(row) for row in rows]


async def book(conn: WriteConn, intervals: Sequence[BookedInterval]) -> None:
    """Add versions of intervals, to be attested; the version before each stays and no longer holds."""
    later = runs_of([one for one in intervals if one.version > 1])
    if later:
        await conn.execute(
            """
            update intervals i set current = false
              from unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) as n(circuit_id, first, last)
             where i.circuit_id = n.circuit_id and i.start between n.first and n.last and i.current
            """,
            [circuit for circuit, _, _ in later],
            [first for _, first, _ in later],
            [last for _, _, last in later],
        )
    await copy_in(conn, "intervals", _INTERVAL_COLUMNS, _interval_rows(intervals))
    in_order = sorted(intervals, key=lambda one: (one.circuit_id, one.start, one.version))
    circuits = {one.circuit_id for one in intervals}
    subjects = {circuit: _PENDING_BEGIN + pgcopy.text(f"circuit:{circuit}") for circuit in circuits}
    await copy_in(
        conn,
        "attest_pending",
        _PENDING_COLUMNS,
        [subjects[one.circuit_id] + _PENDING_ROW.pack(8, pgcopy.micros(one.start), 4, one.version) for one in in_order],
    )


def runs_of(intervals: Sequence[BookedInterval]) -> list[tuple[CircuitId, datetime, datetime]]:
    """Return the first and the last start of intervals that follow each other without one between them."""
    found: list[tuple[CircuitId, datetime, datetime]] = []
    circuit, first, last, following = CircuitId(""), None, None, None
    for one in intervals:
        if one.start != following or one.circuit_id != circuit:
            if first is not None and last is not None:
                found.append((circuit, first, last))
            circuit, first = one.circuit_id, one.start
        last, following = one.start, one.start + timedelta(seconds=one.step_s)
    if first is not None and last is not None:
        found.append((circuit, first, last))
    return found


def _interval_rows(intervals: Sequence[BookedInterval]) -> list[bytes]:
    heads: dict[CircuitId, bytes] = {}
    found = []
    for one in intervals:
        head = heads.get(one.circuit_id)
        if head is None:
            head = heads[one.circuit_id] = _INTERVAL_BEGIN + pgcopy.text(one.circuit_id) + pgcopy.text(one.site_id)
        energy = pgcopy.NULL if one.energy_kwh is None else _ENERGY.pack(8, one.energy_kwh)
        found.append(b"".join((
            head,
            _INTERVAL_ROW.pack(8, pgcopy.micros(one.start), 4, one.step_s, 4, one.version, 1, True),
            energy,
            _FLAG_FIELDS[one.grade],
            _INTERVAL_END.pack(1, one.lower_bound, 1, one.uncertain, 8, pgcopy.micros(one.computed_at)),
        )))  # fmt: skip
    return found


async def add_findings(
    conn: WriteConn, findings: Sequence[CircuitFinding], found_at: datetime, *, point: str | None = None
) -> set[tuple[CircuitId, datetime, FindingKind]]:
    """Store findings that are not there yet; return the keys of the new ones.

    Those of another register than that of energy carry its name, since one circuit may have several.
    """
    prefix = "" if point is None else f"{point}/"
    rows = await conn.fetch(
        """
        insert into findings (circuit_id, at, kind, previous_shown, shown, found_at)
        select circuit_id, at, kind, previous_shown, shown, $6
          from unnest($1::text[], $2::timestamptz[], $3::text[], $4::float8[], $5::float8[])
            as f(circuit_id, at, kind, previous_shown, shown)
            on conflict on constraint findings_pk do nothing
        returning circuit_id, at, kind
        """,
        [one.circuit_id for one in findings],
        [one.at for one in findings],
        [prefix + one.finding.kind.value for one in findings],
        [one.finding.previous_kwh for one in findings],
        [one.finding.shown_kwh for one in findings],
        found_at,
    )
    return {(CircuitId(row["circuit_id"]), row["at"], FindingKind(row["kind"].removeprefix(prefix))) for row in rows}


async def fetch_pushed_days(conn: ReadConn | WriteConn, asked: Sequence[AskedDay]) -> list[PushedDay]:
    """Return what meters told of intervals of their own on civil days, and what their registers counted then."""
    rows = await conn.fetch(
        """
        select t.told, t.told_kwh, c.counted, c.counted_kwh
          from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::float8[]) with ordinality
            as w(circuit_id, device_id, start, until, slack, place)
          cross join lateral (
              select count(*) as told, coalesce(sum(r.shown * r.ratio), 0) as told_kwh
                from register_readings r
               where r.device_id = w.device_id and r.point = $6
                 and r.source_time > w.start + w.slack * interval '1 second'
                 and r.source_time <= w.until + w.slack * interval '1 second'
          ) as t
          cross join lateral (
              select count(i.energy_kwh) as counted, coalesce(sum(i.energy_kwh), 0) as counted_kwh
                from intervals i
               where i.circuit_id = w.circuit_id and i.current and i.start >= w.start and i.start < w.until
                 and not i.lower_bound
          ) as c
         order by w.place
        """,
        [one.circuit for one in asked],
        [one.device for one in asked],
        [one.start for one in asked],
        [one.end for one in asked],
        [PERIOD_SLACK * one.period_s for one in asked],
        INTERVAL_POINT,
    )
    return [
        PushedDay(one, row["told"], row["told_kwh"], row["counted"], row["counted_kwh"])
        for one, row in zip(asked, rows, strict=True)
    ]


async def fetch_points(conn: ReadConn | WriteConn, devices: Sequence[DeviceId], points: Sequence[str]) -> set[str]:
    """Return those of the points that one of the devices has registers of."""
    rows = await conn.fetch(
        """
        select p.name
          from unnest($2::text[]) as p(name)
         where exists (select from unnest($1::text[]) as d(id)
                         join register_readings r on r.device_id = d.id and r.point = p.name)
        """,
        list(devices),
        list(points),
    )
    return {row["name"] for row in rows}


async def mark_dirty(conn: WriteConn, circuits: Mapping[CircuitId, datetime]) -> None:
    """Ask for a recomputation of circuits from a time on."""
    await conn.execute(
        """
        insert into dirty_circuits (circuit_id, since)
        select * from unnest($1::text[], $2::timestamptz[])
            on conflict on constraint dirty_circuits_pk
            do update set since = least(dirty_circuits.since, excluded.since)
        """,
        list(circuits),
        list(circuits.values()),
    )


async def take_dirty(conn: WriteConn) -> tuple[CircuitId, datetime] | None:
    """Take one circuit to recompute, with the time to start from; it is gone when the transaction commits."""
    row = await conn.fetchrow(
        """
        delete from dirty_circuits where circuit_id = (
            select circuit_id from dirty_circuits order by since limit 1 for update skip locked)
        returning circuit_id, since
        """
    )
    return None if row is None else (CircuitId(row["circuit_id"]), row["since"])


async def fetch_last_starts(conn: ReadConn | WriteConn) -> dict[CircuitId, datetime]:
    """Return the start of the newest interval of every circuit that has one, of the medium that is furthest behind."""
    rows = await conn.fetch(
        """
        select circuit_id, min(start) as start
          from (select circuit_id, max(start) as start from intervals where current group by circuit_id
                union all
                select circuit_id, max(start) from medium_intervals where current group by circuit_id, point) as newest
         group by circuit_id
        """
    )
    return {CircuitId(row["circuit_id"]): row["start"] for row in rows}


def booked(row: Record) -> BookedInterval:
    """Return an interval as its row says it."""
    return BookedInterval(
        circuit_id=CircuitId(row["circuit_id"]),
        site_id=SiteId(row["site_id"]),
        start=row["start"],
        step_s=row["step_s"],
        version=row["version"],
        energy_kwh=row["energy_kwh"],
        grade=Grade.of(row["flag"]),
        lower_bound=row["lower_bound"],
        uncertain=row["uncertain"],
        computed_at=row["computed_at"],
    )


async def fetch_trace(
    conn: ReadConn, device: DeviceId, point: str, start: datetime, end: datetime
) -> list[tuple[datetime, float, float, bool, bool, bool]]:
    """Return (time, shown, ratio, uncertain, set aside, manual) of what a span was computed from, by time.

    That is from the last register at or before it that is trusted, to the ``CONFIRMATIONS + 1`` after it, which decide
    whether the last ones inside it count; at most ``TRACED_MAX`` rows, the first ones.
    """
    rows = await conn.fetch(
        """
        select source_time, shown, ratio, uncertain or disputed, set_aside, manual
          from register_readings
         where device_id = $1 and point = $2
           and source_time >= coalesce((select max(source_time) from register_readings
                                         where device_id = $1 and point = $2 and source_time <= $3
                                           and not set_aside), $3)
           and source_time <= coalesce((select max(source_time) from (
                                           select source_time from register_readings
                                            where device_id = $1 and point = $2 and source_time >= $4
                                            order by source_time limit $5) as following), $4)
         order by source_time
         limit $6
        """,
        device,
        point,
        start,
        end,
        CONFIRMATIONS + 1,
        TRACED_MAX,
    )
    return [tuple(row) for row in rows]
