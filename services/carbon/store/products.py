"""SQL of products: documents by version; nothing is ever changed in place."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One version of a product."""

    product_id: str
    version: int
    document: Mapping[str, Any]
    changed_by: str
    changed_at: datetime
    reason: str


async def add_version(conn: WriteConn, row: ProductRow) -> bool:
    """Store a version of a product; return False if that version is there already."""
    done = await conn.fetchval(
        """
        insert into products (product_id, version, document, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6)
        on conflict on constraint products_pk do nothing
        returning version
        """,
        row.product_id,
        row.version,
        row.document,
        row.changed_by,
        row.changed_at,
        row.reason,
    )
    return done is not None


async def fetch_version(conn: ReadConn | WriteConn, product_id: str, version: int | None = None) -> ProductRow | None:
    """Return a version of a product, or the latest."""
    row = await conn.fetchrow(
        """
        select product_id, version, document, changed_by, changed_at, reason from products
         where product_id = $1 and ($2::int is null or version = $2)
         order by version desc limit 1
        """,
        product_id,
        version,
    )
    return None if row is None else _row(row)


async def fetch_history(conn: ReadConn, product_id: str) -> list[ProductRow]:
    """Return every version of a product, oldest first."""
    rows = await conn.fetch(
        """
        select product_id, version, document, changed_by, changed_at, reason from products
         where product_id = $1 order by version
        """,
        product_id,
    )
    return [_row(row) for row in rows]


async def fetch_all(conn: ReadConn, *, after: str, limit: int) -> list[ProductRow]:
    """Return products as they are, by id, from the one after ``after`` on."""
    rows = await conn.fetch(
        """
        select distinct on (product_id) product_id, version, document, changed_by, changed_at, reason from products
         where product_id > $1 order by product_id, version desc limit $2
        """,
        after,
        limit,
    )
    return [_row(row) for row in rows]


def _row(row: Record) -> ProductRow:
    return ProductRow(
        product_id=row["product_id"],
        version=row["version"],
        document=row["document"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
        reason=row["reason"],
    )
