"""SQL of the queues: one per endpoint and resource, what waits in it, and the log of deliveries.

A queue's row says how much waits (``waiting``), when its oldest may be sent (``due_at``, null while nothing waits)
and who is at it (``taken_by``, until ``due_at``: a process that dies is replaced then). Its numbers only change while
its row is held, so whoever adds and whoever sends need not know of each other. Rows of queues are always locked
before anything else of them changes, in the order of their keys.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.contracts.delivery import DeliveryState
from libs.common.db import ReadConn, WriteConn
from services.export.domain.callbacks import Lane, News, NewsType

Conn = ReadConn | WriteConn
QueueKey = tuple[str, str]
"""Endpoint and resource."""
LOG_ENTRIES = 50
"""Attempts that a delivery's log keeps, the latest."""


# ---- what is added ------------------------------------------------------------------------------------


async def put_events(conn: WriteConn, news: Sequence[News], now: datetime) -> tuple[dict[str, int], set[str]]:
    """Write news that are not known yet; return the key of each event id, and which were known before."""
    rows = await conn.fetch(
        """
        insert into callback_events (event_id, type, source, resource, site_id, at, data, traceparent, queued_at)
        select *, $9 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                                 $7::bytea[], $8::text[])
        on conflict (event_id) do nothing
        returning key, event_id
        """,
        [each.event_id for each in news],
        [each.type.value for each in news],
        [each.source for each in news],
        [each.resource for each in news],
        [each.site_id for each in news],
        [each.at for each in news],
        [each.data for each in news],
        [each.traceparent for each in news],
        now,
    )
    keys = {row["event_id"]: int(row["key"]) for row in rows}
    known = {each.event_id for each in news} - keys.keys()
    if known:
        rows = await conn.fetch(
            "select key, event_id from callback_events where event_id = any($1::text[])", list(known)
        )
        keys |= {row["event_id"]: int(row["key"]) for row in rows}
    return keys, known


async def fetch_known(conn: Conn, event_keys: Collection[int]) -> set[tuple[str, int]]:
    """Return which endpoints have been queued these events before."""
    rows = await conn.fetch(
        "select endpoint_id, event_key from callback_deliveries where event_key = any($1::bigint[])", list(event_keys)
    )
    return {(row["endpoint_id"], row["event_key"]) for row in rows}


async def fetch_told(conn: Conn, keys: Collection[QueueKey]) -> set[QueueKey]:
    """Return which of these endpoints have been told of these resources."""
    ordered = sorted(keys)
    rows = await conn.fetch(
        """
        select endpoint_id, resource
          from callback_queues join unnest($1::text[], $2::text[]) as k(endpoint_id, resource)
         using (endpoint_id, resource)
        """,
        [key[0] for key in ordered],
        [key[1] for key in ordered],
    )
    return {(row["endpoint_id"], row["resource"]) for row in rows}


