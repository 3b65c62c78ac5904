"""Definitions of reports by version, when they are due, finished editions and their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.reports.content import Language, ReportKind
from services.carbon.domain.reports.definitions import Definition, FileFormat, definition_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDefinition:
    """A version of a definition and who made it."""

    definition: Definition
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """A finished report, without its content and files."""

    statement_id: str
    version: int
    definition_id: str
    definition_version: int
    edition: str
    kind: ReportKind
    start: datetime
    end: datetime
    completeness: float | None
    """The least of its headline figures, 0 to 1; None where none of them can be incomplete."""
    job_id: str
    digest: str
    """SHA-256 of the filed content."""
    made_at: datetime
    made_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFile:
    """A rendered report."""

    format: FileFormat
    language: Language
    body: bytes
    digest: str
    """SHA-256 of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """A table of a report for programs."""

    key: str
    language: Language
    body: bytes
    """An Arrow file."""


async def lock_definition(conn: WriteConn, definition_id: str) -> None:
    """Keep other changes of a definition out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 79))", definition_id)


async def fetch_definition(conn: ReadConn | WriteConn, definition_id: str) -> StoredDefinition | None:
    """Return the last version of a definition, None when there is none."""
    row = await conn.fetchrow(
        """
        select version, document, changed_by, changed_at from report_definitions
         where definition_id = $1 order by version desc limit 1
        """,
        definition_id,
    )
    return None if row is None else _definition(row)


async def fetch_definition_version(
    conn: ReadConn | WriteConn, definition_id: str, version: int
) -> StoredDefinition | None:
    """Return a version of a definition, None when there is none."""
    row = await conn.fetchrow(
        """
        select version, document, changed_by, changed_at from report_definitions
         where definition_id = $1 and version = $2
        """,
        definition_id,
        version,
    )
    return None if row is None else _definition(row)


async def fetch_definitions(conn: ReadConn, *, after: str, limit: int) -> list[StoredDefinition]:
    """Return the last version of every definition, by id."""
    rows = await conn.fetch(
        """
        select distinct on (definition_id) version, document, changed_by, changed_at
          from report_definitions where definition_id > $1 order by definition_id, version desc limit $2
        """,
        after,
        limit,
    )
    return [_definition(row) for row in rows]


async def add_definition(conn: WriteConn, one: StoredDefinition) -> None:
    """Add a version of a definition."""
    await conn.execute(
        """
        insert into report_definitions (definition_id, version, document, changed_by, changed_at)
        values ($1, $2, $3, $4, $5)
        """,
        one.definition.definition_id,
        one.definition.version,
        one.definition.document(),
        one.changed_by,
        one.changed_at,
    )


async def count_definitions(conn: WriteConn) -> int:
    """Return how many definitions there are."""
    return int(await conn.fetchval("select count(distinct definition_id) from report_definitions"))


async def count_open_jobs(conn: WriteConn) -> int:
    """Return how many jobs wait or run."""
    return int(await conn.fetchval("select count(*) from jobs where state in ('queued', 'running')"))


async def fetch_waiting_job(conn: WriteConn, kind: str, payload: Mapping[str, Any]) -> str | None:
    """Return the job that waits to do just this, None when none does."""
    found = await conn.fetchval(
        "select id from jobs where state = 'queued' and kind = $1 and payload = $2 order by id limit 1", kind, payload
    )
    return None if found is None else str(found)


async def put_due(conn: WriteConn, definition_id: str, due_at: datetime | None) -> None:
    """Say when a definition's next report is due; None is never."""
    if due_at is None:
        await conn.execute("delete from report_schedules where definition_id = $1", definition_id)
        return
    await conn.execute(
        """
        insert into report_schedules (definition_id, due_at) values ($1, $2)
        on conflict (definition_id) do update set due_at = excluded.due_at
        """,
        definition_id,
        due_at,
    )


async def take_due(conn: WriteConn, now: datetime) -> tuple[str, datetime] | None:
    """Return what is due longest and since when, locked until the transaction ends; None when nothing is due."""
    row = await conn.fetchrow(
        """
        select definition_id, due_at from report_schedules
         where due_at <= $1 order by due_at, definition_id limit 1 for update skip locked
        """,
        now,
    )
    return None if row is None else (row["definition_id"], row["due_at"])


