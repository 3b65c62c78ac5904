"""SQL of measurement files: what is to be made, what was made, what waits for a centre."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import UnitKey
from services.export.domain.unitfiles import FileTemplate

Conn = ReadConn | WriteConn


class FileState(StrEnum):
    """How far a file is."""

    KEPT = "kept"
    """It lies in the unit's folder and is pushed to nobody."""
    QUEUED = "queued"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlace:
    """Where files go; the account is stored apart, encrypted."""

    url: str
    host_key: str | None = None
    timeout_s: float = 30.0
    retry_first_s: float = 5.0
    retry_cap_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """What files a connection's units have."""

    connection_id: str
    templates: tuple[FileTemplate, ...] = ()
    push: PushPlace | None = None
    """None: they lie at our file server only."""
    sealed: bytes | None = None
    changed_by: str = ""
    changed_at: datetime | None = None

    def document(self) -> dict[str, Any]:
        """Return what is stored in the clear."""
        return {
            "templates": [template.as_json() for template in self.templates],
            "push": None if self.push is None else asdict(self.push),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """One file."""

    id: int
    connection_id: str
    unit_key: UnitKey
    unit_id: str
    template_id: str
    period_end: datetime
    folder: str
    name: str
    size_bytes: int
    made_at: datetime
    state: FileState
    attempts: int
    next_attempt_at: datetime | None
    finished_at: datetime | None
    error: str | None


_PLAN = "select connection_id, document, sealed, changed_by, changed_at from sc_files"


async def fetch_plans(conn: Conn) -> list[FilePlan]:
    """Return the plans of all connections that are in use."""
    rows = await conn.fetch(
        _PLAN
        + """
         where exists (select from sc_connections c where c.id = connection_id and c.enabled and c.removed_at is null)
         order by connection_id
        """
    )
    return [_plan(row) for row in rows]


async def fetch_plan(conn: Conn, connection_id: str) -> FilePlan | None:
    """Return one connection's plan."""
    row = await conn.fetchrow(_PLAN + " where connection_id = $1", connection_id)
    return None if row is None else _plan(row)


async def put_plan(conn: WriteConn, plan: FilePlan) -> None:
    """Write a connection's plan."""
    await conn.execute(
        """
        insert into sc_files (connection_id, document, sealed, changed_by, changed_at) values ($1, $2, $3, $4, $5)
        on conflict (connection_id) do update
           set document = excluded.document, sealed = excluded.sealed, changed_by = excluded.changed_by,
               changed_at = excluded.changed_at
        """,
        plan.connection_id,
        plan.document(),
        plan.sealed,
        plan.changed_by,
        plan.changed_at,
    )


async def made_until(conn: Conn) -> dict[tuple[UnitKey, str], datetime]:
    """Return the end of the youngest period of which a file was made, by unit and template; slow, asked once."""
    rows = await conn.fetch(
        "select unit_key, template_id, max(period_end) as until from unit_files group by unit_key, template_id"
    )
    return {(UnitKey(row["unit_key"]), row["template_id"]): row["until"] for row in rows}


async def insert(
    conn: WriteConn, *, connection_id: str, unit_key: UnitKey, template_id: str, period_end: datetime, folder: str,
    name: str, size_bytes: int, now: datetime, pushed: bool,
) -> None:  # fmt: skip
    """Note a file that lies in the unit's folder; one of the same period is not noted twice."""
    await conn.execute(
        """
        insert into unit_files (connection_id, unit_key, template_id, period_end, folder, name, size_bytes, made_at,
                                state, next_attempt_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict on constraint unit_files_once do nothing
        """,
        connection_id,
        unit_key,
        template_id,
        period_end,
        folder,
        name,
        size_bytes,
        now,
        FileState.QUEUED if pushed else FileState.KEPT,
        now if pushed else None,
    )


_FILE = """
    select f.id, f.connection_id, f.unit_key, u.unit_id, f.template_id, f.period_end, f.folder, f.name, f.size_bytes,
           f.made_at, f.state, f.attempts, f.next_attempt_at, f.finished_at, f.error
      from unit_files f join units u on u.key = f.unit_key
"""


async def fetch_due(conn: Conn, connection_id: str, now: datetime, *, limit: int) -> list[UnitFile]:
    """Return the first file that waits of each unit, where it is due; the longest due first."""
    rows = await conn.fetch(
        _FILE  # noqa: S608 - two constants
        + """
         where f.id in (select min(w.id) from unit_files w
                         where w.connection_id = $1 and w.state in ('queued', 'retrying') group by w.unit_key)
           and f.next_attempt_at <= $2
         order by f.next_attempt_at, f.id limit $3
        """,
        connection_id,
        now,
        limit,
    )
    return [_file(row) for row in rows]


async def save_attempt(
    conn: WriteConn, file_id: int, state: FileState, *, attempts: int, next_attempt_at: datetime | None,
    finished_at: datetime | None, error: str | None,
) -> bool:  # fmt: skip
    """Write what became of an attempt, unless the file is finished already; return whether it was written."""
    done = await conn.execute(
        """
        update unit_files set state = $2, attempts = $3, next_attempt_at = $4, finished_at = $5, error = $6
         where id = $1 and state in ('queued', 'retrying')
        """,
        file_id,
        state,
        attempts,
        next_attempt_at,
        finished_at,
        error,
    )
    return bool(done == "UPDATE 1")


async def fetch_waiting_file(conn: WriteConn, connection_id: str, file_id: int) -> UnitFile | None:
    """Return a file that waits, and hold its row until the transaction ends."""
    row = await conn.fetchrow(
        _FILE + " where f.id = $2 and f.connection_id = $1 and f.state in ('queued', 'retrying') for update of f",
        connection_id,
        file_id,
    )
    return None if row is None else _file(row)


async def fetch_page(
    conn: Conn, connection_id: str, *, unit_id: str | None, state: FileState | None, sites: Collection[str] | None,
    before: tuple[datetime, int] | None, limit: int,
) -> list[UnitFile]:  # fmt: skip
    """Return a connection's files, the youngest first; ``sites`` limits them to units of these sites."""
    rows = await conn.fetch(
        _FILE
        + """
         where f.connection_id = $1 and ($2::text is null or u.unit_id = $2) and ($3::text is null or f.state = $3)
           and ($4::text[] is null or cardinality(u.sites) > 0 and u.sites <@ $4)
           and ($5::timestamptz is null or (f.made_at, f.id) < ($5, $6::bigint))
         order by f.made_at desc, f.id desc limit $7
        """,
        connection_id,
        unit_id,
        state,
        None if sites is None else list(sites),
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_file(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one connection's centre."""

    count: int
    oldest_at: datetime | None
    """When the oldest file that waits was made; None when none is to be brought."""
    told_late: bool
    """Whether alarm believes that files wait for too long."""


async def measure_waiting(conn: Conn) -> dict[str, Waiting]:
    """Return what waits for each connection's centre, and of which of them alarm believes that too much does.

    Of a connection that is not in use, or whose files go nowhere, nothing is late.
    """
    rows = await conn.fetch(
        """
        select f.connection_id, f.told_late, coalesce(w.n, 0) as count,
               case when c.enabled and c.removed_at is null and jsonb_typeof(f.document -> 'push') = 'object'
                    then w.oldest end as oldest_at
          from sc_files f join sc_connections c on c.id = f.connection_id
          left join (select connection_id, count(*) as n, min(made_at) as oldest from unit_files
                      where state in ('queued', 'retrying') group by 1) w on w.connection_id = f.connection_id
         where w.n is not null or f.told_late
        """
    )
    return {row["connection_id"]: Waiting(row["count"], row["oldest_at"], row["told_late"]) for row in rows}


async def note_late(conn: WriteConn, connection_id: str, *, late: bool) -> bool:
    """Write down whether alarm is told that files wait too long; return whether that is news."""
    done = await conn.execute(
        "update sc_files set told_late = $2 where connection_id = $1 and told_late <> $2", connection_id, late
    )
    return bool(done == "UPDATE 1")


async def make_room(conn: WriteConn, unit_key: UnitKey, template_id: str, keep: int) -> list[tuple[str, str]]:
    """Forget the oldest files beyond ``keep``, apart from those that wait; return folder and name of each."""
    rows = await conn.fetch(
        """
        delete from unit_files
         where state not in ('queued', 'retrying')
           and id in (select id from unit_files where unit_key = $1 and template_id = $2
                       order by period_end desc offset $3)
        returning folder, name
        """,
        unit_key,
        template_id,
        keep,
    )
    return [(row["folder"], row["name"]) for row in rows]


def _plan(row: Mapping[str, Any]) -> FilePlan:
    document = row["document"]
    return FilePlan(
        connection_id=row["connection_id"],
        templates=tuple(FileTemplate.of_json(each) for each in document["templates"]),
        push=None if document["push"] is None else PushPlace(**document["push"]),
        sealed=row["sealed"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )


def _file(row: Mapping[str, Any]) -> UnitFile:
    return UnitFile(**{**dict(row), "unit_key": UnitKey(row["unit_key"]), "state": FileState(row["state"])})