async def grow(conn: WriteConn, additions: Mapping[QueueKey, tuple[int, Lane]], now: datetime) -> dict[QueueKey, int]:
    """Make room in queues for so many news of such a lane; return the last sequence before each.

    A queue that something urgent joins is urgent as a whole: what stands before it is sent at once.
    """
    items = sorted(additions.items())
    rows = await conn.fetch(
        """
        insert into callback_queues as q (endpoint_id, resource, last_sequence, waiting, lane, due_at, last_at)
        select endpoint_id, resource, n, n, lane, $5, $5
          from unnest($1::text[], $2::text[], $3::integer[], $4::smallint[]) as a(endpoint_id, resource, n, lane)
         order by endpoint_id, resource
        on conflict (endpoint_id, resource) do update
           set last_sequence = q.last_sequence + excluded.last_sequence,
               waiting = q.waiting + excluded.waiting,
               lane = case when q.waiting = 0 then excluded.lane else least(q.lane, excluded.lane) end,
               due_at = case when q.waiting = 0 then excluded.due_at
                             when excluded.lane < q.lane and q.taken_by is null then least(q.due_at, excluded.due_at)
                             else q.due_at end,
               last_at = excluded.last_at
        returning endpoint_id, resource, last_sequence
        """,
        [key[0] for key, _ in items],
        [key[1] for key, _ in items],
        [n for _, (n, _) in items],
        [lane.value for _, (_, lane) in items],
        now,
    )
    return {
        (row["endpoint_id"], row["resource"]): row["last_sequence"] - additions[row["endpoint_id"], row["resource"]][0]
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class Addition:
    """One delivery to come."""

    endpoint_id: str
    event_key: int
    resource: str
    sequence: int
    lane: Lane


async def insert(conn: WriteConn, additions: Sequence[Addition], now: datetime) -> None:
    """Write deliveries to come."""
    await conn.execute(
        """
        insert into callback_deliveries (endpoint_id, event_key, resource, sequence, lane, state, queued_at)
        select *, 'queued', $6
          from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::smallint[])
        """,
        [each.endpoint_id for each in additions],
        [each.event_key for each in additions],
        [each.resource for each in additions],
        [each.sequence for each in additions],
        [each.lane.value for each in additions],
        now,
    )


# ---- what is sent -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery whose turn it is, with what there is to say."""

    endpoint_id: str
    event_key: int
    resource: str
    sequence: int
    lane: Lane
    attempts: int
    queued_at: datetime
    event_id: str
    type: NewsType
    source: str
    site_id: str
    at: datetime
    data: bytes
    traceparent: str | None


async def take(
    conn: WriteConn, places: Mapping[str, int], now: datetime, *, until: Mapping[str, datetime], owner: str
) -> list[Taken]:
    """Return deliveries whose turn it is, the urgent and the oldest first, and keep others from them for a while.

    Args:
        conn: One statement is one transaction.
        places: Endpoint to how many, at most.
        now: When.
        until: Endpoint to when another process may take what this one has not brought to an end.
        owner: This process.
    """
    wanted = [endpoint_id for endpoint_id, free in places.items() if free > 0]
    rows = await conn.fetch(
        """
        with wanted as (
            select * from unnest($1::text[], $2::integer[], $3::timestamptz[]) as w(endpoint_id, free, until)
        ), due as (
            select q.endpoint_id, q.resource, w.until
              from wanted w
             cross join lateral (
                   select endpoint_id, resource from callback_queues
                    where endpoint_id = w.endpoint_id and due_at <= $4
                    order by lane, due_at
                    limit w.free
                      for update skip locked) q
        ), taken as (
            update callback_queues q set due_at = due.until, taken_by = $5
              from due where q.endpoint_id = due.endpoint_id and q.resource = due.resource
            returning q.endpoint_id, q.resource, q.lane
        )
        select t.endpoint_id, t.resource, t.lane, d.event_key, d.sequence, d.attempts, d.queued_at, e.event_id, e.type,
               e.source, e.site_id, e.at, e.data, e.traceparent
          from taken t
         cross join lateral (
               select event_key, sequence, attempts, queued_at from callback_deliveries
                where endpoint_id = t.endpoint_id and resource = t.resource
                  and state in ('queued', 'retrying', 'refused')
                order by sequence limit 1) d
          join callback_events e on e.key = d.event_key
        """,
        wanted,
        [places[endpoint_id] for endpoint_id in wanted],
        [until[endpoint_id] for endpoint_id in wanted],
        now,
        owner,
    )
    return [
        Taken(**{**dict(row), "lane": Lane(row["lane"]), "type": NewsType(row["type"])})
        for row in rows
    ]  # fmt: skip


async def give_back(conn: WriteConn, owner: str, now: datetime) -> int:
    """Let go of what this process had taken in its former life; return how many queues that were."""
    done: str = await conn.execute(
        """
        update callback_queues q set taken_by = null, due_at = $2
          from (select endpoint_id, resource from callback_queues
                 where taken_by = $1 and due_at is not null order by endpoint_id, resource for update) mine
         where q.endpoint_id = mine.endpoint_id and q.resource = mine.resource
        """,
        owner,
        now,
    )
    return int(done.split()[-1])


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of an attempt."""

    endpoint_id: str
    event_key: int
    resource: str
    state: DeliveryState
    attempts: int
    entry: Mapping[str, object]
    """Of the log."""
    status: int | None
    error: str | None
    finished_at: datetime | None
    due_at: Mapping[Lane, datetime]
    """When the queue goes on, by its lane."""


async def mark(conn: WriteConn, marks: Sequence[Mark], *, owner: str) -> list[tuple[str, int]]:
    """Write what became of attempts; return those that were still open, as endpoint and event."""
    await _hold(conn, {(each.endpoint_id, each.resource) for each in marks})
    rows = await conn.fetch(
        """
        update callback_deliveries d
           set state = m.state, attempts = m.attempts, status = m.status, error = m.error, finished_at = m.finished_at,
               log = case when jsonb_array_length(d.log) >= $9 then d.log - 0 else d.log end || m.entry
          from unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::text[],
                      $7::timestamptz[], $8::jsonb[])
            as m(endpoint_id, event_key, state, attempts, status, error, finished_at, entry)
         where d.endpoint_id = m.endpoint_id and d.event_key = m.event_key
           and d.state in ('queued', 'retrying', 'refused')
        returning d.endpoint_id, d.event_key
        """,
        [each.endpoint_id for each in marks],
        [each.event_key for each in marks],
        [each.state.value for each in marks],
        [each.attempts for each in marks],
        [each.status for each in marks],
        [each.error for each in marks],
        [each.finished_at for each in marks],
        [[each.entry] for each in marks],
        LOG_ENTRIES,
    )
    written = {(row["endpoint_id"], row["event_key"]) for row in rows}
    await conn.execute(
        """
        update callback_queues q
           set waiting = q.waiting - m.closed,
               taken_by = case when q.taken_by = $6 then null else q.taken_by end,
               due_at = case when q.waiting = m.closed then null
                             when q.taken_by is distinct from $6 then q.due_at
                             when q.lane = 0 then m.fast_at else m.normal_at end
          from unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
            as m(endpoint_id, resource, closed, fast_at, normal_at)
         where q.endpoint_id = m.endpoint_id and q.resource = m.resource
        """,
        [each.endpoint_id for each in marks],
        [each.resource for each in marks],
        [int(each.finished_at is not None and (each.endpoint_id, each.event_key) in written) for each in marks],
        [each.due_at[Lane.FAST] for each in marks],
        [each.due_at[Lane.NORMAL] for each in marks],
        owner,
    )
    return sorted(written)


async def _hold(conn: WriteConn, keys: Iterable[QueueKey]) -> None:
    """Hold the rows of queues until the transaction ends."""
    ordered = sorted(keys)
    await conn.execute(
        """
        select from callback_queues q join unnest($1::text[], $2::text[]) as k(endpoint_id, resource)
         using (endpoint_id, resource)
         order by q.endpoint_id, q.resource for update of q
        """,
        [key[0] for key in ordered],
        [key[1] for key in ordered],
    )


# ---- the log, and what people and time do ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Logged:
    """A delivery as people see it."""

    event_id: str
    type: NewsType
    resource: str
    site_id: str
    sequence: int
    state: DeliveryState
    attempts: int
    log: Sequence[Mapping[str, Any]]
    status: int | None
    error: str | None
    at: datetime
    queued_at: datetime
    finished_at: datetime | None
    event_key: int


async def fetch_log(
    conn: Conn, endpoint_id: str, *, state: str | None, resource: str | None, event_id: str | None,
    before: tuple[datetime, int] | None, limit: int,
) -> list[Logged]:  # fmt: skip
    """Return an endpoint's deliveries, the youngest first, after the cursor."""
    rows = await conn.fetch(
        """
        select e.event_id, e.type, d.resource, e.site_id, d.sequence, d.state, d.attempts, d.log, d.status, d.error,
               e.at, d.queued_at, d.finished_at, d.event_key
          from callback_deliveries d join callback_events e on e.key = d.event_key
         where d.endpoint_id = $1
           and ($2::text is null or d.state = $2)
           and ($3::text is null or d.resource = $3)
           and ($4::text is null or e.event_id = $4)
           and ($5::timestamptz is null or (d.queued_at, d.event_key) < ($5, $6))
         order by d.queued_at desc, d.event_key desc
         limit $7
        """,
        endpoint_id,
        state,
        resource,
        event_id,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [
        Logged(**{**dict(row), "type": NewsType(row["type"]), "state": DeliveryState(row["state"])}) for row in rows
    ]


async def replay(
    conn: WriteConn, endpoint_id: str, *, start: datetime, end: datetime, states: Collection[str], limit: int,
    now: datetime,
) -> int:  # fmt: skip
    """Queue once more what was queued in a time and is over, at most ``limit`` of it, the oldest; return how many."""
    rows = await conn.fetch(
        """
        select event_key, resource from callback_deliveries
         where endpoint_id = $1 and queued_at >= $2 and queued_at < $3 and state = any($4::text[])
         order by queued_at, event_key limit $5
        """,
        endpoint_id,
        start,
        end,
        list(states),
        limit,
    )
    await _hold(conn, {(endpoint_id, row["resource"]) for row in rows})
    again = await conn.fetch(
        """
        update callback_deliveries set state = 'queued', attempts = 0, finished_at = null, status = null, error = null
         where endpoint_id = $1 and event_key = any($2::bigint[]) and state in ('delivered', 'given_up')
        returning resource
        """,
        endpoint_id,
        [row["event_key"] for row in rows],
    )
    counts: dict[str, int] = {}
    for row in again:
        counts[row["resource"]] = counts.get(row["resource"], 0) + 1
    await conn.execute(
        """
        update callback_queues q
           set waiting = q.waiting + a.n, due_at = case when q.waiting = 0 then $4 else q.due_at end
          from unnest($2::text[], $3::integer[]) as a(resource, n)
         where q.endpoint_id = $1 and q.resource = a.resource
        """,
        endpoint_id,
        list(counts),
        list(counts.values()),
        now,
    )
    return len(again)


async def give_up_old(
    conn: WriteConn, before: datetime, *, batches: bool, limit: int, reason: str, now: datetime
) -> int:
    """Give up what has waited since before a time, batches or all else, at most ``limit``; return how many."""
    rows = await conn.fetch(
        """
        select endpoint_id, event_key, resource from callback_deliveries
         where state in ('queued', 'retrying', 'refused') and queued_at < $1 and (lane = $3) = $4
         limit $2
        """,
        before,
        limit,
        Lane.BULK.value,
        batches,
    )
    return await _give_up(conn, rows, reason, now)


async def give_up_beyond(conn: WriteConn, most: int, *, batches: bool, limit: int, reason: str, now: datetime) -> int:
    """Give up the oldest of endpoints that more than ``most`` waits for, batches or all else; return how many."""
    rows = await conn.fetch(
        """
        with full_ones as (
            select endpoint_id, count(*) - $1 as surplus from callback_deliveries
             where state in ('queued', 'retrying', 'refused') and (lane = $3) = $4
             group by endpoint_id having count(*) > $1
        )
        select d.endpoint_id, d.event_key, d.resource
          from full_ones f
         cross join lateral (
               select endpoint_id, event_key, resource from callback_deliveries
                where endpoint_id = f.endpoint_id and state in ('queued', 'retrying', 'refused')
                  and (lane = $3) = $4
                order by queued_at, event_key limit least(f.surplus, $2)) d
        """,
        most,
        limit,
        Lane.BULK.value,
        batches,
    )
    return await _give_up(conn, rows, reason, now)


async def _give_up(conn: WriteConn, rows: Sequence[Mapping[str, Any]], reason: str, now: datetime) -> int:
    if not rows:
        return 0
    await _hold(conn, {(row["endpoint_id"], row["resource"]) for row in rows})
    gone = await conn.fetch(
        """
        update callback_deliveries d set state = 'given_up', error = $3, finished_at = $4
          from unnest($1::text[], $2::bigint[]) as g(endpoint_id, event_key)
         where d.endpoint_id = g.endpoint_id and d.event_key = g.event_key
           and d.state in ('queued', 'retrying', 'refused')
        returning d.endpoint_id, d.resource
        """,
        [row["endpoint_id"] for row in rows],
        [row["event_key"] for row in rows],
        reason,
        now,
    )
    counts: dict[QueueKey, int] = {}
    for row in gone:
        key = (row["endpoint_id"], row["resource"])
        counts[key] = counts.get(key, 0) + 1
    await conn.execute(
        """
        update callback_queues q
           set waiting = q.waiting - g.n, due_at = case when q.waiting = g.n then null else q.due_at end
          from unnest($1::text[], $2::text[], $3::integer[]) as g(endpoint_id, resource, n)
         where q.endpoint_id = g.endpoint_id and q.resource = g.resource
        """,
        [key[0] for key in counts],
        [key[1] for key in counts],
        list(counts.values()),
    )
    return len(gone)


async def prune(conn: WriteConn, *, before: datetime, batches_before: datetime, limit: int) -> int:
    """Delete what has been over since before a time, and what is left of removed endpoints; return how many rows."""
    gone = 0
    for statement, times in _PRUNING.items():
        ends = [batches_before if each == "batches" else before for each in times]
        done: str = await conn.execute(statement, limit, *ends)
        gone += int(done.split()[-1])
    return gone


_PRUNING: Mapping[str, tuple[str, ...]] = {
    """
    delete from callback_deliveries where ctid = any(array(
        select d.ctid from callback_deliveries d join callback_endpoints e on e.id = d.endpoint_id
         where d.finished_at < case when d.lane = 2 then $3::timestamptz else $2::timestamptz end
            or e.removed_at is not null
         limit $1))
    """: ("all", "batches"),
    """
    delete from callback_events where key in (
        select key from callback_events e
         where queued_at < $2 and not exists (select from callback_deliveries d where d.event_key = e.key) limit $1)
    """: ("all",),
    """
    delete from callback_events where key in (
        select key from callback_events e
         where queued_at < $2 and type like '%.batch'
           and not exists (select from callback_deliveries d where d.event_key = e.key) limit $1)
    """: ("batches",),
    """
    delete from callback_queues where ctid = any(array(
        select q.ctid from callback_queues q join callback_endpoints e on e.id = q.endpoint_id
         where (q.waiting = 0 and q.last_at < $2 or e.removed_at is not null)
           and not exists (select from callback_deliveries d
                            where d.endpoint_id = q.endpoint_id and d.resource = q.resource)
         limit $1 for update of q skip locked))
    """: ("all",),
    """
    delete from callback_endpoints where id in (
        select id from callback_endpoints e
         where removed_at < $2 and not exists (select from callback_deliveries d where d.endpoint_id = e.id)
         limit $1)
    """: ("all",),
}
"""Statements in their order, each with the times before which it deletes: of batches, or of all (else)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for an endpoint."""

    count: int
    oldest_at: datetime


async def measure(conn: Conn, endpoint_id: str | None = None) -> dict[tuple[str, Lane], Waiting]:
    """Return what waits, by endpoint and lane; of one endpoint, or of all that are in use."""
    rows = await conn.fetch(
        """
        select d.endpoint_id, d.lane, count(*) as n, min(d.queued_at) as oldest
          from callback_deliveries d join callback_endpoints e on e.id = d.endpoint_id
         where d.state in ('queued', 'retrying', 'refused') and e.removed_at is null
           and ($1::text is null or d.endpoint_id = $1)
         group by d.endpoint_id, d.lane
        """,
        endpoint_id,
    )
    return {(row["endpoint_id"], Lane(row["lane"])): Waiting(row["n"], row["oldest"]) for row in rows}
