"""SQL of efficiency standards: sector averages and quotas with the days on which they hold, only ever added to."""

from datetime import date, datetime

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.efficiency import Kind, Standard


async def lock_standards(conn: WriteConn) -> None:
    """Keep others from entering standards until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended('carbon.efficiency_standards', 79))")


async def add_standard(conn: WriteConn, one: Standard, *, by: str, at: datetime) -> None:
    """Store a version of a row."""
    document = {
        "kind": one.kind.value,
        "name": one.name,
        "name_zh": one.name_zh,
        "benchmark": one.benchmark,
        "levels": list(one.levels),
        "classes": list(one.classes),
        "source": one.source,
        "confidence": one.confidence,
    }
    await conn.execute(
        """
        insert into efficiency_standards
            (standard_id, valid_from, version, valid_to, document, recorded_by, recorded_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        one.standard_id,
        one.valid_from,
        one.version,
        one.valid_to,
        document,
        by,
        at,
    )


async def fetch_standards(
    conn: ReadConn | WriteConn, standard_id: str | None = None, *, on: date | None = None, limit: int = 1_000
) -> list[Standard]:
    """Return the newest version of each row, by id and first day; of one id, or those that hold on a day."""
    rows = await conn.fetch(
        """
        select * from (
            select distinct on (standard_id, valid_from) standard_id, valid_from, version, valid_to, document
              from efficiency_standards
             where $1::text is null or standard_id = $1
             order by standard_id, valid_from, version desc
        ) as newest
         where $2::date is null or (valid_from <= $2 and (valid_to is null or valid_to > $2))
         order by standard_id, valid_from
         limit $3
        """,
        standard_id,
        on,
        limit,
    )
    return [_standard(row) for row in rows]


def _standard(row: Record) -> Standard:
    document = row["document"]
    return Standard(
        standard_id=row["standard_id"],
        kind=Kind(document["kind"]),
        name=document["name"],
        name_zh=document["name_zh"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        benchmark=document["benchmark"],
        levels=tuple(document["levels"]),
        classes=tuple(document["classes"]),
        source=document["source"],
        confidence=document["confidence"],
        version=row["version"],
    )
