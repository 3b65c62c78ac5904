"""SQL of own factors, certificates and published inventories. Rows are only ever added."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal

from asyncpg import Record, UniqueViolationError

from libs.common.db import ReadConn, WriteConn
from services.carbon.domain.emissions.certificates import Certificate, InstrumentKind, Registered
from services.carbon.domain.factors import EmissionFactor, Family
from services.carbon.domain.factors.library import RevisionTaken
from services.carbon.domain.statements import Stated, StatementKind


async def add_factor(conn: WriteConn, row: EmissionFactor) -> None:
    """Store a revision of an own factor, to be attested.

    Raises:
        RevisionTaken: There is one already.
    """
    try:
        await conn.execute(
            """
            with added as (
                insert into emission_factors (factor_id, revision, series, family, category, region, data_year, value,
                                              unit, gas, source, source_year, known_from, confidence, name_en, name_zh,
                                              withdrawn, evidence, supplier, entered_by, entered_at)
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
                returning factor_id, revision
            )
            insert into attest_pending (kind, subject, at, version)
            select 'factor', 'factor:' || factor_id, timestamptz '1970-01-01 00:00:00+00', revision from added
            """,
            row.factor_id,
            row.revision,
            row.series,
            row.family.value,
            row.category,
            row.region,
            row.data_year,
            row.value,
            row.unit,
            row.gas,
            row.source,
            row.source_year,
            row.known_from,
            row.confidence,
            row.name_en,
            row.name_zh,
            row.withdrawn,
            row.evidence,
            row.supplier,
            row.entered_by,
            row.entered_at,
        )
    except UniqueViolationError as exc:
        raise RevisionTaken(
            f"factor {row.factor_id} revision {row.revision} exists already; add a new revision",
            message_zh=f"排放因子 {row.factor_id} 的第 {row.revision} 版已存在,请新增版本",
            factor_id=row.factor_id,
            revision=row.revision,
        ) from exc


async def fetch_factors(conn: ReadConn | WriteConn) -> list[EmissionFactor]:
    """Return all revisions of all own factors, by id and revision."""
    rows = await conn.fetch(
        """
        select factor_id, revision, series, family, category, region, data_year, value, unit, gas, source, source_year,
               known_from, confidence, name_en, name_zh, withdrawn, evidence, supplier, entered_by, entered_at
          from emission_factors order by factor_id, revision
        """
    )
    return [_factor(row) for row in rows]


async def fetch_revisions(
    conn: ReadConn | WriteConn, names: Collection[tuple[str, int]]
) -> dict[tuple[str, int], EmissionFactor]:
    """Return revisions of own factors by id and revision; those that are not there are left out."""
    rows = await conn.fetch(
        """
        select factor_id, revision, series, family, category, region, data_year, value, unit, gas, source, source_year,
               known_from, confidence, name_en, name_zh, withdrawn, evidence, supplier, entered_by, entered_at
          from unnest($1::text[], $2::integer[]) as n(factor_id, revision)
          join emission_factors using (factor_id, revision)
        """,
        [name[0] for name in names],
        [name[1] for name in names],
    )
    return {(row["factor_id"], row["revision"]): _factor(row) for row in rows}


async def add_certificate(conn: WriteConn, one: Certificate, *, revision: int, by: str, at: datetime) -> bool:
    """Store a revision of a certificate; return whether it was new."""
    rows = await conn.fetch(
        """
        insert into certificates (number, revision, kind, market, vintage, technology, beneficiary, cancelled_on,
                                  sold_with_power, kwh, evidence, entered_by, entered_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
            on conflict on constraint certificates_pk do nothing
        returning number
        """,
        one.number,
        revision,
        one.kind.value,
        one.market,
        one.vintage,
        one.technology,
        one.beneficiary,
        one.cancelled_on,
        one.sold_with_power,
        Decimal(str(one.kwh)),
        one.evidence,
        by,
        at,
    )
    return bool(rows)


async def fetch_certificates(conn: ReadConn | WriteConn, numbers: Sequence[str]) -> list[Registered]:
    """Return the newest revision of certificates by their numbers; those that are not there are left out."""
    rows = await conn.fetch(
        """
        select distinct on (number)
               number, revision, kind, market, vintage, technology, beneficiary, cancelled_on, sold_with_power, kwh,
               evidence
          from certificates where number = any($1::text[]) order by number, revision desc
        """,
        list(numbers),
    )
    return [_registered(row) for row in rows]


async def use_certificates(
    conn: WriteConn, used: Sequence[Registered], *, inventory_id: str, by: str, at: datetime
) -> dict[str, str]:
    """Book certificates for an inventory; return who holds each of them now, by number.

    A number that another inventory holds stays with it: the caller refuses, and its transaction takes the rest back.
    """
    # In one order for everybody, so that two inventories that want the same ones wait instead of deadlocking.
    await conn.execute(
        """
        insert into certificate_uses (number, revision, inventory_id, used_at, used_by)
        select number, revision, $3, $4, $5
          from unnest($1::text[], $2::integer[]) as n(number, revision) order by number
            on conflict on constraint certificate_uses_pk do nothing
        """,
        [one.certificate.number for one in used],
        [one.revision for one in used],
        inventory_id,
        at,
        by,
    )
    return await fetch_uses(conn, [one.certificate.number for one in used])


async def fetch_uses(conn: ReadConn | WriteConn, numbers: Sequence[str]) -> dict[str, str]:
    """Return which inventory uses each certificate; those that are not used are left out."""
    rows = await conn.fetch(
        "select number, inventory_id from certificate_uses where number = any($1::text[])", list(numbers)
    )
    return {row["number"]: row["inventory_id"] for row in rows}


async def lock_statement(conn: WriteConn, kind: StatementKind, statement_id: str) -> None:
    """Keep other publications of the statement out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 78))", f"{kind} {statement_id}")


