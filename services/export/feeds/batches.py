"""SQL of feeds and their batches."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.feeds import Cut, Feed, Selection, Source
from services.export.domain.rendering import Batch
from services.export.domain.rows import Tally, tallies_by_day

Conn = ReadConn | WriteConn

COMPRESSION = 1
"""zlib's fastest level: canonical lines shrink to a tenth with it already."""

_FEED = """
    select id, name, owner, limits, selection, max_rows, max_wait_s, keep_s, created_at, updated_at
      from feeds
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a feed is."""

    last_number: int
    """Of the last closed batch, 0 before the first."""
    open_rows: int
    open_since: datetime | None


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed batch, without its rows."""

    number: int
    rows: int
    hash: str
    opened_at: datetime
    closed_at: datetime
    kept: bool
    """Whether its rows are still here."""


async def put(conn: WriteConn, feed: Feed) -> None:
    """Create a feed, or write what people set of it; its batches stay."""
    selection = feed.selection
    await conn.execute(
        """
        insert into feeds (id, name, owner, limits, selection, max_rows, max_wait_s, keep_s, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (id) do update
           set name = excluded.name, owner = excluded.owner, limits = excluded.limits, selection = excluded.selection,
               max_rows = excluded.max_rows, max_wait_s = excluded.max_wait_s, keep_s = excluded.keep_s,
               updated_at = excluded.updated_at
        """,
        feed.id,
        feed.name,
        feed.owner,
        None if feed.limits is None else list(feed.limits),
        {
            "sites": selection.sites,
            "devices": selection.devices,
            "points": selection.points,
            "sources": sorted(selection.sources),
        },
        feed.max_rows,
        feed.max_wait_s,
        feed.keep_s,
        feed.created_at,
        feed.updated_at,
    )


async def fetch_all(conn: Conn) -> list[Feed]:
    """Return all feeds that are in use."""
    return [_feed(row) for row in await conn.fetch(_FEED + " where removed_at is null order by id")]


async def fetch(conn: Conn, feed_id: str) -> Feed | None:
    """Return one feed."""
    row = await conn.fetchrow(_FEED + " where id = $1 and removed_at is null", feed_id)
    return None if row is None else _feed(row)


async def fetch_progress(conn: Conn, feed_id: str) -> Progress | None:
    """Return how far a feed is."""
    row = await conn.fetchrow("select last_number, open_rows, open_since from feeds where id = $1", feed_id)
    return None if row is None else Progress(row["last_number"], row["open_rows"], row["open_since"])


async def lock_progress(conn: WriteConn, feed_id: str) -> Progress | None:
    """Return how far a feed is, and hold its row until the transaction ends; None for one that is out of use."""
    row = await conn.fetchrow(
        "select last_number, open_rows, open_since from feeds where id = $1 and removed_at is null for no key update",
        feed_id,
    )
    return None if row is None else Progress(row["last_number"], row["open_rows"], row["open_since"])


async def remove(conn: WriteConn, feed_id: str, now: datetime) -> None:
    """Take a feed and its destinations out of use."""
    await conn.execute("update feeds set removed_at = $2 where id = $1", feed_id, now)
    await conn.execute(
        "update feed_destinations set removed_at = $2 where feed_id = $1 and removed_at is null", feed_id, now
    )


async def limit_of(conn: WriteConn, owner: str, limits: tuple[str, ...] | None, at: datetime) -> list[str]:
    """Set what the owner of feeds may see, unless they were changed since; return the ids of those that differed.

    Args:
        conn: The transaction.
        owner: Such as ``user:li``.
        limits: What it may see of the site tree; None is all.
        at: Since when; news of owners may come in another order than they happened.
    """
    rows = await conn.fetch(
        """
        update feeds set limits = $2, updated_at = $3
         where owner = $1 and removed_at is null and updated_at < $3 and limits is distinct from $2
        returning id
        """,
        owner,
        None if limits is None else list(limits),
        at,
    )
    return sorted(row["id"] for row in rows)


async def append(conn: WriteConn, feed_id: str, pieces: Sequence[tuple[Cut, Sequence[str]]], now: datetime) -> None:
    """Write what came and close what is full; the feed's row is held.

    Args:
        conn: The transaction.
        feed_id: Whose.
        pieces: As ``cuts`` has them, each with its lines; at least one.
        now: When.
    """
    await conn.executemany(
        "insert into feed_chunks (feed_id, number, rows, tallies, body) values ($1, $2, $3, $4, $5)",
        [
            (
                feed_id,
                cut.number,
                len(lines),
                {day.isoformat(): tally.document() for day, tally in tallies_by_day(lines).items()},
                zlib.compress("\n".join(lines).encode(), COMPRESSION),
            )
            for cut, lines in pieces
        ],
    )
    last = pieces[-1][0]
    rows = last.end - last.start
    closing = [cut.number for cut, _ in pieces if cut.closes]
    if closing:
        await _close(conn, feed_id, closing, now, still_open=0 if last.closes else rows)
        return
    await conn.execute(
        "update feeds set open_rows = open_rows + $2, open_since = coalesce(open_since, $3) where id = $1",
        feed_id,
        rows,
        now,
    )


async def close_open(conn: WriteConn, feed_id: str, progress: Progress, now: datetime) -> None:
    """Close the open batch though it is not full; the feed's row is held."""
    await _close(conn, feed_id, [progress.last_number + 1], now, still_open=0)


async def _close(conn: WriteConn, feed_id: str, numbers: Sequence[int], now: datetime, *, still_open: int) -> None:
    chunks = await conn.fetch(
        """
        select number, tallies, octet_length(body) as bytes from feed_chunks
         where feed_id = $1 and number = any($2::bigint[]) order by number, id
        """,
        feed_id,
        list(numbers),
    )
    sizes = dict.fromkeys(numbers, 0)
    days: dict[int, dict[str, Tally]] = {number: {} for number in numbers}
    for chunk in chunks:
        sizes[chunk["number"]] += chunk["bytes"]
        for day, document in chunk["tallies"].items():
            days[chunk["number"]].setdefault(day, Tally()).add(Tally.of_document(document))
    wholes = {number: Tally() for number in numbers}
    for number, found in days.items():
        for tally in found.values():
            wholes[number].add(tally)
    await conn.executemany(
        """
        insert into feed_batches (feed_id, number, rows, bytes, hash, opened_at, closed_at)
        select id, $2, $3, $4, $5, case when $2 = last_number + 1 then coalesce(open_since, $6) else $6 end, $6
          from feeds where id = $1
        """,
        [(feed_id, number, whole.rows, sizes[number], whole.hash, now) for number, whole in sorted(wholes.items())],
    )
    await conn.executemany(
        "insert into feed_days (feed_id, number, day, tally) values ($1, $2, $3, $4)",
        [
            (feed_id, number, date.fromisoformat(day), tally.document())
            for number, found in sorted(days.items())
            for day, tally in sorted(found.items())
        ],
    )
    await conn.execute(
        "update feeds set last_number = $2, open_rows = $3, open_since = $4 where id = $1",
        feed_id,
        max(numbers),
        still_open,
        now if still_open else None,
    )


async def due_to_close(conn: Conn, now: datetime) -> list[str]:
    """Return the feeds whose open batch has waited long enough."""
    rows = await conn.fetch(
        """
        select id from feeds
         where removed_at is null and open_since <= $1::timestamptz - make_interval(secs => max_wait_s)
         order by id
        """,
        now,
    )
    return [row["id"] for row in rows]


async def fetch_batch(conn: Conn, feed_id: str, number: int) -> Batch | None:
    """Return a closed batch with its rows, None when they are not here (any more)."""
    hash_ = await conn.fetchval(
        "select hash from feed_batches where feed_id = $1 and number = $2 and kept", feed_id, number
    )
    if hash_ is None:
        return None
    chunks = await conn.fetch(
        "select body from feed_chunks where feed_id = $1 and number = $2 order by id", feed_id, number
    )
    lines = [line for chunk in chunks for line in zlib.decompress(chunk["body"]).decode().split("\n")]
    return Batch(feed_id, number, hash_, lines)


async def fetch_closed(conn: Conn, feed_id: str, *, before: int | None, limit: int) -> list[Closed]:
    """Return closed batches, the youngest first."""
    rows = await conn.fetch(
        """
        select number, rows, hash, opened_at, closed_at, kept from feed_batches
         where feed_id = $1 and ($2::bigint is null or number < $2)
         order by number desc limit $3
        """,
        feed_id,
        before,
        limit,
    )
    return [
        Closed(row["number"], row["rows"], row["hash"], row["opened_at"], row["closed_at"], row["kept"]) for row in rows
    ]


async def fetch_day(conn: Conn, feed_id: str, day: date, *, through: int) -> list[tuple[int, Tally]]:
    """Return what closed batches have of a civil day, by number, up to one batch."""
    rows = await conn.fetch(
        "select number, tally from feed_days where feed_id = $1 and day = $2 and number <= $3 order by number",
        feed_id,
        day,
        through,
    )
    return [(row["number"], Tally.of_document(row["tally"])) for row in rows]


async def forget_rows(conn: WriteConn, now: datetime, *, limit: int) -> int:
    """Delete the rows of batches that every destination has been told, and that were kept long enough.

    Returns:
        How many batches.
    """
    rows = await conn.fetch(
        """
        with gone as (
            select b.feed_id, b.number
              from feed_batches b join feeds f on f.id = b.feed_id
             where b.kept
               and (f.removed_at is not null or b.closed_at < $1::timestamptz - make_interval(secs => f.keep_s))
               and not exists (
                   select from feed_destinations d
                    where d.feed_id = b.feed_id and d.removed_at is null and d.next_number <= b.number)
               and not exists (
                   select from feed_resends r join feed_destinations d on d.id = r.destination_id
                    where d.feed_id = b.feed_id and d.removed_at is null and r.number = b.number)
             order by b.feed_id, b.number limit $2
               for no key update of b skip locked
        ), chunks as (
            delete from feed_chunks c using gone where c.feed_id = gone.feed_id and c.number = gone.number
        )
        update feed_batches b set kept = false from gone where b.feed_id = gone.feed_id and b.number = gone.number
        returning b.number
        """,
        now,
        limit,
    )
    return len(rows)


async def forget_history(conn: WriteConn, before: datetime, *, limit: int) -> None:
    """Delete what is known of batches and their deliveries from before a time, whose rows are long gone."""
    await conn.execute(
        """
        with old as (
            select feed_id, number from feed_batches where closed_at < $1 and not kept order by closed_at limit $2
        )
        delete from feed_batches b using old where b.feed_id = old.feed_id and b.number = old.number
        """,
        before,
        limit,
    )
    await conn.execute(
        """
        with old as (select destination_id, number from feed_deliveries where last_at < $1 order by last_at limit $2)
        delete from feed_deliveries d using old where d.destination_id = old.destination_id and d.number = old.number
        """,
        before,
        limit,
    )


async def forget_excess(conn: WriteConn, *, max_bytes: int, limit: int) -> int:
    """Delete the rows of each feed's oldest batches beyond so many bytes, told or not; who was not told is told so.

    Returns:
        How many batches.
    """
    rows = await conn.fetch(
        """
        with kept as (
            select feed_id, number, sum(bytes) over (partition by feed_id order by number desc) as so_far
              from feed_batches where kept
        ), gone as (
            select b.feed_id, b.number
              from feed_batches b join kept k on k.feed_id = b.feed_id and k.number = b.number
             where k.so_far > $1
             order by b.feed_id, b.number limit $2
               for no key update of b skip locked
        ), chunks as (
            delete from feed_chunks c using gone where c.feed_id = gone.feed_id and c.number = gone.number
        )
        update feed_batches b set kept = false from gone where b.feed_id = gone.feed_id and b.number = gone.number
        returning b.number
        """,
        max_bytes,
        limit,
    )
    return len(rows)


def _feed(row: Mapping[str, Any]) -> Feed:
    selection = row["selection"]
    return Feed(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        limits=_tuple(row["limits"]),
        selection=Selection(
            sites=_tuple(selection["sites"]),
            devices=_tuple(selection["devices"]),
            points=_tuple(selection["points"]),
            sources=frozenset(Source(each) for each in selection["sources"]),
        ),
        max_rows=row["max_rows"],
        max_wait_s=row["max_wait_s"],
        keep_s=row["keep_s"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
