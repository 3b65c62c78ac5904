"""SQL of contracts and statements, and of the registers at both ends of a period."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import DeviceId
from services.carbon.documents.statements import content_of, document_of
from services.carbon.domain.epc.metering import Party
from services.carbon.domain.epc.statement import Signature, State, Statement


@dataclass(frozen=True, slots=True)
class ContractRow:
    """One version of a contract."""

    contract_id: str
    version: int
    document: Mapping[str, Any]
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Brief:
    """What is asked of other statements of a contract."""

    statement_id: str
    start: date
    end: date
    state: State
    supersedes: str | None


async def add_contract(conn: WriteConn, row: ContractRow) -> bool:
    """Store a version of a contract; return False if it is there already."""
    done = await conn.fetchval(
        """
        insert into epc_contracts (contract_id, version, document, changed_by, changed_at)
        values ($1, $2, $3, $4, $5) on conflict on constraint epc_contracts_pk do nothing returning version
        """,
        row.contract_id,
        row.version,
        row.document,
        row.changed_by,
        row.changed_at,
    )
    return done is not None


async def fetch_contract(
    conn: ReadConn | WriteConn, contract_id: str, version: int | None = None
) -> ContractRow | None:
    """Return a contract as it is, or as it was in a version."""
    row = await conn.fetchrow(
        """
        select contract_id, version, document, changed_by, changed_at from epc_contracts
         where contract_id = $1 and ($2::integer is null or version = $2) order by version desc limit 1
        """,
        contract_id,
        version,
    )
    return None if row is None else _contract(row)


async def fetch_contracts(conn: ReadConn, *, after: str, limit: int) -> list[ContractRow]:
    """Return contracts as they are, by id, from the one after ``after`` on."""
    rows = await conn.fetch(
        """
        select distinct on (contract_id) contract_id, version, document, changed_by, changed_at from epc_contracts
         where contract_id > $1 order by contract_id, version desc limit $2
        """,
        after,
        limit,
    )
    return [_contract(row) for row in rows]


async def lock_contract(conn: WriteConn, contract_id: str) -> None:
    """Keep others from adding statements to a contract until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 78))", contract_id)


async def add_statement(conn: WriteConn, one: Statement, by: str, at: datetime) -> None:
    """Store a new draft."""
    await _add_content(conn, one, by, at)
    content = one.content
    await conn.execute(
        """
        insert into epc_statements (statement_id, contract_id, first_day, end_day, supersedes, version, state,
                                    changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        content.statement_id,
        content.contract_id,
        content.start,
        content.end,
        content.supersedes,
        content.version,
        one.state.value,
        by,
        at,
    )


async def put_statement(conn: WriteConn, before: Statement, after: Statement, by: str, at: datetime) -> None:
    """Store what became of a statement that was fetched for change: another version, state, or signature."""
    if after.content.version != before.content.version:
        await _add_content(conn, after, by, at)
    for one in after.signatures[len(before.signatures) :]:
        await conn.execute(
            "insert into epc_signatures (statement_id, party, person, signed_at, digest) values ($1, $2, $3, $4, $5)",
            after.content.statement_id,
            one.party.value,
            one.person,
            one.signed_at,
            one.digest,
        )
    await conn.execute(
        """
        update epc_statements set version = $2, state = $3, withdrawn_reason = $4, changed_by = $5, changed_at = $6
         where statement_id = $1
        """,
        after.content.statement_id,
        after.content.version,
        after.state.value,
        after.withdrawn_reason,
        by,
        at,
    )


async def fetch_statement(
    conn: ReadConn | WriteConn, statement_id: str, *, for_change: bool = False
) -> Statement | None:
    """Return a statement; ``for_change`` keeps others from changing it until the transaction ends."""
    row = await conn.fetchrow(
        f"""
        select s.state, s.withdrawn_reason, c.content
          from epc_statements s join epc_contents c using (statement_id, version)
         where s.statement_id = $1 {"for update of s" if for_change else ""}
        """,  # noqa: S608  # one of two constants
        statement_id,
    )
    if row is None:
        return None
    signatures = await conn.fetch(
        "select party, person, signed_at, digest from epc_signatures where statement_id = $1 order by signed_at, party",
        statement_id,
    )
    return Statement(
        content=content_of(row["content"]),
        state=State(row["state"]),
        signatures=tuple(
            Signature(party=Party(one["party"]), person=one["person"], signed_at=one["signed_at"], digest=one["digest"])
            for one in signatures
        ),
        withdrawn_reason=row["withdrawn_reason"],
    )


async def fetch_briefs(conn: ReadConn | WriteConn, contract_id: str) -> list[Brief]:
    """Return every statement of a contract in brief, by period."""
    rows = await conn.fetch(
        """
        select statement_id, first_day, end_day, state, supersedes from epc_statements
         where contract_id = $1 order by first_day, statement_id
        """,
        contract_id,
    )
    return [
        Brief(row["statement_id"], row["first_day"], row["end_day"], State(row["state"]), row["supersedes"])
        for row in rows
    ]


async def fetch_ends(
    conn: ReadConn, device: DeviceId, point: str, start: datetime, end: datetime
) -> Sequence[tuple[datetime, float, float]]:
    """Return (time, shown [kWh], ratio) of the first and the last trusted register of ``[start, end]``."""
    rows = await conn.fetch(
        """
        (select source_time, shown, ratio from register_readings
          where device_id = $1 and point = $2 and source_time between $3 and $4 and not set_aside
          order by source_time limit 1)
        union
        (select source_time, shown, ratio from register_readings
          where device_id = $1 and point = $2 and source_time between $3 and $4 and not set_aside
          order by source_time desc limit 1)
        order by source_time
        """,
        device,
        point,
        start,
        end,
    )
    return [(row["source_time"], row["shown"], row["ratio"]) for row in rows]


async def fetch_ratios(conn: ReadConn, device: DeviceId, point: str, start: datetime, end: datetime) -> Sequence[float]:
    """Return the ratios that a meter's registers of ``[start, end]`` have to be multiplied with, each once."""
    rows = await conn.fetch(
        """
        select distinct ratio from register_readings
         where device_id = $1 and point = $2 and source_time between $3 and $4 and not set_aside order by ratio
        """,
        device,
        point,
        start,
        end,
    )
    return [row["ratio"] for row in rows]


async def _add_content(conn: WriteConn, one: Statement, by: str, at: datetime) -> None:
    content = one.content
    await conn.execute(
        """
        insert into epc_contents (statement_id, version, content, digest, made_by, made_at)
        values ($1, $2, $3, $4, $5, $6)
        """,
        content.statement_id,
        content.version,
        document_of(content),
        content.digest,
        by,
        at,
    )


def _contract(row: Record) -> ContractRow:
    return ContractRow(
        contract_id=row["contract_id"],
        version=row["version"],
        document=row["document"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )
