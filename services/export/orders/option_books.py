"""SQL of option templates: one centre's, as they were put here last."""

from dataclasses import asdict, dataclass
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.export.domain.options import NO_BOOK, Option, OptionBook

Conn = ReadConn | WriteConn


@dataclass(frozen=True, slots=True)
class StoredBook:
    """A centre's templates, and who has put them here."""

    book: OptionBook
    source: str
    changed_by: str
    changed_at: datetime


async def fetch_book(conn: Conn, connection_id: str) -> OptionBook:
    """Return a centre's templates; an empty book when there are none."""
    found = await fetch(conn, connection_id)
    return NO_BOOK if found is None else found.book


async def fetch(conn: Conn, connection_id: str) -> StoredBook | None:
    """Return a centre's templates with their origin, None when there are none."""
    row = await conn.fetchrow(
        """
        select name, version, ignores_storage, options, source, changed_by, changed_at
          from option_books where connection_id = $1
        """,
        connection_id,
    )
    if row is None:
        return None
    options = {
        point_id: {one["option_id"]: Option(**one) for one in options} for point_id, options in row["options"].items()
    }
    book = OptionBook(row["name"], row["version"], row["ignores_storage"], options)
    return StoredBook(book, row["source"], row["changed_by"], row["changed_at"])


async def put(
    conn: WriteConn, connection_id: str, book: OptionBook, *, source: str, changed_by: str, at: datetime
) -> None:
    """Replace a centre's templates."""
    options = {point_id: [asdict(one) for one in options.values()] for point_id, options in book.options.items()}
    await conn.execute(
        """
        insert into option_books
               (connection_id, name, version, ignores_storage, options, source, changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (connection_id) do update
           set name = excluded.name, version = excluded.version, ignores_storage = excluded.ignores_storage,
               options = excluded.options, source = excluded.source, changed_by = excluded.changed_by,
               changed_at = excluded.changed_at
        """,
        connection_id, book.name, book.version, book.ignores_storage, options, source, changed_by, at,
    )  # fmt: skip


async def remove(conn: WriteConn, connection_id: str) -> bool:
    """Forget a centre's templates; return whether there were any."""
    done = await conn.execute("delete from option_books where connection_id = $1", connection_id)
    return bool(done == "DELETE 1")
