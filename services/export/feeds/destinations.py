"""SQL of destinations: who is told a feed, how far each is, and what became of every batch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from libs.common.contracts.delivery import DeliveryState
from libs.common.db import ReadConn, WriteConn
from services.export.domain.callbacks import Outcome
from services.export.domain.feeds import Destination, DestinationKind, DestinationState, Egress, Format, Standing

Conn = ReadConn | WriteConn

_DESTINATION = """
    select id, feed_id, name, kind, address, egress, format, timeout_s, min_interval_s, party, state,
           first_number, next_number, failures, failing_since, not_before, error, sealed, version,
           created_at, updated_at
      from feed_destinations
"""


@dataclass(frozen=True, slots=True)
class Todo:
    """What a destination is to be told now."""

    number: int
    again: bool
    """Whether somebody has asked for it once more; it is besides what comes next."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a batch at a destination."""

    number: int
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    took_s: float | None
    first_at: datetime
    last_at: datetime


async def put(conn: WriteConn, destination: Destination) -> None:
    """Create a destination, or write what people set of it; how far it is stays."""
    await conn.execute(
        """
        insert into feed_destinations (id, feed_id, name, kind, address, egress, format, timeout_s, min_interval_s,
                                       state, first_number, next_number, sealed, created_at, updated_at, party)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, $14, $15)
        on conflict (id) do update
           set name = excluded.name, kind = excluded.kind, address = excluded.address, egress = excluded.egress,
               format = excluded.format, timeout_s = excluded.timeout_s, min_interval_s = excluded.min_interval_s,
               state = excluded.state, sealed = excluded.sealed, party = excluded.party,
               updated_at = excluded.updated_at,
               version = feed_destinations.version + 1, not_before = null
        """,
        destination.id,
        destination.feed_id,
        destination.name,
        destination.kind,
        dict(destination.address),
        asdict(destination.egress),
        # Of a format the order of the columns counts, which jsonb does not keep.
        {**asdict(destination.format), "columns": [list(pair) for pair in destination.format.columns.items()]},
        destination.timeout_s,
        destination.min_interval_s,
        destination.state,
        destination.next_number,
        destination.sealed,
        destination.created_at,
        destination.updated_at,
        destination.party,
    )


async def fetch(conn: Conn, destination_id: str) -> Destination | None:
    """Return one destination."""
    row = await conn.fetchrow(_DESTINATION + " where id = $1 and removed_at is null", destination_id)
    return None if row is None else _destination(row)


async def lock(conn: WriteConn, destination_id: str) -> Destination | None:
    """Return one destination, and hold its row until the transaction ends."""
    row = await conn.fetchrow(
        _DESTINATION + " where id = $1 and removed_at is null for no key update", destination_id
    )  # fmt: skip
    return None if row is None else _destination(row)


async def fetch_of(conn: Conn, feed_id: str) -> list[Destination]:
    """Return the destinations of a feed."""
    rows = await conn.fetch(
        _DESTINATION + " where feed_id = $1 and removed_at is null order by created_at, id", feed_id
    )
    return [_destination(row) for row in rows]


async def fetch_active(conn: Conn) -> list[Destination]:
    """Return the destinations that are told."""
    rows = await conn.fetch(_DESTINATION + " where state = 'active' and removed_at is null order by id")
    return [_destination(row) for row in rows]


async def remove(conn: WriteConn, destination_id: str, now: datetime) -> None:
    """Take a destination out of use."""
    await conn.execute("update feed_destinations set removed_at = $2 where id = $1", destination_id, now)


async def pause_of(conn: WriteConn, owner: str, reason: str) -> list[str]:
    """Pause the destinations of an owner's feeds; return the ids of those that were told."""
    rows = await conn.fetch(
        """
        update feed_destinations d set state = 'paused', error = $2, version = d.version + 1
          from feeds f
         where f.id = d.feed_id and f.owner = $1 and d.removed_at is null and d.state <> 'paused'
        returning d.id
        """,
        owner,
        reason,
    )
    return sorted(row["id"] for row in rows)


async def todo(conn: Conn, destination: Destination) -> Todo | None:
    """Return what a destination is to be told now: first what was asked for once more, None when it has everything."""
    again = await conn.fetchval(
        "select min(number) from feed_resends where destination_id = $1 and number < $2",
        destination.id,
        destination.next_number,
    )
    if again is not None:
        return Todo(again, again=True)
    there = await conn.fetchval(
        "select true from feed_batches where feed_id = $1 and number = $2",
        destination.feed_id,
        destination.next_number,
    )
    return Todo(destination.next_number, again=False) if there else None


async def due(conn: Conn, now: datetime) -> list[str]:
    """Return the destinations that have something to be told, and wait for nothing."""
    rows = await conn.fetch(
        """
        select d.id from feed_destinations d join feeds f on f.id = d.feed_id
         where d.state = 'active' and d.removed_at is null and (d.not_before is null or d.not_before <= $1)
           and (d.next_number <= f.last_number or exists (select from feed_resends r where r.destination_id = d.id))
        """,
        now,
    )
    return [row["id"] for row in rows]


async def save(
    conn: WriteConn, destination: Destination, told: Todo, standing: Standing, outcome: Outcome, now: datetime
) -> bool:
    """Write what became of an attempt; return whether it was still the destination's to make."""
    state = DeliveryState.DELIVERED if standing.taken else _failed_state(outcome)
    moved = await conn.fetchval(
        """
        update feed_destinations
           set next_number = next_number + $3, failures = $4, failing_since = $5, not_before = $6, error = $7
         where id = $1 and next_number = $2 and removed_at is null
        returning true
        """,
        destination.id,
        destination.next_number,
        int(standing.taken and not told.again),
        standing.failures,
        standing.failing_since,
        standing.not_before,
        standing.error,
    )
    if moved is None:
        return False
    await _log(conn, destination.id, told.number, state, outcome, now)
    if told.again and standing.taken:
        await conn.execute(
            "delete from feed_resends where destination_id = $1 and number = $2", destination.id, told.number
        )
    return True


