"""SQL of rules as people write them, and of every version of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.model import Band, Comparison, Measure, Need, NoData, Quantifier
from services.alarm.domain.ruledata import RuleRow

MAX_VERSIONS = 1000
"""Versions of one rule, and of its overrides, that are listed."""


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A rule as it stands."""

    row: RuleRow
    version: int
    signal_version: int
    removed: bool
    """Somebody took it out; its id is not given again, since alarms name it."""
    changed_by: str | None
    """None: it is as it was shipped."""


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """What a rule was made at one time."""

    rule_id: str
    version: int
    removed: bool
    definition: JsonObject
    changed_by: str
    changed_at: datetime
    reason: str | None


async def put_shipped(conn: WriteConn, row: RuleRow, version: int) -> None:
    """Write a shipped rule, unless somebody has changed or removed it: what people decide outlives a release."""
    await conn.execute(_PUT + " where rules.changed_by is null", *_values(row, version, None, removed=False))


async def put_rule(conn: WriteConn, row: RuleRow, stored: RuleVersion) -> None:
    """Write a rule that somebody changed, and the version into the history."""
    await conn.execute(_PUT, *_values(row, stored.version, stored.changed_by, removed=stored.removed))
    await conn.execute(
        """
        insert into rule_versions (rule_id, version, removed, definition, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        stored.rule_id,
        stored.version,
        stored.removed,
        stored.definition,
        stored.changed_by,
        stored.changed_at,
        stored.reason,
    )


async def fetch_rules(conn: ReadConn | WriteConn) -> dict[str, StoredRule]:
    """Return all rules, the removed ones too."""
    rows = await conn.fetch(
        """
        select r.rule_id, r.signal, r.comparison, r.quantifier, r.points, r.unit, r.device_kinds, r.band,
               r.band_group, r.needs, r.takes, r.threshold, r.hysteresis, r.max_gap_s, r.enabled, r.level,
               r.start_delay_s, r.end_delay_s, r.measure, r.expression, r.no_data, r.version, r.changed_by, r.removed,
               s.version as signal_version
          from rules r join signals s on s.code = r.signal
         order by r.rule_id
        """
    )
    return {row["rule_id"]: _stored(row) for row in rows}


async def fetch_versions(conn: ReadConn, rule_id: str) -> list[RuleVersion]:
    """Return what people made of a rule, the youngest first."""
    rows = await conn.fetch(
        """
        select rule_id, version, removed, definition, changed_by, changed_at, reason
          from rule_versions where rule_id = $1 order by version desc limit $2
        """,
        rule_id,
        MAX_VERSIONS,
    )
    return [RuleVersion(**dict(row.items())) for row in rows]


async def fetch_override_versions(conn: ReadConn, rule_id: str) -> Sequence[Mapping[str, Any]]:
    """Return every version of every override of a rule, the youngest first; one that was taken back is empty."""
    rows = await conn.fetch(
        """
        select rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis, start_delay_s, end_delay_s,
               max_gap_s, no_data, changed_by, changed_at, reason
          from rule_override_versions where rule_id = $1 order by version desc limit $2
        """,
        rule_id,
        MAX_VERSIONS,
    )
    return [dict(row.items()) for row in rows]


_PUT = """
    insert into rules (rule_id, signal, comparison, quantifier, points, unit, device_kinds, band, band_group, needs,
                       takes, threshold, hysteresis, max_gap_s, enabled, level, start_delay_s, end_delay_s, measure,
                       expression, no_data, version, changed_by, removed)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
            $22, $23, $24)
        on conflict (rule_id) do update set
           signal = excluded.signal, comparison = excluded.comparison, quantifier = excluded.quantifier,
           points = excluded.points, unit = excluded.unit, device_kinds = excluded.device_kinds,
           band = excluded.band, band_group = excluded.band_group, needs = excluded.needs, takes = excluded.takes,
           threshold = excluded.threshold, hysteresis = excluded.hysteresis, max_gap_s = excluded.max_gap_s,
           enabled = excluded.enabled, level = excluded.level, start_delay_s = excluded.start_delay_s,
           end_delay_s = excluded.end_delay_s, measure = excluded.measure, expression = excluded.expression,
           no_data = excluded.no_data, version = excluded.version, changed_by = excluded.changed_by,
           removed = excluded.removed
"""


def _values(row: RuleRow, version: int, changed_by: str | None, *, removed: bool) -> list[Any]:
    return [
        row.rule_id,
        row.signal,
        row.comparison.value,
        row.quantifier.value,
        list(row.points),
        row.unit,
        list(row.device_kinds),
        None if row.band is None else row.band.value,
        row.group,
        sorted(need.value for need in row.needs),
        None if row.takes is None else row.takes.value,
        row.threshold,
        row.hysteresis,
        row.max_gap_s,
        row.enabled,
        row.level,
        row.start_delay_s,
        row.end_delay_s,
        row.measure.value,
        row.expression,
        row.no_data.value,
        version,
        changed_by,
        removed,
    ]


def _stored(row: asyncpg.Record) -> StoredRule:
    return StoredRule(
        row=RuleRow(
            rule_id=row["rule_id"],
            signal=row["signal"],
            comparison=Comparison(row["comparison"]),
            quantifier=Quantifier(row["quantifier"]),
            points=tuple(row["points"]),
            unit=row["unit"],
            device_kinds=tuple(row["device_kinds"]),
            band=None if row["band"] is None else Band(row["band"]),
            group=row["band_group"],
            needs=frozenset(map(Need, row["needs"])),
            takes=None if row["takes"] is None else Need(row["takes"]),
            threshold=row["threshold"],
            hysteresis=row["hysteresis"],
            max_gap_s=row["max_gap_s"],
            enabled=row["enabled"],
            level=row["level"],
            start_delay_s=row["start_delay_s"],
            end_delay_s=row["end_delay_s"],
            measure=Measure(row["measure"]),
            expression=row["expression"],
            no_data=NoData(row["no_data"]),
        ),
        version=row["version"],
        signal_version=row["signal_version"],
        removed=row["removed"],
        changed_by=row["changed_by"],
    )
