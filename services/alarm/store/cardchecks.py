"""SQL of the daily look at SIM cards."""

from datetime import date, datetime, timedelta

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn


async def begin_card_check(conn: WriteConn, day: date, at: datetime, *, given_up_after: timedelta) -> bool:
    """Note that the cards of a day are looked at.

    Args:
        conn: The transaction.
        day: The civil day.
        at: Now.
        given_up_after: Who began so long ago and has not ended will not end.

    Returns:
        False when somebody has done so, or is about it.
    """
    found = await conn.fetchval(
        """
        insert into card_checks as c (day, at, cards, findings) values ($1, $2, 0, '{}')
            on conflict (day) do update set at = excluded.at
             where c.done_at is null and c.at <= $3
         returning day
        """,
        day,
        at,
        at - given_up_after,
    )
    return found is not None


async def end_card_check(conn: WriteConn, day: date, cards: int, findings: JsonObject, at: datetime) -> bool:
    """Note what the look at the cards of a day has found; return False when somebody else has ended it."""
    done = await conn.fetchval(
        """
        update card_checks set cards = $2, findings = $3, done_at = $4
         where day = $1 and done_at is null returning day
        """,
        day,
        cards,
        findings,
        at,
    )
    return done is not None


async def fetch_last_card_findings(conn: ReadConn, before: date) -> JsonObject:
    """Return what the last look before that day has found, by card; nothing when there was none."""
    found: JsonObject | None = await conn.fetchval(
        "select findings from card_checks where day < $1 and done_at is not null order by day desc limit 1", before
    )
    return found or {}