async def add_edition(
    conn: WriteConn, one: Edition, files: Sequence[ReportFile], tables: Sequence[ReportTable]
) -> None:
    """Add a finished report with its files and tables, after its statement was filed."""
    await conn.execute(
        """
        insert into report_editions (statement_id, version, definition_id, definition_version, edition, kind,
                                     start_at, end_at, completeness, job_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        one.statement_id,
        one.version,
        one.definition_id,
        one.definition_version,
        one.edition,
        one.kind.value,
        one.start,
        one.end,
        one.completeness,
        one.job_id,
    )
    await conn.executemany(
        """
        insert into report_files (statement_id, version, format, language, body, digest)
        values ($1, $2, $3, $4, $5, $6)
        """,
        [
            (one.statement_id, one.version, each.format.value, each.language.value, each.body, each.digest)
            for each in files
        ],
    )

    await conn.executemany(
        """
        insert into report_tables (statement_id, version, place, key, language, body) values ($1, $2, $3, $4, $5, $6)
        """,
        [
            (one.statement_id, one.version, place, each.key, each.language.value, each.body)
            for place, each in enumerate(tables)
        ],
    )


async def fetch_edition_of_job(conn: ReadConn | WriteConn, job_id: str) -> Edition | None:
    """Return what a job has made, None when it has not made anything yet."""
    row = await conn.fetchrow(
        """
        select e.statement_id, e.version, e.definition_id, e.definition_version, e.edition, e.kind, e.start_at,
               e.end_at, e.completeness, e.job_id, p.digest, p.published_at, p.published_by
          from report_editions e
          join published_statements p
            on (p.kind, p.statement_id, p.version) = (e.statement_kind, e.statement_id, e.version)
         where e.job_id = $1
        """,
        job_id,
    )
    return None if row is None else _edition(row)


async def fetch_edition(conn: ReadConn, statement_id: str, version: int) -> Edition | None:
    """Return a finished report, None when there is none."""
    row = await conn.fetchrow(
        """
        select e.statement_id, e.version, e.definition_id, e.definition_version, e.edition, e.kind, e.start_at,
               e.end_at, e.completeness, e.job_id, p.digest, p.published_at, p.published_by
          from report_editions e
          join published_statements p
            on (p.kind, p.statement_id, p.version) = (e.statement_kind, e.statement_id, e.version)
         where e.statement_id = $1 and e.version = $2
        """,
        statement_id,
        version,
    )
    return None if row is None else _edition(row)


async def fetch_editions(
    conn: ReadConn, *, definition_id: str | None, after: tuple[str, int] | None, limit: int
) -> list[Edition]:
    """Return finished reports, of one definition or all, by id and version, after one of them."""
    rows = await conn.fetch(
        """
        select e.statement_id, e.version, e.definition_id, e.definition_version, e.edition, e.kind, e.start_at,
               e.end_at, e.completeness, e.job_id, p.digest, p.published_at, p.published_by
          from report_editions e
          join published_statements p
            on (p.kind, p.statement_id, p.version) = (e.statement_kind, e.statement_id, e.version)
         where ($1::text is null or e.definition_id = $1)
           and ($2::text is null or (e.statement_id, e.version) > ($2, $3::integer))
         order by e.statement_id, e.version limit $4
        """,
        definition_id,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [_edition(row) for row in rows]


async def fetch_file(
    conn: ReadConn, statement_id: str, version: int, form: FileFormat, language: Language
) -> ReportFile | None:
    """Return a rendered report, None when there is none of that format and language."""
    row = await conn.fetchrow(
        """
        select format, language, body, digest from report_files
         where statement_id = $1 and version = $2 and format = $3 and language = $4
        """,
        statement_id,
        version,
        form.value,
        language.value,
    )
    if row is None:
        return None
    return ReportFile(
        format=FileFormat(row["format"]), language=Language(row["language"]), body=row["body"], digest=row["digest"]
    )


async def fetch_table(conn: ReadConn, statement_id: str, version: int, key: str, language: Language) -> bytes | None:
    """Return a table of a report as an Arrow file, None when there is none of that key."""
    found = await conn.fetchval(
        "select body from report_tables where statement_id = $1 and version = $2 and key = $3 and language = $4",
        statement_id,
        version,
        key,
        language.value,
    )
    return None if found is None else bytes(found)


async def fetch_table_keys(conn: ReadConn, statement_id: str, version: int) -> list[str]:
    """Return the keys of a report's tables, in their order."""
    rows = await conn.fetch(
        """
        select key from report_tables where statement_id = $1 and version = $2 group by key order by min(place)
        """,
        statement_id,
        version,
    )
    return [row["key"] for row in rows]


def _definition(row: Record) -> StoredDefinition:
    return StoredDefinition(
        definition=definition_of(row["document"], version=row["version"]),
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )


def _edition(row: Record) -> Edition:
    return Edition(
        statement_id=row["statement_id"],
        version=row["version"],
        definition_id=row["definition_id"],
        definition_version=row["definition_version"],
        edition=row["edition"],
        kind=ReportKind(row["kind"]),
        start=row["start_at"],
        end=row["end_at"],
        completeness=row["completeness"],
        job_id=row["job_id"],
        digest=row["digest"],
        made_at=row["published_at"],
        made_by=row["published_by"],
    )
