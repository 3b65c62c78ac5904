"""SQL of records that come in: deliveries, their rows, and the registers that periods make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.export.domain.records import Period, Refusal

Conn = ReadConn | WriteConn
GAUGES = "gauges"


class RowState(StrEnum):
    """What came of a row."""

    WAITING = "waiting"
    TAKEN = "taken"
    UNCHANGED = "unchanged"
    """Its home says so already."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Rows that came together."""

    delivery_id: str
    sender: str
    name: str
    """As the sender calls it; one name is one delivery."""
    digest: str
    received_at: datetime
    row_count: int
    job_id: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row and what came of it."""

    line: int
    fields: Mapping[str, Any]
    state: RowState
    problem: str | None
    problem_zh: str | None


_DELIVERY = """
    select delivery_id, sender, name, digest, received_at, row_count, job_id, attempts, next_attempt_at, finished_at,
           error
      from record_deliveries
"""


async def add_delivery(conn: WriteConn, one: Delivery) -> bool:
    """Add a delivery; return False when its sender has sent one of that name before."""
    found = await conn.fetchval(
        """
        insert into record_deliveries (delivery_id, sender, name, digest, received_at, row_count, next_attempt_at)
        values ($1, $2, $3, $4, $5, $6, $5)
        on conflict on constraint record_deliveries_once do nothing returning delivery_id
        """,
        one.delivery_id,
        one.sender,
        one.name,
        one.digest,
        one.received_at,
        one.row_count,
    )
    return found is not None


async def add_rows(
    conn: WriteConn, delivery_id: str, rows: Sequence[tuple[int, Mapping[str, Any]]], refused: Mapping[int, Refusal]
) -> None:
    """Add the rows of a delivery; those that are refused at once with their reason."""
    await conn.executemany(
        """
        insert into record_rows (delivery_id, line, fields, state, problem, problem_zh)
        values ($1, $2, $3, $4, $5, $6)
        """,
        [
            (
                delivery_id, line, dict(fields), RowState.REFUSED if line in refused else RowState.WAITING,
                refused[line].problem if line in refused else None,
                refused[line].problem_zh if line in refused else None,
            )
            for line, fields in rows
        ],
    )  # fmt: skip


async def fetch_named(conn: Conn, sender: str, name: str) -> Delivery | None:
    """Return a delivery by what its sender calls it."""
    row = await conn.fetchrow(_DELIVERY + " where sender = $1 and name = $2", sender, name)
    return None if row is None else _delivery(row)


async def fetch_delivery(conn: Conn, delivery_id: str) -> Delivery | None:
    """Return a delivery."""
    row = await conn.fetchrow(_DELIVERY + " where delivery_id = $1", delivery_id)
    return None if row is None else _delivery(row)


async def fetch_deliveries(conn: Conn, *, before: tuple[datetime, str] | None, limit: int) -> list[Delivery]:
    """Return deliveries, the youngest first."""
    rows = await conn.fetch(
        _DELIVERY
        + """
         where $1::timestamptz is null or (received_at, delivery_id) < ($1, $2::text)
         order by received_at desc, delivery_id desc limit $3
        """,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_delivery(row) for row in rows]


async def count_rows(conn: Conn, delivery_ids: Sequence[str]) -> dict[str, dict[RowState, int]]:
    """Return how many rows are in which state, by delivery."""
    found: dict[str, dict[RowState, int]] = {one: {} for one in delivery_ids}
    rows = await conn.fetch(
        "select delivery_id, state, count(*) as count from record_rows where delivery_id = any($1) group by 1, 2",
        list(delivery_ids),
    )
    for row in rows:
        found[row["delivery_id"]][RowState(row["state"])] = row["count"]
    return found


async def fetch_rows(
    conn: Conn, delivery_id: str, *, state: RowState | None, after: int, limit: int
) -> list[StoredRow]:
    """Return rows of a delivery, in order."""
    rows = await conn.fetch(
        """
        select line, fields, state, problem, problem_zh from record_rows
         where delivery_id = $1 and line > $2 and ($3::text is null or state = $3) order by line limit $4
        """,
        delivery_id,
        after,
        None if state is None else state.value,
        limit,
    )
    return [
        StoredRow(row["line"], row["fields"], RowState(row["state"]), row["problem"], row["problem_zh"]) for row in rows
    ]


async def save_lines(conn: WriteConn, delivery_id: str, lines: Sequence[int], state: RowState) -> None:
    """Note what came of rows that wait."""
    await conn.execute(
        "update record_rows set state = $3 where delivery_id = $1 and line = any($2) and state = 'waiting'",
        delivery_id,
        list(lines),
        state.value,
    )


async def save_refused(conn: WriteConn, delivery_id: str, refused: Sequence[Refusal]) -> None:
    """Note why rows that waited are not taken."""
    await conn.executemany(
        """
        update record_rows set state = 'refused', problem = $3, problem_zh = $4
         where delivery_id = $1 and line = $2 and state = 'waiting'
        """,
        [(delivery_id, one.line, one.problem, one.problem_zh) for one in refused],
    )


# ---- the work ------------------------------------------------------------------------------------


async def release_ended_jobs(conn: WriteConn, again_at: datetime, error: str) -> None:
    """Let deliveries be worked on again, later, whose job has ended without finishing them."""
    await conn.execute(
        """
        update record_deliveries d set job_id = null, attempts = attempts + 1, next_attempt_at = $1, error = $2
         where d.finished_at is null and d.job_id is not null
           and not exists (select from jobs j where j.id = d.job_id and j.state in ('queued', 'running'))
        """,
        again_at,
        error,
    )


async def fetch_to_take(conn: WriteConn, now: datetime) -> str | None:
    """Return the oldest unfinished delivery when it may be worked on: registers follow the order of deliveries."""
    row = await conn.fetchrow(
        """
        select delivery_id, job_id is null and next_attempt_at <= $1 as is_free from record_deliveries
         where finished_at is null order by received_at, delivery_id limit 1 for update
        """,
        now,
    )
    return row["delivery_id"] if row is not None and row["is_free"] else None


async def put_job(conn: WriteConn, delivery_id: str, job_id: str) -> None:
    """Note the job that works on a delivery."""
    await conn.execute("update record_deliveries set job_id = $2 where delivery_id = $1", delivery_id, job_id)


async def put_off(conn: WriteConn, delivery_id: str, job_id: str, next_attempt_at: datetime, error: str) -> None:
    """Note that somebody was away, and when a delivery is tried again."""
    await conn.execute(
        """
        update record_deliveries set job_id = null, attempts = attempts + 1, next_attempt_at = $3, error = $4
         where delivery_id = $1 and job_id = $2
        """,
        delivery_id,
        job_id,
        next_attempt_at,
        error,
    )


async def finish(conn: WriteConn, delivery_id: str, now: datetime) -> None:
    """Note that something came of every row."""
    await conn.execute(
        """
        update record_deliveries set finished_at = $2, job_id = null, next_attempt_at = null, error = null
         where delivery_id = $1
        """,
        delivery_id,
        now,
    )


async def fetch_untold(conn: Conn, sender: str, *, limit: int) -> list[Delivery]:
    """Return finished deliveries whose sender has not been told what came of them."""
    rows = await conn.fetch(
        _DELIVERY + " where sender = $1 and finished_at is not null and told_at is null order by finished_at limit $2",
        sender,
        limit,
    )
    return [_delivery(row) for row in rows]


async def save_told(conn: WriteConn, delivery_id: str, now: datetime) -> None:
    """Note that a sender was told."""
    await conn.execute("update record_deliveries set told_at = $2 where delivery_id = $1", delivery_id, now)


async def drop_old(conn: WriteConn, before: datetime, *, limit: int) -> int:
    """Remove deliveries that were finished long ago, with their rows; return how many."""
    return len(
        await conn.fetch(
            """
            delete from record_deliveries where delivery_id in (
                select delivery_id from record_deliveries where finished_at < $1 order by finished_at limit $2)
            returning delivery_id
            """,
            before,
            limit,
        )
    )


# ---- registers -----------------------------------------------------------------------------------


async def holds(conn: WriteConn, device_id: str, what: str) -> str:
    """Return what a device holds, a register by its point or gauges; one that holds nothing yet holds this."""
    await conn.execute(
        "insert into record_devices (device_id, holds) values ($1, $2) on conflict do nothing", device_id, what
    )
    return str(await conn.fetchval("select holds from record_devices where device_id = $1", device_id))


_PERIOD = "select start_at, end_at, quantity, register, is_first, sent from record_periods where device_id = $1"


@dataclass(frozen=True, slots=True)
class StoredPeriod:
    """A period, and whether ingest has it."""

    period: Period
    is_first: bool
    sent: bool


async def fetch_last_period(conn: Conn, device_id: str) -> Period | None:
    """Return the youngest period of a device."""
    row = await conn.fetchrow(_PERIOD + " order by start_at desc limit 1", device_id)
    return None if row is None else _period(row).period


async def fetch_period(conn: Conn, device_id: str, start: datetime) -> StoredPeriod | None:
    """Return the period of a device that begins at a time."""
    row = await conn.fetchrow(_PERIOD + " and start_at = $2", device_id, start)
    return None if row is None else _period(row)


async def add_period(conn: WriteConn, device_id: str, one: Period, *, is_first: bool) -> None:
    """Add a period behind the last one."""
    await conn.execute(
        """
        insert into record_periods (device_id, start_at, end_at, quantity, register, is_first)
        values ($1, $2, $3, $4, $5, $6)
        """,
        device_id,
        one.start,
        one.end,
        one.quantity,
        one.register,
        is_first,
    )


async def save_sent(conn: WriteConn, periods: Sequence[tuple[str, datetime]]) -> None:
    """Note that ingest has periods, by device and start."""
    await conn.executemany(
        "update record_periods set sent = true where device_id = $1 and start_at = $2", list(periods)
    )


async def drop_old_periods(conn: WriteConn, before: datetime) -> None:
    """Remove periods that ended long ago and have another one behind them."""
    await conn.execute(
        """
        delete from record_periods p
         where p.end_at < $1
           and exists (select from record_periods q where q.device_id = p.device_id and q.start_at > p.start_at)
        """,
        before,
    )


def _period(row: Record) -> StoredPeriod:
    return StoredPeriod(
        Period(row["start_at"], row["end_at"], row["quantity"], row["register"]), row["is_first"], row["sent"]
    )


def _delivery(row: Record) -> Delivery:
    return Delivery(**dict(row))
