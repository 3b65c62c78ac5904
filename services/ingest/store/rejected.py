"""What was not understood, kept to be looked at, mended and sent again."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.telemetry import Rejected
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import new_id


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """One thing that was not taken."""

    id: str
    received_at: datetime
    reason: str
    source: str
    device_id: str | None
    site_id: str | None
    line_id: str | None
    driver: str | None
    detail: str | None
    detail_zh: str | None
    content_type: str | None
    truncated: bool
    raw: bytes
    replayed_at: datetime | None
    """When it was sent again, as it was or mended, and was taken."""


async def insert(conn: WriteConn, rejections: Sequence[Rejected]) -> None:
    """Keep rejections; one that is there already is left alone."""
    await conn.executemany(
        """
        insert into rejected (id, received_at, reason, source, device_id, site_id, line_id, driver, detail, detail_zh,
                              content_type, truncated, raw)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        on conflict (id) do nothing
        """,
        [
            (
                found.rejected_id or new_id(),
                found.received_at,
                found.reason,
                found.source,
                found.device_id,
                found.site_id,
                found.line_id,
                found.driver,
                found.detail,
                found.detail_zh,
                found.content_type,
                bool(found.truncated),
                base64.b64decode(found.raw_base64),
            )
            for found in rejections
        ],
    )


async def fetch_page(
    conn: ReadConn,
    *,
    reason: str | None,
    source: str | None,
    device_id: str | None,
    sites: Sequence[str] | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[RejectedRow]:
    """Return rejections, the youngest first, from behind ``before``."""
    rows = await conn.fetch(
        """
        select id, received_at, reason, source, device_id, site_id, line_id, driver, detail, detail_zh,
               content_type, truncated, raw, replayed_at
          from rejected
         where ($1::text is null or reason = $1)
           and ($2::text is null or source = $2)
           and ($3::text is null or device_id = $3)
           and ($4::text[] is null or site_id = any($4))
           and ($5::timestamptz is null or (received_at, id) < ($5, $6::text))
         order by received_at desc, id desc
         limit $7
        """,
        reason,
        source,
        device_id,
        sites,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [RejectedRow(**dict(row.items())) for row in rows]


async def fetch(conn: ReadConn, rejected_id: str) -> RejectedRow | None:
    """Return one rejection, None when there is none."""
    row = await conn.fetchrow(
        """
        select id, received_at, reason, source, device_id, site_id, line_id, driver, detail, detail_zh,
               content_type, truncated, raw, replayed_at
          from rejected where id = $1
        """,
        rejected_id,
    )
    return None if row is None else RejectedRow(**dict(row.items()))


async def note_replayed(conn: WriteConn, rejected_id: str, at: datetime) -> None:
    """Note that a rejection was sent again, as it was or mended, and was taken."""
    await conn.execute("update rejected set replayed_at = $2 where id = $1", rejected_id, at)


async def delete_before(conn: WriteConn, before: datetime, limit: int) -> int:
    """Forget what is older, a bounded number at a time; return how many went."""
    status = await conn.execute(
        """
        delete from rejected where id in
               (select id from rejected where received_at < $1 order by received_at limit $2)
        """,
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])
