"""SQL of retrofit projects: documents by version, and adjustments; nothing is ever changed in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.savings.measurement.measured import Adjustment


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """One version of a project."""

    project_id: str
    version: int
    document: Mapping[str, Any]
    changed_by: str
    changed_at: datetime
    reason: str


async def add_version(conn: WriteConn, row: ProjectRow) -> bool:
    """Store a version of a project; return False if that version is there already."""
    done = await conn.fetchval(
        """
        insert into projects (project_id, version, document, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6)
        on conflict on constraint projects_pk do nothing
        returning version
        """,
        row.project_id,
        row.version,
        row.document,
        row.changed_by,
        row.changed_at,
        row.reason,
    )
    return done is not None


async def fetch_latest(conn: ReadConn | WriteConn, project_id: str) -> ProjectRow | None:
    """Return a project as it is."""
    row = await conn.fetchrow(
        """
        select project_id, version, document, changed_by, changed_at, reason from projects
         where project_id = $1 order by version desc limit 1
        """,
        project_id,
    )
    return None if row is None else _row(row)


async def fetch_history(conn: ReadConn, project_id: str) -> list[ProjectRow]:
    """Return every version of a project, oldest first."""
    rows = await conn.fetch(
        """
        select project_id, version, document, changed_by, changed_at, reason from projects
         where project_id = $1 order by version
        """,
        project_id,
    )
    return [_row(row) for row in rows]


async def fetch_all(conn: ReadConn, *, after: str, limit: int) -> list[ProjectRow]:
    """Return projects as they are, by id, from the one after ``after`` on."""
    rows = await conn.fetch(
        """
        select distinct on (project_id) project_id, version, document, changed_by, changed_at, reason from projects
         where project_id > $1 order by project_id, version desc limit $2
        """,
        after,
        limit,
    )
    return [_row(row) for row in rows]


async def add_adjustment(
    conn: WriteConn, adjustment_id: str, project_id: str, measure_id: str, one: Adjustment
) -> None:
    """Store an adjustment of a measure."""
    await conn.execute(
        """
        insert into project_adjustments
            (adjustment_id, project_id, measure_id, energy_kwh, reason, evidence, author, made_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        adjustment_id,
        project_id,
        measure_id,
        one.energy_kwh,
        one.reason,
        one.evidence,
        one.author,
        one.made_at,
    )


async def fetch_adjustments(conn: ReadConn, project_id: str) -> dict[str, Sequence[Adjustment]]:
    """Return the adjustments of a project by measure, oldest first."""
    rows = await conn.fetch(
        """
        select measure_id, energy_kwh, reason, evidence, author, made_at from project_adjustments
         where project_id = $1 order by made_at, adjustment_id
        """,
        project_id,
    )
    found: dict[str, list[Adjustment]] = {}
    for row in rows:
        found.setdefault(row["measure_id"], []).append(
            Adjustment(
                energy_kwh=row["energy_kwh"],
                reason=row["reason"],
                author=row["author"],
                made_at=row["made_at"],
                evidence=row["evidence"],
            )
        )
    return dict(found)


def _row(row: Record) -> ProjectRow:
    return ProjectRow(
        project_id=row["project_id"],
        version=row["version"],
        document=row["document"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
        reason=row["reason"],
    )
