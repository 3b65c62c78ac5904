"""Gaps in tables: found, asked for, settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.ingest.domain.gaps import GapKind, GapState


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch without reports of one device."""

    id: str
    device_id: str
    site_id: str
    line_id: str | None
    kind: GapKind
    began_at: datetime
    """Time of the last report before it."""
    ended_at: datetime | None
    """Time of the first report after it; None while there is none."""
    missing: int
    """Reports that were expected in it, or that the device has numbered."""
    recovered: int = 0
    """Of those missing, as many as came later."""
    interval_s: float
    """How often the device should have reported. [s]"""
    state: GapState
    reason: str | None = None
    """Why it is not filled: ``no_memory``, ``refused``, ``nothing_remembered``, ``not_reached``, ``not_in_use``; or how
    it was: ``memory``, ``late``."""
    asked_until: datetime | None = None
    """Up to where the device's memory has been asked."""
    attempts: int = 0
    found_at: datetime
    settled_at: datetime | None = None


_COLUMNS = (
    "id, device_id, site_id, line_id, kind, began_at, ended_at, missing, recovered, state, reason, asked_until, "
    "attempts, found_at, settled_at, interval_s"
)


@dataclass(frozen=True, slots=True)
class HourOfDevice:
    """When a device reported in an hour."""

    before: datetime | None
    """Its last report before the hour, if it is not older than was asked for."""
    times: Sequence[datetime]
    numbered: Sequence[tuple[datetime, int]]
    """Those with a number of the device's own, and the last such before the hour."""


async def fetch_scanned(conn: ReadConn) -> datetime | None:
    """Return up to where all reports have been looked at; None before the first time."""
    scanned: datetime | None = await conn.fetchval("select scanned_until from gap_scan")
    return scanned


async def set_scanned(conn: WriteConn, until: datetime) -> None:
    """Note up to where all reports have been looked at."""
    await conn.execute(
        """
        insert into gap_scan (scanned_until) values ($1)
        on conflict (one) do update set scanned_until = excluded.scanned_until
        """,
        until,
    )


async def fetch_open(conn: ReadConn) -> dict[str, Gap]:
    """Return the gaps that have not ended, by device."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from gaps where settled_at is null and state = 'open'"  # noqa: S608 - constants
    )
    return {row["device_id"]: _gap(row) for row in rows}


async def fetch_hour(
    conn: ReadConn, device_ids: Sequence[str], *, start: datetime, end: datetime, not_before: datetime
) -> dict[str, HourOfDevice]:
    """Return the times of reports of devices; one that never reported is absent, moved reports are left out."""
    rows = await conn.fetch(
        """
        select d.device_id,
               (select r.source_time from readings r
                 where r.device_no = d.no and r.source_time < $2 and r.source_time >= $4 and r.flags & 1 = 0
                 order by r.source_time desc limit 1) as before,
               (select r.extra -> 'seq' from readings r
                 where r.device_no = d.no and r.source_time < $2 and r.source_time >= $4 and r.flags & 1 = 0
                 order by r.source_time desc limit 1) as before_seq,
               h.times, h.numbers
          from devices d
         cross join lateral (
               select array_agg(r.source_time order by r.source_time) as times,
                      array_agg((r.extra ->> 'seq')::bigint order by r.source_time) as numbers
                 from readings r
                where r.device_no = d.no and r.source_time >= $2 and r.source_time < $3 and r.flags & 1 = 0) as h
         where d.device_id = any($1::text[])
        """,
        device_ids,
        start,
        end,
        not_before,
    )
    return {row["device_id"]: _hour(row) for row in rows}


async def fetch_numbered(conn: ReadConn) -> set[str]:
    """Return the devices that number their reports."""
    rows = await conn.fetch(
        "select d.device_id from latest l join devices d on d.no = l.device_no where l.extra ? 'seq'"
    )
    return {row["device_id"] for row in rows}


async def put(conn: WriteConn, gaps: Sequence[Gap]) -> None:
    """Put gaps down, or how those go on that are known and not settled."""
    if not gaps:
        return
    await conn.execute(
        """
        insert into gaps as g (id, device_id, site_id, line_id, kind, began_at, ended_at, missing, state, due_at,
                               interval_s, found_at)
        select *, $12 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                                  $7::timestamptz[], $8::integer[], $9::text[], $10::timestamptz[],
                                  $11::double precision[])
        on conflict (device_id, began_at) do update
           set ended_at = excluded.ended_at, missing = greatest(excluded.missing, g.missing), state = excluded.state,
               due_at = excluded.due_at
         where g.settled_at is null and g.state = 'open'
        """,
        [gap.id for gap in gaps],
        [gap.device_id for gap in gaps],
        [gap.site_id for gap in gaps],
        [gap.line_id for gap in gaps],
        [gap.kind for gap in gaps],
        [gap.began_at for gap in gaps],
        [gap.ended_at for gap in gaps],
        [gap.missing for gap in gaps],
        [gap.state for gap in gaps],
        [gap.ended_at for gap in gaps],
        [gap.interval_s for gap in gaps],
        gaps[0].found_at,
    )


async def fetch_waiting(conn: ReadConn, *, after: str | None, limit: int) -> list[Gap]:
    """Return gaps that have ended and are not settled, by id."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from gaps
         where settled_at is null and state = 'waiting' and ($1::text is null or id > $1) order by id limit $2
        """,  # noqa: S608 - constants
        after,
        limit,
    )
    return [_gap(row) for row in rows]


async def count_within(conn: ReadConn, gaps: Sequence[Gap]) -> dict[str, Sequence[datetime]]:
    """Return the times of the reports that lie within gaps, by id of the gap."""
    rows = await conn.fetch(
        """
        select g.id, array_agg(r.source_time order by r.source_time) as times
          from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
               as g (id, device_id, began_at, ended_at)
          join devices d on d.device_id = g.device_id
          join readings r on r.device_no = d.no and r.source_time > g.began_at and r.source_time < g.ended_at
         where r.flags & 1 = 0
         group by g.id
        """,
        [gap.id for gap in gaps],
        [gap.device_id for gap in gaps],
        [gap.began_at for gap in gaps],
        [gap.ended_at for gap in gaps],
    )
    return {row["id"]: row["times"] for row in rows}


async def settle(
    conn: WriteConn, gap_id: str, state: GapState, reason: str, at: datetime, *, recovered: int | None = None
) -> None:
    """Note what came of a gap; one that is settled stays as it is."""
    await conn.execute(
        """
        update gaps set state = $2, reason = $3, settled_at = $4, recovered = coalesce($5, recovered), due_at = null
         where id = $1 and settled_at is null
        """,
        gap_id,
        state,
        reason,
        at,
        recovered,
    )


async def fetch_due(conn: ReadConn, device_ids: Sequence[str], now: datetime, limit: int) -> list[Gap]:
    """Return gaps of devices whose memory is to be asked, the youngest first."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from gaps
         where settled_at is null and state = 'waiting' and kind = 'silence' and due_at <= $2
           and device_id = any($1::text[])
         order by ended_at desc limit $3
        """,  # noqa: S608 - constants
        device_ids,
        now,
        limit,
    )
    return [_gap(row) for row in rows]


async def note_progress(conn: WriteConn, gap_id: str, *, asked_until: datetime | None, recovered: int) -> None:
    """Note how far a device's memory has been asked."""
    await conn.execute(
        "update gaps set asked_until = coalesce($2, asked_until), recovered = $3 where id = $1 and settled_at is null",
        gap_id,
        asked_until,
        recovered,
    )


