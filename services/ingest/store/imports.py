"""Imports as resources, and reports that wait for their device to become known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import: what was asked, how far it is, what came of it."""

    id: str
    kind: str
    file: str
    actor: str
    dry_run: bool
    state: str
    bytes: int
    created_at: datetime
    job_id: str | None = None
    counts: Mapping[str, Any] | None = None
    problems: Sequence[Mapping[str, Any]] | None = None
    detail: str | None = None
    detail_zh: str | None = None
    changes: Sequence[Mapping[str, Any]] | None = None
    """Of a registry file: what is new in the first entities, field by field."""
    finished_at: datetime | None = None
    key: str | None = None
    """The sender's own name of it."""
    done: int | None = None
    """Lines or entities that are done, while it runs."""


async def insert(conn: WriteConn, found: Import) -> None:
    """Keep a new import."""
    await conn.execute(
        """
        insert into imports (id, kind, file, actor, dry_run, state, bytes, job_id, counts, problems, detail, detail_zh,
                             created_at, finished_at, key)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        """,
        found.id, found.kind, found.file, found.actor, found.dry_run, found.state, found.bytes, found.job_id,
        found.counts, found.problems, found.detail, found.detail_zh, found.created_at, found.finished_at,
        found.key,
    )  # fmt: skip


async def finish(
    conn: WriteConn,
    import_id: str,
    *,
    state: str,
    at: datetime,
    counts: Mapping[str, Any] | None = None,
    problems: Sequence[Mapping[str, Any]] | None = None,
    detail: str | None = None,
    detail_zh: str | None = None,
    changes: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Note what came of an import."""
    await conn.execute(
        """
        update imports set state = $2, finished_at = $3, counts = $4, problems = $5, detail = $6, detail_zh = $7,
                           changes = $8
         where id = $1
        """,
        import_id,
        state,
        at,
        counts,
        problems,
        detail,
        detail_zh,
        changes,
    )


async def fetch(conn: ReadConn, import_id: str) -> Import | None:
    """Return an import, None when there is none."""
    found = await fetch_page(conn, before=None, limit=1, import_id=import_id)
    return found[0] if found else None


async def fetch_page(
    conn: ReadConn, *, before: str | None, limit: int, import_id: str | None = None, key: str | None = None
) -> list[Import]:
    """Return imports, the youngest first, below the id ``before``; a job that has ended badly ends its import."""
    rows = await conn.fetch(
        """
        select i.id, i.kind, i.file, i.actor, i.dry_run, i.bytes, i.job_id, i.counts, i.problems,
               i.changes, i.created_at, i.key,
               case when i.state in ('queued', 'running') and j.state is not null then j.state else i.state end
                   as state,
               coalesce(i.detail, j.error->>'detail', j.note) as detail,
               coalesce(i.detail_zh, j.error->>'detail_zh') as detail_zh,
               coalesce(i.finished_at, j.finished_at) as finished_at, j.done
          from imports i left join jobs j on j.id = i.job_id
         where ($1::text is null or i.id < $1) and ($3::text is null or i.id = $3)
           and ($4::text is null or i.key = $4)
         order by i.id desc
         limit $2
        """,
        before,
        limit,
        import_id,
        key,
    )
    return [Import(**dict(row.items())) for row in rows]


@dataclass(frozen=True, slots=True)
class WrongLine:
    """A line of an archive that was not taken."""

    line: int
    reason: str
    detail: str
    detail_zh: str


async def list_wrong_lines(conn: WriteConn, import_id: str, lines: Sequence[WrongLine]) -> None:
    """Keep wrong lines; one that an earlier attempt has kept stays."""
    await conn.execute(
        """
        insert into import_lines (import_id, line, reason, detail, detail_zh)
        select $1, * from unnest($2::bigint[], $3::text[], $4::text[], $5::text[])
        on conflict do nothing
        """,
        import_id,
        [one.line for one in lines],
        [one.reason for one in lines],
        [one.detail for one in lines],
        [one.detail_zh for one in lines],
    )


async def fetch_wrong_lines(conn: ReadConn, import_id: str, *, after: int, limit: int) -> list[WrongLine]:
    """Return wrong lines in order, from behind ``after``."""
    rows = await conn.fetch(
        """
        select line, reason, detail, detail_zh from import_lines
         where import_id = $1 and line > $2 order by line limit $3
        """,
        import_id,
        after,
        limit,
    )
    return [WrongLine(**dict(row.items())) for row in rows]


@dataclass(frozen=True, slots=True)
class Parked:
    """A report of a device that the registry does not know yet."""

    id: str
    device_id: str
    """As the sender calls it."""
    source: str
    received_at: datetime
    until: datetime
    raw: bytes
    driver: str = "push"
    """Who can read it."""
    line_id: str | None = None
    """Line that the name of the device belongs to; None is the registry's own."""


Stranger = tuple[str, str | None, str]
"""Driver, line and name of a device that the registry does not know yet."""


async def outbox_is_crowded(conn: ReadConn, limit: int) -> bool:
    """Return whether more than ``limit`` messages wait to be published."""
    crowded: bool = await conn.fetchval("select count(*) > $1 from (select 1 from outbox limit $1 + 1) as w", limit)
    return crowded


async def park(conn: WriteConn, reports: Sequence[Parked]) -> None:
    """Keep reports until their time is up."""
    await conn.executemany(
        """
        insert into parked (id, device_id, source, received_at, until, raw, driver, line_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        [
            (one.id, one.device_id, one.source, one.received_at, one.until, one.raw, one.driver, one.line_id)
            for one in reports
        ],
    )


async def take_parked(conn: WriteConn, *, until: datetime, known: Sequence[Stranger], limit: int) -> list[Parked]:
    """Remove and return parked reports that wait until then at most, or whose device is known; oldest first."""
    rows = await conn.fetch(
        """
        delete from parked where id in (
               select id from parked
                where until <= $1
                   or (driver, coalesce(line_id, ''), device_id) in
                      (select * from unnest($2::text[], $3::text[], $4::text[]))
                order by received_at limit $5 for update skip locked)
        returning id, device_id, source, received_at, until, raw, driver, line_id
        """,
        until,
        [driver for driver, _, _ in known],
        [line_id or "" for _, line_id, _ in known],
        [device_id for _, _, device_id in known],
        limit,
    )
    return sorted((Parked(**dict(row.items())) for row in rows), key=lambda one: (one.received_at, one.id))


async def fetch_parked_devices(conn: ReadConn) -> dict[Stranger, int]:
    """Return the devices that reports are parked for, and how many."""
    rows = await conn.fetch(
        "select driver, line_id, device_id, count(*) as reports from parked group by driver, line_id, device_id"
    )
    return {(row["driver"], row["line_id"], row["device_id"]): row["reports"] for row in rows}
