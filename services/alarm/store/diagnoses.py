"""SQL of fault localisation: what is to be looked at, and diagnoses."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.diagnosis.grouping import Member


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device that is to be looked at."""

    device_id: str
    asked: int
    """Rises with every request; a look that began before the last one does not settle it."""
    by_hand: str | None
    """Who asked, when a person did."""


@dataclass(frozen=True, slots=True)
class DiagnosisRow:
    """A diagnosis as it stands."""

    diagnosis_id: str
    device_id: str
    site_id: str
    cause: str
    common_cause: str
    confidence: str
    evidence: Sequence[JsonObject]
    unreachable: Sequence[JsonObject]
    also_possible: Sequence[str]
    card: Mapping[str, Any]
    began_at: datetime
    changed_at: datetime
    looked_at: datetime
    ended_at: datetime | None
    sequence: int
    alarm_id: str | None
    group_id: str | None
    told: bool
    """Whether others were told of it; what joins a group that is known already is not."""
    asked_by: str | None


@dataclass(frozen=True, slots=True)
class DiagnosisFilter:
    """Which diagnoses are asked for; None does not limit."""

    open: bool | None = None
    sites: Sequence[str] | None = None
    device_id: str | None = None
    causes: Sequence[str] | None = None
    group_id: str | None = None
    began_from: datetime | None = None
    began_before: datetime | None = None


# The list of columns is ours; nothing from outside gets into a statement.
_ROW = ", ".join(DiagnosisRow.__dataclass_fields__)


# What is to be looked at


async def want(
    conn: WriteConn, device_ids: Collection[str], *, due_at: datetime, pause: timedelta, by_hand: str | None = None
) -> None:
    """Ask for looks at devices.

    Args:
        conn: The transaction.
        device_ids: The devices.
        due_at: When at the earliest; an earlier wish stands.
        pause: So long after the last look at an open diagnosis, unless a person asks.
        by_hand: Who asks, when a person does.
    """
    await conn.execute(
        """
        insert into diagnosis_wanted as w (device_id, due_at, by_hand)
        select d.device_id,
               case when $4::text is null then greatest($2::timestamptz, o.looked_at + $3::interval) else $2 end, $4
          from unnest($1::text[]) as d (device_id)
          left join diagnoses o on o.device_id = d.device_id and o.ended_at is null
         order by d.device_id
            on conflict (device_id) do update set
               due_at = least(w.due_at, excluded.due_at), asked = w.asked + 1,
               by_hand = coalesce(excluded.by_hand, w.by_hand)
        """,
        sorted(set(device_ids)),
        due_at,
        pause,
        by_hand,
    )


async def want_open(conn: WriteConn, device_ids: Collection[str], *, due_at: datetime) -> None:
    """Ask for looks at those devices that have an open diagnosis or are waiting for a look: they were heard."""
    await conn.execute(
        """
        insert into diagnosis_wanted as w (device_id, due_at)
        select d.device_id, $2::timestamptz from unnest($1::text[]) as d (device_id)
         where exists (select from diagnoses o where o.device_id = d.device_id and o.ended_at is null)
            or exists (select from diagnosis_wanted x where x.device_id = d.device_id)
         order by d.device_id
            on conflict (device_id) do update set due_at = least(w.due_at, excluded.due_at), asked = w.asked + 1
        """,
        sorted(set(device_ids)),
        due_at,
    )


async def fetch_due(conn: ReadConn, now: datetime, limit: int) -> list[Wanted]:
    """Return what is to be looked at now, what people asked for first."""
    rows = await conn.fetch(
        """
        select device_id, asked, by_hand from diagnosis_wanted where due_at <= $1
         order by by_hand is null, due_at, device_id limit $2
        """,
        now,
        limit,
    )
    return [Wanted(**dict(row)) for row in rows]


async def settle(conn: WriteConn, wanted: Wanted, next_at: datetime | None) -> None:
    """Note that a look is done, unless somebody has asked again since it began.

    Args:
        conn: The transaction.
        wanted: What was asked for.
        next_at: When to look again; None: when somebody asks.
    """
    if next_at is None:
        await conn.execute(
            "delete from diagnosis_wanted where device_id = $1 and asked = $2", wanted.device_id, wanted.asked
        )
    else:
        await conn.execute(
            """
            update diagnosis_wanted set due_at = $3, by_hand = null
             where device_id = $1 and asked = $2
            """,
            wanted.device_id,
            wanted.asked,
            next_at,
        )


# Diagnoses


async def lock_device(conn: WriteConn, device_id: str) -> None:
    """Wait until nobody else writes what a look at this device has found; held to the end of the transaction."""
    await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _DEVICE_LOCK, device_id)


async def lock_cause(conn: WriteConn, common_cause: str) -> None:
    """Wait until nobody else begins a diagnosis of this common cause; taken after ``lock_device``."""
    await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _CAUSE_LOCK, common_cause)


_DEVICE_LOCK, _CAUSE_LOCK = 0x64_69_61_67, 0x64_69_61_63


