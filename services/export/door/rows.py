"""SQL of the door: the addresses that are being reported."""

from datetime import datetime

from libs.common.db import WriteConn


async def note(conn: WriteConn, peer: str, now: datetime, *, at_most: int) -> bool:
    """Write down that an address goes on; return whether that is news.

    Args:
        conn: A transaction.
        peer: The address.
        now: When.
        at_most: More addresses than this are not written down.
    """
    known = await conn.fetchval("update knocking_peers set last_at = $2 where peer = $1 returning true", peer, now)
    if known:
        return False
    new = await conn.fetchval(
        """
        insert into knocking_peers (peer, began_at, last_at)
        select $1, $2, $2 where (select count(*) from knocking_peers) < $3
        on conflict (peer) do nothing returning true
        """,
        peer,
        now,
        at_most,
    )
    return bool(new)


async def forget_quiet(conn: WriteConn, before: datetime) -> list[str]:
    """Forget the addresses that were last turned away before a time; return them."""
    rows = await conn.fetch("delete from knocking_peers where last_at < $1 returning peer", before)
    return [row["peer"] for row in rows]