async def leave_out(
    conn: WriteConn, destination: Destination, number: int, outcome: Outcome, now: datetime, *, moves: bool
) -> None:
    """Give a batch up for a destination whose row is held; ``moves``: it was the next one."""
    await _log(conn, destination.id, number, DeliveryState.GIVEN_UP, outcome, now)
    await conn.execute(
        "update feed_destinations set next_number = next_number + $2, not_before = null where id = $1",
        destination.id,
        int(moves),
    )
    await conn.execute("delete from feed_resends where destination_id = $1 and number = $2", destination.id, number)


async def _log(
    conn: WriteConn, destination_id: str, number: int, state: DeliveryState, outcome: Outcome, now: datetime
) -> None:
    # What has once been taken was taken, whatever becomes of telling it once more.
    await conn.execute(
        """
        insert into feed_deliveries as known (destination_id, number, state, attempts, status, error, took_s, first_at,
                                              last_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
        on conflict (destination_id, number) do update
           set state = case when known.state = 'delivered' then known.state else excluded.state end,
               attempts = known.attempts + excluded.attempts, status = excluded.status, error = excluded.error,
               took_s = excluded.took_s, last_at = excluded.last_at
        """,
        destination_id,
        number,
        state,
        0 if state is DeliveryState.GIVEN_UP else 1,
        outcome.status,
        outcome.error,
        outcome.took_s,
        now,
    )


async def ask_again(
    conn: WriteConn, destination: Destination, numbers: Sequence[int], *, by: str, now: datetime
) -> list[int]:
    """Note batches that are to be told once more; return those whose rows are still here and whose turn has been."""
    rows = await conn.fetch(
        """
        insert into feed_resends (destination_id, number, asked_at, asked_by)
        select $1, b.number, $4, $5 from feed_batches b
         where b.feed_id = $2 and b.number = any($3::bigint[]) and b.kept and b.number < $6
         order by b.number
        on conflict (destination_id, number) do update set asked_at = excluded.asked_at, asked_by = excluded.asked_by
        returning number
        """,
        destination.id,
        destination.feed_id,
        list(numbers),
        now,
        by,
        destination.next_number,
    )
    return sorted(row["number"] for row in rows)


async def fetch_log(
    conn: Conn, destination_id: str, *, state: DeliveryState | None, before: int | None, limit: int
) -> list[Told]:
    """Return what became of batches, the youngest first."""
    rows = await conn.fetch(
        """
        select number, state, attempts, status, error, took_s, first_at, last_at from feed_deliveries
         where destination_id = $1 and ($2::text is null or state = $2) and ($3::bigint is null or number < $3)
         order by number desc limit $4
        """,
        destination_id,
        state,
        before,
        limit,
    )
    return [
        Told(
            row["number"], DeliveryState(row["state"]), row["attempts"], row["status"], row["error"], row["took_s"],
            row["first_at"], row["last_at"],
        )
        for row in rows
    ]  # fmt: skip


async def fetch_delivered(conn: Conn, destination: Destination, day: date, *, through: int) -> set[int]:
    """Return which batches that have rows of a day a destination has acknowledged."""
    rows = await conn.fetch(
        """
        select d.number from feed_days d join feed_deliveries t on t.number = d.number and t.destination_id = $1
         where d.feed_id = $2 and d.day = $3 and d.number <= $4 and t.state = 'delivered'
        """,
        destination.id,
        destination.feed_id,
        day,
        through,
    )
    return {row["number"] for row in rows}


async def fetch_first_number(conn: Conn, destination_id: str) -> int:
    """Return the number that a destination began with."""
    return int(await conn.fetchval("select first_number from feed_destinations where id = $1", destination_id))


async def set_finding(conn: WriteConn, destination_id: str, *, fails: bool) -> bool:
    """Note whether alarm is told that a destination fails; return whether that is news."""
    changed = await conn.fetchval(
        "update feed_destinations set finding = $2 where id = $1 and finding is distinct from $2 returning true",
        destination_id,
        fails,
    )
    return bool(changed)


async def waiting(conn: Conn) -> dict[str, int]:
    """Return how many closed batches each destination has not been told."""
    rows = await conn.fetch(
        """
        select d.id, f.last_number + 1 - d.next_number as n
          from feed_destinations d join feeds f on f.id = d.feed_id
         where d.removed_at is null
        """
    )
    return {row["id"]: int(row["n"]) for row in rows}


def _failed_state(outcome: Outcome) -> DeliveryState:
    return DeliveryState.REFUSED if outcome.verdict.value in ("refused", "gone") else DeliveryState.RETRYING


def _destination(row: Mapping[str, Any]) -> Destination:
    format_ = row["format"]
    return Destination(
        id=row["id"],
        feed_id=row["feed_id"],
        name=row["name"],
        kind=DestinationKind(row["kind"]),
        address=row["address"],
        egress=Egress(**row["egress"]),
        format=Format(**{**format_, "columns": dict(format_["columns"])}),
        timeout_s=row["timeout_s"],
        min_interval_s=row["min_interval_s"],
        party=row["party"],
        state=DestinationState(row["state"]),
        next_number=row["next_number"],
        failures=row["failures"],
        failing_since=row["failing_since"],
        not_before=row["not_before"],
        error=row["error"],
        sealed=row["sealed"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