async def fetch_open(conn: WriteConn, device_id: str) -> DiagnosisRow | None:
    """Return the open diagnosis of a device and keep others from changing it in this transaction."""
    row = await conn.fetchrow(
        f"select {_ROW} from diagnoses where device_id = $1 and ended_at is null for update",  # noqa: S608
        device_id,
    )
    return None if row is None else DiagnosisRow(**dict(row))


async def fetch_diagnosis(conn: ReadConn, diagnosis_id: str) -> DiagnosisRow | None:
    """Return a diagnosis, None when there is none."""
    row = await conn.fetchrow(f"select {_ROW} from diagnoses where diagnosis_id = $1", diagnosis_id)  # noqa: S608
    return None if row is None else DiagnosisRow(**dict(row))


async def fetch_diagnoses(
    conn: ReadConn, wanted: DiagnosisFilter, *, after: tuple[datetime, str] | None, limit: int
) -> list[DiagnosisRow]:
    """Return diagnoses, the youngest first.

    Args:
        conn: Where to read.
        wanted: The filter.
        after: Begin and id of the last one of the page before.
        limit: How many at most.
    """
    rows = await conn.fetch(
        f"""
        select {_ROW} from diagnoses
         where ($1::boolean is null or (ended_at is null) = $1)
           and ($2::text[] is null or site_id = any($2))
           and ($3::text is null or device_id = $3)
           and ($4::text[] is null or cause = any($4))
           and ($5::text is null or group_id = $5)
           and ($6::timestamptz is null or began_at >= $6)
           and ($7::timestamptz is null or began_at < $7)
           and ($8::timestamptz is null or (began_at, diagnosis_id) < ($8, $9::text))
         order by began_at desc, diagnosis_id desc
         limit $10
        """,  # noqa: S608
        wanted.open,
        None if wanted.sites is None else list(wanted.sites),
        wanted.device_id,
        None if wanted.causes is None else list(wanted.causes),
        wanted.group_id,
        wanted.began_from,
        wanted.began_before,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [DiagnosisRow(**dict(row)) for row in rows]


async def put_diagnosis(conn: WriteConn, row: DiagnosisRow) -> None:
    """Write a diagnosis, a new one or what it is from now on."""
    await conn.execute(
        f"""
        insert into diagnoses ({_ROW})
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
            on conflict (diagnosis_id) do update set
               cause = excluded.cause, common_cause = excluded.common_cause, confidence = excluded.confidence,
               evidence = excluded.evidence, unreachable = excluded.unreachable,
               also_possible = excluded.also_possible, card = excluded.card, changed_at = excluded.changed_at,
               looked_at = excluded.looked_at, ended_at = excluded.ended_at, sequence = excluded.sequence,
               alarm_id = excluded.alarm_id, group_id = excluded.group_id, told = excluded.told
        """,  # noqa: S608
        row.diagnosis_id,
        row.device_id,
        row.site_id,
        row.cause,
        row.common_cause,
        row.confidence,
        list(row.evidence),
        list(row.unreachable),
        list(row.also_possible),
        dict(row.card),
        row.began_at,
        row.changed_at,
        row.looked_at,
        row.ended_at,
        row.sequence,
        row.alarm_id,
        row.group_id,
        row.told,
        row.asked_by,
    )


async def fetch_members(conn: WriteConn, common_cause: str, *, since: datetime) -> list[Member]:
    """Return the open diagnoses of a common cause that began since then; they are locked, in order of their ids."""
    rows = await conn.fetch(
        """
        select diagnosis_id, began_at, group_id from diagnoses
         where common_cause = $1 and began_at >= $2 and ended_at is null
         order by diagnosis_id for update
        """,
        common_cause,
        since,
    )
    return [Member(**dict(row)) for row in rows]


async def set_group(conn: WriteConn, diagnosis_ids: Collection[str], group_id: str) -> None:
    """Put diagnoses into a group."""
    await conn.execute(
        "update diagnoses set group_id = $2 where diagnosis_id = any($1::text[])", sorted(diagnosis_ids), group_id
    )


async def fetch_group_sizes(conn: ReadConn, group_ids: Collection[str]) -> dict[str, int]:
    """Return how many diagnoses, open or ended, each group has."""
    if not group_ids:
        return {}
    rows = await conn.fetch(
        "select group_id, count(*) as size from diagnoses where group_id = any($1::text[]) group by group_id",
        sorted(group_ids),
    )
    return {row["group_id"]: row["size"] for row in rows}


# Codes of receivers


async def fetch_receiver_codes(conn: ReadConn, receiver: str) -> dict[str, str]:
    """Return the codes that a receiver has in place of ours, by cause."""
    rows = await conn.fetch("select cause, code from receiver_codes where receiver = $1 order by cause", receiver)
    return {row["cause"]: row["code"] for row in rows}


async def put_receiver_codes(
    conn: WriteConn, receiver: str, codes: Mapping[str, str], *, changed_by: str, at: datetime
) -> None:
    """Write the codes of a receiver, in place of what it had."""
    await conn.execute("delete from receiver_codes where receiver = $1", receiver)
    await conn.executemany(
        "insert into receiver_codes (receiver, cause, code, changed_by, changed_at) values ($1, $2, $3, $4, $5)",
        [(receiver, cause, code, changed_by, at) for cause, code in sorted(codes.items())],
    )
