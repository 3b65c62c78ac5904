"""SQL of statements: made of what is there now, and those that were written down when a day was over."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from services.export.domain.feeds import Destination
from services.export.domain.statements import Statement, side_of
from services.export.feeds import batches, destinations

Conn = ReadConn | WriteConn


async def make(conn: Conn, feed_id: str, day: date, *, through: int, of: Sequence[Destination]) -> Statement:
    """Return what a feed has of a day up to a batch, with the sides of some of its destinations."""
    tallies = dict(await batches.fetch_day(conn, feed_id, day, through=through))
    sides = [
        side_of(
            each.id,
            each.name,
            await destinations.fetch_first_number(conn, each.id),
            tallies,
            await destinations.fetch_delivered(conn, each, day, through=through),
        )
        for each in of
    ]
    return Statement(feed_id, day, through, tallies, tuple(sides))


async def without_statement(conn: Conn, day: date) -> list[tuple[str, int]]:
    """Return the feeds that have rows of a day and no statement of it, each with its last closed batch."""
    rows = await conn.fetch(
        """
        select f.id, f.last_number from feeds f
         where f.removed_at is null
           and not exists (select from feed_statements s where s.feed_id = f.id and s.day = $1)
           and exists (select from feed_days d where d.feed_id = f.id and d.day = $1)
         order by f.id
        """,
        day,
    )
    return [(row["id"], row["last_number"]) for row in rows]


async def put(conn: WriteConn, statement: Statement, now: datetime) -> None:
    """Write a statement down; the first one of a day stays."""
    await conn.execute(
        """
        insert into feed_statements (feed_id, day, document, made_at) values ($1, $2, $3, $4)
        on conflict (feed_id, day) do nothing
        """,
        statement.feed_id,
        statement.day,
        statement.document(),
        now,
    )


async def fetch_written(conn: Conn, feed_id: str, *, before: date | None, limit: int) -> list[dict[str, Any]]:
    """Return the documents that were written down, the youngest day first."""
    rows = await conn.fetch(
        """
        select document, made_at from feed_statements
         where feed_id = $1 and ($2::date is null or day < $2)
         order by day desc limit $3
        """,
        feed_id,
        before,
        limit,
    )
    return [{**row["document"], "made_at": row["made_at"].isoformat()} for row in rows]
