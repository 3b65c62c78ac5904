"""SQL of the signal table, its rules and their overrides."""

from collections.abc import Mapping
from datetime import datetime

import asyncpg

from libs.common.db import ReadConn, WriteConn
from services.alarm.dictionary import SHIPPED_VERSION, SignalTable
from services.alarm.domain.model import NoData, Signal, SignalKind
from services.alarm.domain.rulebook import PARAMETERS, Override, RuleBook, Scope
from services.alarm.domain.ruledata import make_rule
from services.alarm.store import ruledata, tables
from services.alarm.views import StoredOverride


async def seed(conn: WriteConn, table: SignalTable, now: datetime) -> bool:
    """Take over the shipped table when it is newer than what is stored; return whether it was.

    Rows that the table no longer has stay: alarms name them. What people imported or changed stays as they made it.
    """
    row = await conn.fetchrow("select version, shipped_version from rulebook for update")
    if row["shipped_version"] >= SHIPPED_VERSION:
        return False
    version = row["version"] + 1
    for dictionary in table.dictionaries:
        await tables.put_dictionary(conn, dictionary)
        await tables.seed(conn, dictionary.dictionary, table, version, now)
    for rule in table.rules.values():
        await ruledata.put_shipped(conn, rule, version)
    await conn.execute("update rulebook set version = $1, shipped_version = $2", version, SHIPPED_VERSION)
    return True


async def fetch_book_version(conn: ReadConn | WriteConn) -> int:
    """Return the version of table and overrides; it rises with every change."""
    version: int = await conn.fetchval("select version from rulebook")
    return version


async def fetch_signals(conn: ReadConn | WriteConn) -> dict[str, Signal]:
    """Return the whole signal table, in order of the codes."""
    rows = await conn.fetch(
        """
        select code, dictionary, equipment_type, equipment_zh, kind, name_zh, name_en, unit, levels, thresholds,
               start_delay_s, end_delay_s, period_s, absolute_change, alarm_text_zh, normal_text_zh, required, points,
               note, retired
          from signals order by code
        """
    )
    return {row["code"]: _signal(row) for row in rows}


async def fetch_book(conn: ReadConn | WriteConn, class_map: Mapping[str, str]) -> RuleBook:
    """Return all rules and overrides as of one statement's moment each; the version is read first.

    A change in between only makes the book newer than its version says, and it is then read again.
    """
    version = await fetch_book_version(conn)
    signals = await fetch_signals(conn)
    rules = [one for one in (await ruledata.fetch_rules(conn)).values() if not one.removed]
    overrides = [stored.override for stored in await fetch_overrides(conn)]
    return RuleBook(
        rules={
            one.row.rule_id: make_rule(one.row, signals[one.row.signal], max(one.version, one.signal_version))
            for one in rules
            if not signals[one.row.signal].retired
        },
        overrides={(one.rule_id, one.scope, one.scope_id): one for one in overrides},
        class_map=class_map,
        version=version,
    )


async def fetch_overrides(conn: ReadConn | WriteConn, rule_id: str | None = None) -> list[StoredOverride]:
    """Return all overrides, or those of a rule; the empty ones that were taken back among them."""
    rows = await conn.fetch(
        """
        select rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis, start_delay_s, end_delay_s,
               max_gap_s, no_data, changed_by, changed_at, reason
          from rule_overrides
         where $1::text is null or rule_id = $1
         order by rule_id, scope, scope_id
        """,
        rule_id,
    )
    return [
        StoredOverride(
            override=Override(
                rule_id=row["rule_id"],
                scope=Scope(row["scope"]),
                scope_id=row["scope_id"],
                version=row["version"],
                **{name: row[name] for name in PARAMETERS if name != "no_data"},
                no_data=None if row["no_data"] is None else NoData(row["no_data"]),
            ),
            changed_by=row["changed_by"],
            changed_at=row["changed_at"],
            reason=row["reason"],
        )
        for row in rows
    ]


async def next_book_version(conn: WriteConn) -> int:
    """Raise the version and return it; whoever else changes rules waits until this transaction ends."""
    version: int = await conn.fetchval("update rulebook set version = version + 1 returning version")
    return version


async def lock_book(conn: WriteConn) -> None:
    """Wait for whoever else changes rules, and keep others from it until this transaction ends."""
    await conn.execute("select version from rulebook for update")


async def put_override(conn: WriteConn, stored: StoredOverride) -> None:
    """Write an override in place of the one of its scope, and into the history."""
    override = stored.override
    values = [
        override.rule_id,
        override.scope.value,
        override.scope_id,
        override.version,
        *(getattr(override, name) for name in PARAMETERS),
        stored.changed_by,
        stored.changed_at,
        stored.reason,
    ]
    await conn.execute(
        """
        insert into rule_overrides (rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis,
                                    start_delay_s, end_delay_s, max_gap_s, no_data, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
            on conflict (rule_id, scope, scope_id) do update set
               version = excluded.version, enabled = excluded.enabled, level = excluded.level,
               threshold = excluded.threshold, hysteresis = excluded.hysteresis,
               start_delay_s = excluded.start_delay_s, end_delay_s = excluded.end_delay_s,
               max_gap_s = excluded.max_gap_s, no_data = excluded.no_data,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at, reason = excluded.reason
        """,
        *values,
    )
    await conn.execute(
        """
        insert into rule_override_versions (rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis,
                                            start_delay_s, end_delay_s, max_gap_s, no_data, changed_by, changed_at,
                                            reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        """,
        *values,
    )


def _signal(row: asyncpg.Record) -> Signal:
    return Signal(
        code=row["code"],
        dictionary=row["dictionary"],
        equipment_type=row["equipment_type"],
        equipment_zh=row["equipment_zh"],
        kind=SignalKind(row["kind"]),
        name_zh=row["name_zh"],
        name_en=row["name_en"],
        unit=row["unit"],
        levels=row["levels"],
        thresholds=row["thresholds"],
        start_delay_s=row["start_delay_s"],
        end_delay_s=row["end_delay_s"],
        period_s=row["period_s"],
        absolute_change=row["absolute_change"],
        alarm_text_zh=row["alarm_text_zh"],
        normal_text_zh=row["normal_text_zh"],
        required=row["required"],
        points=tuple(row["points"]),
        note=row["note"],
        retired=row["retired"],
    )