async def last_version(conn: ReadConn | WriteConn, kind: StatementKind, statement_id: str) -> int:
    """Return the newest published version of a statement, 0 when there is none."""
    version = await conn.fetchval(
        "select max(version) from published_statements where kind = $1 and statement_id = $2", kind.value, statement_id
    )
    return version or 0


async def add_statement(conn: WriteConn, one: Stated, statement: str) -> None:
    """Store a published version, to be attested with the newest head: what its figures came of stands below it."""
    await conn.execute(
        """
        with added as (
            insert into published_statements (kind, statement_id, version, name, statement, digest, table_digest,
                                              known_on, published_at, published_by)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            returning kind, statement_id, version
        ), head as (
            select json_build_object('tree', tree, 'size', size, 'root', encode(root, 'hex')) as said
              from attest_heads order by tree desc, size desc, final desc limit 1
        )
        insert into attest_pending (kind, subject, at, version, facts)
        select 'report', 'report:' || kind || '/' || statement_id, timestamptz '1970-01-01 00:00:00+00', version,
               json_build_object('inputs', coalesce((select json_agg(said) from head), '[]'))::text
          from added
        """,
        one.kind.value,
        one.statement_id,
        one.version,
        one.name,
        statement,
        one.digest,
        one.table_digest,
        one.known_on,
        one.published_at,
        one.published_by,
    )


async def fetch_statement(
    conn: ReadConn, kind: StatementKind, statement_id: str, version: int
) -> tuple[str, str] | None:
    """Return the text of a published version and its digest, None when there is none."""
    row = await conn.fetchrow(
        """
        select statement, digest from published_statements
         where kind = $1 and statement_id = $2 and version = $3
        """,
        kind.value,
        statement_id,
        version,
    )
    return None if row is None else (row["statement"], row["digest"])


async def fetch_stated_texts(
    conn: ReadConn | WriteConn, names: Collection[tuple[str, str, int]]
) -> list[tuple[Stated, str]]:
    """Return published versions by kind, id and version, each with the SHA-256 of the text that stands there now."""
    rows = await conn.fetch(
        """
        select kind, statement_id, version, name, digest, table_digest, known_on, published_at, published_by,
               encode(sha256(convert_to(statement, 'UTF8')), 'hex') as text_digest
          from unnest($1::text[], $2::text[], $3::integer[]) as n(kind, statement_id, version)
          join published_statements using (kind, statement_id, version)
        """,
        [name[0] for name in names],
        [name[1] for name in names],
        [name[2] for name in names],
    )
    return [(_stated(row), row["text_digest"]) for row in rows]


async def fetch_stated(conn: ReadConn, kind: StatementKind, after: tuple[str, int] | None, limit: int) -> list[Stated]:
    """Return published versions without their texts, by id and version, after one of them."""
    rows = await conn.fetch(
        """
        select kind, statement_id, version, name, digest, table_digest, known_on, published_at, published_by
          from published_statements
         where kind = $1 and ($2::text is null or (statement_id, version) > ($2, $3::integer))
         order by statement_id, version limit $4
        """,
        kind.value,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [_stated(row) for row in rows]


def _stated(row: Record) -> Stated:
    return Stated(
        kind=StatementKind(row["kind"]),
        statement_id=row["statement_id"],
        version=row["version"],
        name=row["name"],
        digest=row["digest"],
        table_digest=row["table_digest"],
        known_on=row["known_on"],
        published_at=row["published_at"],
        published_by=row["published_by"],
    )


def _registered(row: Record) -> Registered:
    return Registered(
        Certificate(
            number=row["number"],
            kind=InstrumentKind(row["kind"]),
            market=row["market"],
            vintage=row["vintage"],
            technology=row["technology"],
            beneficiary=row["beneficiary"],
            cancelled_on=row["cancelled_on"],
            sold_with_power=row["sold_with_power"],
            kwh=float(row["kwh"]),
            evidence=row["evidence"],
        ),
        row["revision"],
    )


def _factor(row: Record) -> EmissionFactor:
    return EmissionFactor(
        factor_id=row["factor_id"],
        revision=row["revision"],
        series=row["series"],
        family=Family(row["family"]),
        category=row["category"],
        region=row["region"],
        data_year=row["data_year"],
        value=row["value"],
        unit=row["unit"],
        gas=row["gas"],
        source=row["source"],
        source_year=row["source_year"],
        known_from=row["known_from"],
        confidence=row["confidence"],
        name_en=row["name_en"],
        name_zh=row["name_zh"],
        withdrawn=row["withdrawn"],
        evidence=row["evidence"],
        supplier=row["supplier"],
        entered_by=row["entered_by"],
        entered_at=row["entered_at"],
    )
