"""SQL of the signal table's versions; ``signals`` holds the rows that count now, and those that alarms still name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import asyncpg

from libs.common.db import ReadConn, WriteConn
from services.alarm.dictionary import SignalTable
from services.alarm.domain.model import Dictionary, Signal
from services.alarm.domain.signal_table import Column, Layout, Meaning, difference, signal_facts, signal_of
from services.alarm.files.table_file import plain_layout

SHIPPED_BY = "service:alarm"
MAX_VERSIONS = 1000
"""Versions of one table that are listed."""


@dataclass(frozen=True, slots=True)
class TableVersion:
    """One version of a table: who made it, when, from what and why."""

    dictionary: str
    version: int
    shipped: bool
    """As a release ships it; a newer release may replace it."""
    file_name: str
    digest: str
    """SHA-256 of the file, hexadecimal."""
    layout: Layout
    row_count: int
    imported_by: str
    imported_at: datetime
    reason: str | None


async def put_dictionary(conn: WriteConn, dictionary: Dictionary) -> None:
    """Write which table it is and where it comes from."""
    await conn.execute(
        """
        insert into dictionaries (dictionary, name_zh, name_en, source) values ($1, $2, $3, $4)
            on conflict (dictionary) do update set
               name_zh = excluded.name_zh, name_en = excluded.name_en, source = excluded.source
        """,
        dictionary.dictionary,
        dictionary.name_zh,
        dictionary.name_en,
        dictionary.source,
    )


async def fetch_dictionaries(conn: ReadConn | WriteConn) -> dict[str, Dictionary]:
    """Return every table by its id."""
    rows = await conn.fetch("select dictionary, name_zh, name_en, source from dictionaries order by dictionary")
    return {row["dictionary"]: Dictionary(**dict(row.items())) for row in rows}


async def seed(conn: WriteConn, dictionary: str, table: SignalTable, book_version: int, now: datetime) -> None:
    """Take over what a release ships of one table, unless people have imported it; then only rows that it never had.

    Args:
        conn: A transaction.
        dictionary: Which.
        table: What is shipped.
        book_version: Version that changed rows get.
        now: Our clock.
    """
    shipped = {code: one for code, one in table.signals.items() if one.dictionary == dictionary}
    latest = await fetch_latest(conn, dictionary)
    layout = table.layouts.get(dictionary) or plain_layout()
    before: dict[str, Signal] = {} if latest is None else await fetch_rows(conn, dictionary, latest.version)
    after = shipped | {code: one for code, one in before.items() if code not in shipped}
    if latest is not None and not latest.shipped:
        layout = latest.layout
        ever = {row["code"] for row in await conn.fetch("select code from signals where dictionary = $1", dictionary)}
        after = before | {code: one for code, one in shipped.items() if code not in ever}
    changed = difference(before, after, layout, None if latest is None else latest.layout).rows
    if latest is not None and not changed:
        return
    version = TableVersion(
        dictionary=dictionary,
        version=1 if latest is None else latest.version + 1,
        shipped=latest is None or latest.shipped,
        file_name="",
        digest="",
        layout=layout,
        row_count=len(after),
        imported_by=SHIPPED_BY,
        imported_at=now,
        reason=None,
    )
    await put_version(conn, version, after)
    await put_signals(conn, [after[row.code] for row in changed if row.code in after], book_version)


async def put_version(conn: WriteConn, version: TableVersion, signals: Mapping[str, Signal]) -> None:
    """Write a version whole."""
    await conn.execute(
        """
        insert into signal_tables (dictionary, version, shipped, file_name, digest, layout, row_count, imported_by,
                                   imported_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        version.dictionary,
        version.version,
        version.shipped,
        version.file_name,
        version.digest,
        asdict(version.layout),
        version.row_count,
        version.imported_by,
        version.imported_at,
        version.reason,
    )
    await conn.executemany(
        "insert into signal_table_rows (dictionary, version, position, code, signal) values ($1, $2, $3, $4, $5)",
        [
            (version.dictionary, version.version, position, code, signal_facts(signal))
            for position, (code, signal) in enumerate(signals.items(), start=1)
        ],
    )


