"""SQL of the audit: entries are appended, links are made behind them, and nothing of both is ever written again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from libs.common.db import ReadConn, WriteConn
from services.control.domain.audit import Entry, facts_text


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it lies in the database."""

    place: int
    seq: int | None
    """Its number in the chain; None until it is linked, a second later."""
    hash: str | None
    entry: Mapping[str, Any]
    """Every field of it that is hashed but ``seq`` and ``previous``."""


@dataclass(frozen=True, slots=True)
class HeadRow:
    """Where the chain ends."""

    seq: int
    hash: str
    published_seq: int


COLUMNS = """
    a.place, a.entry_id, a.at, a.actor, a.door, a.action, a.subject, a.reason, a.before, a.after, a.succeeded,
    l.seq, l.hash
"""


async def append(conn: WriteConn, entries: Sequence[Entry]) -> None:
    """Append entries in their order, in the transaction of what they tell of; one statement for all of them."""
    if not entries:
        return
    await conn.execute(
        """
        with added as (
            insert into audit (entry_id, at, actor, door, action, subject, reason, before, after, succeeded)
            select entry_id, at, actor, door, action, subject, reason, before, after, succeeded
              from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                          $8::text[], $9::text[], $10::boolean[]) with ordinality
                as e(entry_id, at, actor, door, action, subject, reason, before, after, succeeded, number)
             order by number
            returning place
        )
        insert into audit_pending (place) select place from added
        """,
        [one.entry_id for one in entries],
        [one.at for one in entries],
        [one.actor for one in entries],
        [one.door for one in entries],
        [one.action for one in entries],
        [one.subject for one in entries],
        [one.reason or None for one in entries],
        [_text(one.before) for one in entries],
        [_text(one.after) for one in entries],
        [one.succeeded for one in entries],
    )


async def lock_head(conn: WriteConn) -> HeadRow:
    """Lock the chain's end, so that nobody else links."""
    return _head(await conn.fetchrow("select seq, hash, published_seq from audit_head for update"))


async def fetch_head(conn: ReadConn) -> HeadRow:
    """Return the chain's end."""
    return _head(await conn.fetchrow("select seq, hash, published_seq from audit_head"))


async def set_published(conn: WriteConn, seq: int) -> None:
    """Note how far a head was published, the head being locked."""
    await conn.execute("update audit_head set published_seq = $1", seq)


BY_PLACE = "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off"
"""How what waits is looked up. A plan made while the audit was small reads all of it for every thousand entries."""


async def take_pending(conn: WriteConn, limit: int) -> list[Stored]:
    """Take entries that are not linked yet off the list of those, the oldest first; the head is locked."""
    await conn.execute(BY_PLACE)
    first = await conn.fetch("select place from audit_pending order by place limit $1", limit)
    places = [row["place"] for row in first]
    await conn.execute("delete from audit_pending where place = any($1::bigint[])", places)
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from audit a left join audit_links l using (place)
         where a.place = any($1::bigint[])
         order by a.place
        """,  # noqa: S608
        places,
    )
    return [_stored(row) for row in rows]


async def link(conn: WriteConn, links: Sequence[tuple[int, int, str]]) -> None:
    """Append links ``(seq, place, hash)`` behind the locked head; the last one is the new head."""
    await conn.execute(
        "insert into audit_links (seq, place, hash) select * from unnest($1::bigint[], $2::bigint[], $3::bytea[])",
        [seq for seq, _, _ in links],
        [place for _, place, _ in links],
        [bytes.fromhex(digest) for _, _, digest in links],
    )
    seq, _, digest = links[-1]
    await conn.execute("update audit_head set seq = $1, hash = $2", seq, bytes.fromhex(digest))


async def fetch_page(
    conn: ReadConn,
    *,
    start: datetime | None,
    end: datetime | None,
    actor: str | None,
    subject: str | None,
    action: str | None,
    succeeded: bool | None,
    before: tuple[datetime, int] | None,
    limit: int,
) -> list[Stored]:
    """Return entries, the youngest first; those that are not linked yet among them."""
    at, place = before or (None, None)
    rows = await conn.fetch(
        f"""
        select {COLUMNS}
          from audit a left join audit_links l using (place)
         where ($1::timestamptz is null or a.at >= $1) and ($2::timestamptz is null or a.at < $2)
           and ($3::text is null or a.actor = $3) and ($4::text is null or a.subject = $4)
           and ($5::text is null or a.action = $5) and ($6::boolean is null or a.succeeded = $6)
           and ($7::timestamptz is null or (a.at, a.place) < ($7, $8::bigint))
         order by a.at desc, a.place desc
         limit $9
        """,  # noqa: S608
        start,
        end,
        actor,
        subject,
        action,
        succeeded,
        at,
        place,
        limit,
    )
    return [_stored(row) for row in rows]


async def fetch_links(conn: ReadConn, after: int, until: int, limit: int) -> list[Stored]:
    """Return linked entries with numbers behind ``after`` and up to ``until``, in the order of the chain."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS}
          from audit_links l left join audit a using (place)
         where l.seq > $1 and l.seq <= $2 order by l.seq limit $3
        """,  # noqa: S608
        after,
        until,
        limit,
    )
    # A link whose entry is gone leaves a hole, which whoever verifies will name.
    return [_stored(row) for row in rows if row["entry_id"] is not None]


async def fetch_span(conn: ReadConn, start: datetime | None, end: datetime | None) -> tuple[int, int] | None:
    """Return the first and last number of the entries of a time, None where there are none.

    The numbers follow the order of the linking, so a few of the neighbours may lie outside of the time.
    """
    row = await conn.fetchrow(
        """
        select min(l.seq) as first, max(l.seq) as last
          from audit a join audit_links l using (place)
         where ($1::timestamptz is null or a.at >= $1) and ($2::timestamptz is null or a.at < $2)
        """,
        start,
        end,
    )
    return None if row is None or row["first"] is None else (row["first"], row["last"])


async def fetch_hash(conn: ReadConn, seq: int) -> str | None:
    """Return the hash of an entry by its number."""
    found: bytes | None = await conn.fetchval("select hash from audit_links where seq = $1", seq)
    return None if found is None else found.hex()


async def fetch_approvers(conn: WriteConn, plan_ids: set[str]) -> dict[str, str]:
    """Return who approved plans."""
    if not plan_ids:
        return {}
    rows = await conn.fetch(
        "select plan_id, approved_by from plans where plan_id = any($1::text[]) and approved_by is not null",
        sorted(plan_ids),
    )
    return {row["plan_id"]: row["approved_by"] for row in rows}


def _text(facts: Mapping[str, object] | None) -> str | None:
    return None if facts is None else facts_text(facts)


def _head(row: asyncpg.Record) -> HeadRow:
    return HeadRow(row["seq"], row["hash"].hex(), row["published_seq"])


def _stored(row: asyncpg.Record) -> Stored:
    return Stored(
        place=row["place"],
        seq=row["seq"],
        hash=None if row["hash"] is None else row["hash"].hex(),
        entry={
            "entry_id": row["entry_id"],
            "at": row["at"],
            "actor": row["actor"],
            "door": row["door"],
            "action": row["action"],
            "subject": row["subject"],
            "reason": row["reason"],
            "succeeded": row["succeeded"],
            "before": None if row["before"] is None else orjson.loads(row["before"]),
            "after": None if row["after"] is None else orjson.loads(row["after"]),
        },
    )