async def put_off(conn: WriteConn, gap_id: str, reason: str, due_at: datetime | None) -> None:
    """Note why a gap could not be filled now, and when to try again; None is never."""
    await conn.execute(
        """
        update gaps set reason = $2, due_at = $3, attempts = attempts + 1 where id = $1 and settled_at is null
        """,
        gap_id,
        reason,
        due_at,
    )


async def fetch_untold(conn: ReadConn) -> list[Gap]:
    """Return gaps that nobody has been told of and that are not settled, one per device."""
    rows = await conn.fetch(
        f"""
        select distinct on (device_id) {_COLUMNS} from gaps g
         where settled_at is null and not exists (select from gaps t where t.device_id = g.device_id and t.told)
         order by device_id, began_at
        """  # noqa: S608 - constants
    )
    return [_gap(row) for row in rows]


async def fetch_told_and_settled(conn: ReadConn) -> list[tuple[str, str, int]]:
    """Return device, site and lost reports of what was told and is settled for all gaps of the device."""
    rows = await conn.fetch(
        """
        select g.device_id, min(g.site_id) as site_id, sum(g.missing - least(g.recovered, g.missing))::bigint as lost
          from gaps g
         where g.told and not exists (select from gaps u where u.device_id = g.device_id and u.settled_at is null)
         group by g.device_id
        """
    )
    return [(row["device_id"], row["site_id"], row["lost"]) for row in rows]


async def set_told(conn: WriteConn, device_ids: Sequence[str], *, told: bool) -> None:
    """Note that somebody has been told of the gaps of devices, or that they are over."""
    await conn.execute(
        """
        update gaps set told = $2
         where device_id = any($1::text[]) and case when $2 then settled_at is null else told end
        """,
        device_ids,
        told,
    )


async def fetch_page(
    conn: ReadConn,
    *,
    start: datetime | None,
    end: datetime | None,
    sites: Sequence[str] | None,
    device_id: str | None,
    state: GapState | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Gap]:
    """Return gaps that touch ``[start, end)``, the youngest first, from behind ``before``."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from gaps
         where ($1::timestamptz is null or ended_at is null or ended_at > $1)
           and ($2::timestamptz is null or began_at < $2)
           and ($3::text[] is null or site_id = any($3))
           and ($4::text is null or device_id = $4)
           and ($5::text is null or state = $5)
           and ($6::timestamptz is null or (began_at, id) < ($6, $7))
         order by began_at desc, id desc limit $8
        """,  # noqa: S608 - constants
        start,
        end,
        sites,
        device_id,
        state,
        *(before if before is not None else (None, None)),
        limit,
    )
    return [_gap(row) for row in rows]


async def forget(conn: WriteConn, before: datetime) -> None:
    """Forget gaps that ended before the history that is kept begins."""
    await conn.execute("delete from gaps where ended_at < $1 and settled_at is not null", before)


def _gap(row: Any) -> Gap:
    values = dict(row)
    values["kind"], values["state"] = GapKind(values["kind"]), GapState(values["state"])
    return Gap(**values)


def _hour(row: Any) -> HourOfDevice:
    times, numbers = row["times"] or [], row["numbers"] or []
    numbered = [(time, number) for time, number in zip(times, numbers, strict=True) if number is not None]
    if row["before"] is not None and isinstance(row["before_seq"], int):
        numbered.insert(0, (row["before"], row["before_seq"]))
    return HourOfDevice(row["before"], times, numbered)


def hour_of(when: datetime) -> datetime:
    """Return the beginning of the hour that a time lies in."""
    return when - timedelta(minutes=when.minute, seconds=when.second, microseconds=when.microsecond)