async def fetch_latest(conn: ReadConn | WriteConn, dictionary: str) -> TableVersion | None:
    """Return the version of a table that counts, None when there is no such table."""
    return next(iter(await fetch_versions(conn, dictionary, limit=1)), None)


async def fetch_version(conn: ReadConn, dictionary: str, version: int) -> TableVersion | None:
    """Return one version, None when there is none of that number."""
    row = await conn.fetchrow(
        """
        select dictionary, version, shipped, file_name, digest, layout, row_count, imported_by, imported_at, reason
          from signal_tables where dictionary = $1 and version = $2
        """,
        dictionary,
        version,
    )
    return None if row is None else _version(row)


async def fetch_versions(
    conn: ReadConn | WriteConn, dictionary: str, *, limit: int = MAX_VERSIONS
) -> list[TableVersion]:
    """Return the versions of a table, the youngest first."""
    rows = await conn.fetch(
        """
        select dictionary, version, shipped, file_name, digest, layout, row_count, imported_by, imported_at, reason
          from signal_tables where dictionary = $1 order by version desc limit $2
        """,
        dictionary,
        limit,
    )
    return [_version(row) for row in rows]


async def fetch_rows(conn: ReadConn | WriteConn, dictionary: str, version: int) -> dict[str, Signal]:
    """Return the rows of a version by their code, in the order of the table."""
    rows = await conn.fetch(
        "select signal from signal_table_rows where dictionary = $1 and version = $2 order by position",
        dictionary,
        version,
    )
    found = [signal_of(row["signal"]) for row in rows]
    return {one.code: one for one in found}


async def put_signals(conn: WriteConn, signals: Iterable[Signal], book_version: int) -> None:
    """Write rows that count from now on; rules over them are judged anew."""
    await conn.executemany(
        """
        insert into signals (code, dictionary, equipment_type, equipment_zh, kind, name_zh, name_en, unit, levels,
                             thresholds, start_delay_s, end_delay_s, period_s, absolute_change, alarm_text_zh,
                             normal_text_zh, required, points, note, version, retired)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, false)
            on conflict (code) do update set
               dictionary = excluded.dictionary, equipment_type = excluded.equipment_type,
               equipment_zh = excluded.equipment_zh, kind = excluded.kind, name_zh = excluded.name_zh,
               name_en = excluded.name_en, unit = excluded.unit, levels = excluded.levels,
               thresholds = excluded.thresholds, start_delay_s = excluded.start_delay_s,
               end_delay_s = excluded.end_delay_s, period_s = excluded.period_s,
               absolute_change = excluded.absolute_change, alarm_text_zh = excluded.alarm_text_zh,
               normal_text_zh = excluded.normal_text_zh, required = excluded.required, points = excluded.points,
               note = excluded.note, version = excluded.version, retired = false
        """,
        [
            (
                signal.code,
                signal.dictionary,
                signal.equipment_type,
                signal.equipment_zh,
                signal.kind.value,
                signal.name_zh,
                signal.name_en,
                signal.unit,
                dict(signal.levels),
                dict(signal.thresholds),
                signal.start_delay_s,
                signal.end_delay_s,
                signal.period_s,
                signal.absolute_change,
                signal.alarm_text_zh,
                signal.normal_text_zh,
                signal.required,
                list(signal.points),
                signal.note,
                book_version,
            )
            for signal in signals
        ],
    )


async def retire(conn: WriteConn, codes: Sequence[str], book_version: int) -> None:
    """Take rows out of the table; they stay for the alarms that name them."""
    await conn.execute(
        "update signals set retired = true, version = $2 where code = any($1)", list(codes), book_version
    )


def _version(row: asyncpg.Record) -> TableVersion:
    facts = row["layout"]
    columns = tuple(
        replace(Column(**column), meaning=None if column["meaning"] is None else Meaning(column["meaning"]))
        for column in facts["columns"]
    )
    layout = Layout(columns, tuple(tuple(head) for head in facts["heads"]))
    return TableVersion(**{**dict(row.items()), "layout": layout})
