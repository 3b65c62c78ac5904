"""All SQL of alarm."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg
import orjson

from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import JsonObject, Phase
from libs.common.contracts.delivery import DeliveryEvent
from libs.common.db import ReadConn, WriteConn
from services.alarm.dictionary import SHIPPED_VERSION, RuleRow, SignalTable, make_rule
from services.alarm.domain.engine import Judged
from services.alarm.domain.model import (
    Band,
    Comparison,
    ConditionAlarm,
    Episode,
    Quantifier,
    Rule,
    Signal,
    SignalKind,
    State,
    from_us,
    to_us,
)
from services.alarm.domain.rulebook import PARAMETERS, Override, RuleBook, Scope
from services.alarm.domain.shutdowns import Shutdown
from services.alarm.views import AlarmFilter, AlarmRow, DeliveryRow, Note, StoredOverride

# The signal table and the rules.


async def seed(conn: WriteConn, table: SignalTable) -> bool:
    """Take over the shipped table when it is newer than what is stored; return whether it was.

    Rows that the table no longer has stay: alarms name them.
    """
    row = await conn.fetchrow("select version, shipped_version from rulebook for update")
    if row["shipped_version"] >= SHIPPED_VERSION:
        return False
    version = row["version"] + 1
    for dictionary in table.dictionaries:
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
    for signal in table.signals.values():
        await _put_signal(conn, signal, version)
    for rule in table.rules.values():
        await _put_rule(conn, rule, version)
    await conn.execute("update rulebook set version = $1, shipped_version = $2", version, SHIPPED_VERSION)
    return True


async def _put_signal(conn: WriteConn, signal: Signal, version: int) -> None:
    await conn.execute(
        """
        insert into signals (code, dictionary, equipment_type, equipment_zh, kind, name_zh, name_en, unit, levels,
                             thresholds, start_delay_s, end_delay_s, period_s, absolute_change, alarm_text_zh,
                             normal_text_zh, required, points, note, version)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
            on conflict (code) do update set
               dictionary = excluded.dictionary, equipment_type = excluded.equipment_type,
               equipment_zh = excluded.equipment_zh, kind = excluded.kind, name_zh = excluded.name_zh,
               name_en = excluded.name_en, unit = excluded.unit, levels = excluded.levels,
               thresholds = excluded.thresholds, start_delay_s = excluded.start_delay_s,
               end_delay_s = excluded.end_delay_s, period_s = excluded.period_s,
               absolute_change = excluded.absolute_change, alarm_text_zh = excluded.alarm_text_zh,
               normal_text_zh = excluded.normal_text_zh, required = excluded.required, points = excluded.points,
               note = excluded.note, version = excluded.version
        """,
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
        version,
    )


async def _put_rule(conn: WriteConn, rule: RuleRow, version: int) -> None:
    await conn.execute(
        """
        insert into rules (rule_id, signal, comparison, quantifier, points, unit, device_kinds, band, band_group,
                           supply, threshold, hysteresis, max_gap_s, version)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
            on conflict (rule_id) do update set
               signal = excluded.signal, comparison = excluded.comparison, quantifier = excluded.quantifier,
               points = excluded.points, unit = excluded.unit, device_kinds = excluded.device_kinds,
               band = excluded.band, band_group = excluded.band_group, supply = excluded.supply,
               threshold = excluded.threshold, hysteresis = excluded.hysteresis, max_gap_s = excluded.max_gap_s,
               version = excluded.version
        """,
        rule.rule_id,
        rule.signal,
        rule.comparison.value,
        rule.quantifier.value,
        list(rule.points),
        rule.unit,
        list(rule.device_kinds),
        None if rule.band is None else rule.band.value,
        rule.group,
        rule.supply,
        rule.threshold,
        rule.hysteresis,
        rule.max_gap_s,
        version,
    )


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
               note
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
    rows = await conn.fetch(
        """
        select r.rule_id, r.signal, r.comparison, r.quantifier, r.points, r.unit, r.device_kinds, r.band,
               r.band_group, r.supply, r.threshold, r.hysteresis, r.max_gap_s,
               greatest(r.version, s.version) as version
          from rules r join signals s on s.code = r.signal
        """
    )
    overrides = [stored.override for stored in await fetch_overrides(conn)]
    return RuleBook(
        rules={row["rule_id"]: _rule(row, signals) for row in rows},
        overrides={(one.rule_id, one.scope, one.scope_id): one for one in overrides},
        class_map=class_map,
        version=version,
    )


async def fetch_overrides(conn: ReadConn | WriteConn, rule_id: str | None = None) -> list[StoredOverride]:
    """Return all overrides, or those of a rule; the empty ones that were taken back among them."""
    rows = await conn.fetch(
        """
        select rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis, start_delay_s, end_delay_s,
               max_gap_s, changed_by, changed_at, reason
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
                **{name: row[name] for name in PARAMETERS},
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
                                    start_delay_s, end_delay_s, max_gap_s, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
            on conflict (rule_id, scope, scope_id) do update set
               version = excluded.version, enabled = excluded.enabled, level = excluded.level,
               threshold = excluded.threshold, hysteresis = excluded.hysteresis,
               start_delay_s = excluded.start_delay_s, end_delay_s = excluded.end_delay_s,
               max_gap_s = excluded.max_gap_s, changed_by = excluded.changed_by, changed_at = excluded.changed_at,
               reason = excluded.reason
        """,
        *values,
    )
    await conn.execute(
        """
        insert into rule_override_versions (rule_id, scope, scope_id, version, enabled, level, threshold, hysteresis,
                                            start_delay_s, end_delay_s, max_gap_s, changed_by, changed_at, reason)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
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
    )


def _rule(row: asyncpg.Record, signals: Mapping[str, Signal]) -> Rule:
    return make_rule(
        RuleRow(
            rule_id=row["rule_id"],
            signal=row["signal"],
            comparison=Comparison(row["comparison"]),
            quantifier=Quantifier(row["quantifier"]),
            points=tuple(row["points"]),
            unit=row["unit"],
            device_kinds=tuple(row["device_kinds"]),
            band=None if row["band"] is None else Band(row["band"]),
            group=row["band_group"],
            supply=row["supply"],
            threshold=row["threshold"],
            hysteresis=row["hysteresis"],
            max_gap_s=row["max_gap_s"],
        ),
        signals[row["signal"]],
        row["version"],
    )


# State of the rules.


async def fetch_judged(conn: WriteConn, partitions: Collection[int]) -> list[Judged]:
    """Return how far the devices of partitions were judged."""
    rows = await conn.fetch(
        "select device_id, partition, judged_at, received_at from judged where partition = any($1::integer[])",
        sorted(partitions),
    )
    return [
        Judged(row["device_id"], row["partition"], to_us(row["judged_at"]), to_us(row["received_at"])) for row in rows
    ]


async def put_judged(conn: WriteConn, judged: Sequence[Judged]) -> None:
    """Write how far devices were judged."""
    await conn.execute(
        """
        insert into judged (device_id, partition, judged_at, received_at)
        select * from unnest($1::text[], $2::integer[], $3::timestamptz[], $4::timestamptz[])
            on conflict (device_id) do update set
               partition = excluded.partition, judged_at = excluded.judged_at, received_at = excluded.received_at
        """,
        [one.device_id for one in judged],
        [one.partition for one in judged],
        [from_us(one.judged_us) for one in judged],
        [from_us(one.received_us) for one in judged],
    )


async def fetch_episodes(conn: WriteConn, partitions: Collection[int]) -> list[tuple[str, str, Episode]]:
    """Return device, rule and episode of everything that is not NORMAL in partitions."""
    rows = await conn.fetch(
        """
        select device_id, rule_id, state, since, began_at, seen_at, point_values, rule_version, site_id, signal, level,
               alarm_id, sequence, inhibited_by
          from episodes where partition = any($1::integer[])
         order by device_id, rule_id
        """,
        sorted(partitions),
    )
    return [(row["device_id"], row["rule_id"], _episode(row)) for row in rows]


def _episode(row: asyncpg.Record) -> Episode:
    return Episode(
        state=State(row["state"]),
        since_us=to_us(row["since"]),
        began_us=to_us(row["began_at"]),
        seen_us=to_us(row["seen_at"]),
        values=row["point_values"],
        rule_version=row["rule_version"],
        site_id=row["site_id"],
        signal=row["signal"],
        level=row["level"],
        alarm_id=row["alarm_id"],
        sequence=row["sequence"],
        inhibited_by=row["inhibited_by"],
    )


async def put_episodes(
    conn: WriteConn, episodes: Mapping[tuple[str, str], Episode | None], partitions: Mapping[str, int]
) -> None:
    """Write what is not NORMAL and delete what is again.

    Args:
        conn: The transaction.
        episodes: (device, rule) to its episode, None for NORMAL.
        partitions: Device to partition.
    """
    over = [key for key, episode in episodes.items() if episode is None]
    if over:
        await conn.execute(
            """
            delete from episodes e using unnest($1::text[], $2::text[]) as gone (device_id, rule_id)
             where e.device_id = gone.device_id and e.rule_id = gone.rule_id
            """,
            [device_id for device_id, _ in over],
            [rule_id for _, rule_id in over],
        )
    kept = [(*key, episode) for key, episode in episodes.items() if episode is not None]
    if not kept:
        return
    await conn.execute(
        """
        insert into episodes (device_id, rule_id, partition, state, since, began_at, seen_at, point_values,
                              rule_version, site_id, signal, level, alarm_id, sequence, inhibited_by)
        select device_id, rule_id, partition, state, since, began_at, seen_at, point_values::jsonb, rule_version,
               site_id, signal, level, alarm_id, sequence, inhibited_by
          from unnest($1::text[], $2::text[], $3::integer[], $4::smallint[], $5::timestamptz[], $6::timestamptz[],
                      $7::timestamptz[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::integer[],
                      $13::text[], $14::integer[], $15::text[])
            as e (device_id, rule_id, partition, state, since, began_at, seen_at, point_values, rule_version, site_id,
                  signal, level, alarm_id, sequence, inhibited_by)
            on conflict (device_id, rule_id) do update set
               partition = excluded.partition, state = excluded.state, since = excluded.since,
               began_at = excluded.began_at, seen_at = excluded.seen_at, point_values = excluded.point_values,
               rule_version = excluded.rule_version, site_id = excluded.site_id, signal = excluded.signal,
               level = excluded.level, alarm_id = excluded.alarm_id, sequence = excluded.sequence,
               inhibited_by = excluded.inhibited_by
        """,
        [device_id for device_id, _, _ in kept],
        [rule_id for _, rule_id, _ in kept],
        [partitions[device_id] for device_id, _, _ in kept],
        [int(episode.state) for _, _, episode in kept],
        [from_us(episode.since_us) for _, _, episode in kept],
        [from_us(episode.began_us) for _, _, episode in kept],
        [from_us(episode.seen_us) for _, _, episode in kept],
        [orjson.dumps(dict(episode.values)).decode() for _, _, episode in kept],
        [episode.rule_version for _, _, episode in kept],
        [episode.site_id for _, _, episode in kept],
        [episode.signal for _, _, episode in kept],
        [episode.level for _, _, episode in kept],
        [episode.alarm_id for _, _, episode in kept],
        [episode.sequence for _, _, episode in kept],
        [episode.inhibited_by for _, _, episode in kept],
    )


async def fetch_shutdowns(conn: WriteConn, partitions: Collection[int]) -> list[Shutdown]:
    """Return what control has switched off in partitions."""
    rows = await conn.fetch(
        """
        select device_id, partition, reference, since, planned_end, until
          from shutdowns where partition = any($1::integer[])
        """,
        sorted(partitions),
    )
    return [
        Shutdown(
            device_id=row["device_id"],
            partition=row["partition"],
            reference=row["reference"],
            since_us=to_us(row["since"]),
            planned_end_us=None if row["planned_end"] is None else to_us(row["planned_end"]),
            until_us=None if row["until"] is None else to_us(row["until"]),
        )
        for row in rows
    ]


async def put_shutdowns(conn: WriteConn, shutdowns: Iterable[Shutdown]) -> None:
    """Write shutdowns, one per device."""
    for shutdown in shutdowns:
        await conn.execute(
            """
            insert into shutdowns (device_id, partition, reference, since, planned_end, until)
            values ($1, $2, $3, $4, $5, $6)
                on conflict (device_id) do update set
                   partition = excluded.partition, reference = excluded.reference, since = excluded.since,
                   planned_end = excluded.planned_end, until = excluded.until
            """,
            shutdown.device_id,
            shutdown.partition,
            shutdown.reference,
            from_us(shutdown.since_us),
            None if shutdown.planned_end_us is None else from_us(shutdown.planned_end_us),
            None if shutdown.until_us is None else from_us(shutdown.until_us),
        )


async def delete_shutdowns(conn: WriteConn, device_ids: Sequence[str]) -> None:
    """Forget shutdowns."""
    await conn.execute("delete from shutdowns where device_id = any($1::text[])", list(device_ids))


# Alarms.


async def put_events(conn: WriteConn, events: Sequence[AlarmEvent]) -> list[AlarmEvent]:
    """Write alarm events and what they make of the alarms; return those that were not there before, in order."""
    rows = await conn.fetch(
        """
        insert into alarm_events (alarm_id, sequence, phase, decided_at, event)
        select alarm_id, sequence, phase, decided_at, event::jsonb
          from unnest($1::text[], $2::integer[], $3::text[], $4::timestamptz[], $5::text[])
            as e (alarm_id, sequence, phase, decided_at, event)
            on conflict (alarm_id, sequence) do nothing
        returning alarm_id, sequence
        """,
        [event.alarm_id for event in events],
        [event.sequence for event in events],
        [event.phase.value for event in events],
        [event.raised_at or event.began_at for event in events],
        [event.to_json().decode() for event in events],
    )
    fresh = {(row["alarm_id"], row["sequence"]) for row in rows}
    news = [event for event in events if (event.alarm_id, event.sequence) in fresh]
    await _insert_alarms(conn, [event for event in news if event.phase is Phase.BEGIN])
    last = {event.alarm_id: event for event in news if event.phase is not Phase.BEGIN}
    await _update_alarms(conn, list(last.values()))
    return news


async def _insert_alarms(conn: WriteConn, begins: Sequence[AlarmEvent]) -> None:
    if not begins:
        return
    await conn.execute(
        """
        insert into alarms (alarm_id, site_id, device_id, rule_id, rule_version, subject, circuit_id, signal, level,
                            sequence, began_at, raised_at, inhibited_by, point, value, threshold, unit, detail,
                            detail_zh)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[],
                             $8::text[], $9::integer[], $10::integer[], $11::timestamptz[], $12::timestamptz[],
                             $13::text[], $14::text[], $15::float8[], $16::float8[], $17::text[], $18::text[],
                             $19::text[])
            on conflict (alarm_id) do nothing
        """,
        [event.alarm_id for event in begins],
        [event.site_id for event in begins],
        [event.device_id for event in begins],
        [event.rule_id for event in begins],
        [event.rule_version for event in begins],
        [event.subject for event in begins],
        [event.circuit_id for event in begins],
        [event.signal for event in begins],
        [int(event.level) for event in begins],
        [event.sequence for event in begins],
        [event.began_at for event in begins],
        [event.raised_at or event.began_at for event in begins],
        [event.inhibited_by for event in begins],
        [event.point for event in begins],
        [event.value for event in begins],
        [event.threshold for event in begins],
        [event.unit for event in begins],
        [event.text for event in begins],
        [event.text_zh for event in begins],
    )


async def _update_alarms(conn: WriteConn, steps: Sequence[AlarmEvent]) -> None:
    if not steps:
        return
    await conn.execute(
        """
        update alarms a
           set level = s.level, sequence = s.sequence, inhibited_by = s.inhibited_by, ended_at = s.ended_at,
               end_reason = s.end_reason, closed_at = s.closed_at, detail = coalesce(s.detail, a.detail),
               detail_zh = coalesce(s.detail_zh, a.detail_zh),
               rule_version = coalesce(s.rule_version, a.rule_version)
          from unnest($1::text[], $2::integer[], $3::integer[], $4::text[], $5::timestamptz[], $6::text[],
                      $7::timestamptz[], $8::bigint[], $9::text[], $10::text[])
            as s (alarm_id, level, sequence, inhibited_by, ended_at, end_reason, closed_at, rule_version, detail,
                  detail_zh)
         where a.alarm_id = s.alarm_id
        """,
        [event.alarm_id for event in steps],
        [int(event.level) for event in steps],
        [event.sequence for event in steps],
        [event.inhibited_by for event in steps],
        [event.ended_at for event in steps],
        [None if event.end_reason is None else event.end_reason.value for event in steps],
        [event.raised_at if event.phase is Phase.END else None for event in steps],
        [event.rule_version for event in steps],
        [event.text if event.phase is Phase.UPDATE else None for event in steps],
        [event.text_zh if event.phase is Phase.UPDATE else None for event in steps],
    )


async def fetch_condition_alarm(conn: WriteConn, key: str) -> ConditionAlarm | None:
    """Return the last alarm of a finding, active or ended; None when it never made one."""
    row = await conn.fetchrow(
        """
        select alarm_id, sequence, level, began_at, ended_at, detail
          from alarms where condition_key = $1 order by began_at desc, alarm_id desc limit 1
        """,
        key,
    )
    return None if row is None else ConditionAlarm(**dict(row))


async def set_condition_key(conn: WriteConn, alarm_id: str, key: str) -> None:
    """Note which finding made an alarm."""
    await conn.execute("update alarms set condition_key = $2 where alarm_id = $1", alarm_id, key)


async def fetch_alarms(
    conn: ReadConn, wanted: AlarmFilter, *, after: tuple[datetime, str] | None, limit: int
) -> list[AlarmRow]:
    """Return alarms, the youngest first.

    Args:
        conn: Where to read.
        wanted: The filter.
        after: Begin and id of the last alarm of the page before.
        limit: How many at most.
    """
    rows = await conn.fetch(
        """
        select a.alarm_id, a.site_id, a.device_id, a.rule_id, a.rule_version, a.subject, a.circuit_id, a.signal,
               s.name_en as signal_name, s.name_zh as signal_name_zh, a.level, a.sequence, a.began_at, a.raised_at,
               a.ended_at, a.closed_at, a.end_reason, a.inhibited_by, a.point, a.value, a.threshold, a.unit, a.detail,
               a.detail_zh, a.acknowledged_at, a.acknowledged_by
          from alarms a left join signals s on s.code = a.signal
         where ($1::boolean is null or (a.ended_at is null) = $1)
           and ($2::text[] is null or a.site_id = any($2))
           and ($3::text is null or a.device_id = $3)
           and ($4::text is null or a.signal = $4)
           and ($5::integer[] is null or a.level = any($5))
           and ($6::boolean is null or (a.acknowledged_at is not null) = $6)
           and ($7::boolean is null or (a.inhibited_by is not null) = $7)
           and ($8::timestamptz is null or a.began_at >= $8)
           and ($9::timestamptz is null or a.began_at < $9)
           and ($10::timestamptz is null or (a.began_at, a.alarm_id) < ($10, $11::text))
         order by a.began_at desc, a.alarm_id desc
         limit $12
        """,
        wanted.active,
        None if wanted.sites is None else list(wanted.sites),
        wanted.device_id,
        wanted.signal,
        None if wanted.levels is None else list(wanted.levels),
        wanted.acknowledged,
        wanted.inhibited,
        wanted.began_from,
        wanted.began_before,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [AlarmRow(**dict(row)) for row in rows]


async def fetch_alarm(conn: ReadConn | WriteConn, alarm_id: str, *, lock: bool = False) -> AlarmRow | None:
    """Return an alarm, None when there is none; ``lock`` keeps others from changing it in this transaction."""
    row = await conn.fetchrow(_ALARM_LOCKED if lock else _ALARM, alarm_id)
    return None if row is None else AlarmRow(**dict(row))


_ALARM = """
    select a.alarm_id, a.site_id, a.device_id, a.rule_id, a.rule_version, a.subject, a.circuit_id, a.signal,
           s.name_en as signal_name, s.name_zh as signal_name_zh, a.level, a.sequence, a.began_at, a.raised_at,
           a.ended_at, a.closed_at, a.end_reason, a.inhibited_by, a.point, a.value, a.threshold, a.unit, a.detail,
           a.detail_zh, a.acknowledged_at, a.acknowledged_by
      from alarms a left join signals s on s.code = a.signal
     where a.alarm_id = $1
"""
_ALARM_LOCKED = _ALARM + " for update of a"


async def fetch_events(conn: ReadConn, alarm_id: str) -> list[JsonObject]:
    """Return the events of an alarm as they were published, in order."""
    rows = await conn.fetch("select event from alarm_events where alarm_id = $1 order by sequence", alarm_id)
    return [row["event"] for row in rows]


async def fetch_notes(conn: ReadConn, alarm_id: str) -> list[Note]:
    """Return the notes on an alarm, oldest first."""
    rows = await conn.fetch("select at, actor, note from alarm_notes where alarm_id = $1 order by id", alarm_id)
    return [Note(**dict(row)) for row in rows]


async def put_note(conn: WriteConn, alarm_id: str, note: Note) -> None:
    """Add a note to an alarm."""
    await conn.execute(
        "insert into alarm_notes (alarm_id, at, actor, note) values ($1, $2, $3, $4)",
        alarm_id,
        note.at,
        note.actor,
        note.note,
    )


async def acknowledge(conn: WriteConn, alarm_id: str, *, actor: str, at: datetime) -> None:
    """Note that somebody has taken an alarm up; who did so first stands."""
    await conn.execute(
        """
        update alarms set acknowledged_at = $2, acknowledged_by = $3
         where alarm_id = $1 and acknowledged_at is null
        """,
        alarm_id,
        at,
        actor,
    )


async def put_deliveries(conn: WriteConn, deliveries: Sequence[tuple[str, DeliveryEvent]]) -> None:
    """Write the state of deliveries, each with the id of its alarm; an older state than known changes nothing."""
    for alarm_id, event in deliveries:
        await conn.execute(
            """
            insert into alarm_deliveries as d (alarm_id, destination, item, item_kind, state, attempts, at, error)
            values ($1, $2, $3, $4, $5, $6, $7, $8)
                on conflict (alarm_id, destination, item) do update set
                   item_kind = coalesce(excluded.item_kind, d.item_kind), state = excluded.state,
                   attempts = excluded.attempts, at = excluded.at, error = excluded.error
             where excluded.at >= d.at
            """,
            alarm_id,
            event.destination,
            event.item,
            event.item_kind,
            event.state.value,
            event.attempts,
            event.at,
            event.error,
        )


async def fetch_deliveries(conn: ReadConn, alarm_ids: Sequence[str]) -> dict[str, list[DeliveryRow]]:
    """Return the deliveries of alarms, by alarm, in order of destination and item."""
    rows = await conn.fetch(
        """
        select alarm_id, destination, item, item_kind, state, attempts, at, error
          from alarm_deliveries where alarm_id = any($1::text[])
         order by alarm_id, destination, item
        """,
        list(alarm_ids),
    )
    found: dict[str, list[DeliveryRow]] = {}
    for row in rows:
        found.setdefault(row["alarm_id"], []).append(DeliveryRow(**dict(row)))
    return found


async def count_active(conn: ReadConn) -> dict[tuple[int, bool], int]:
    """Return how many alarms are active, by level and whether something inhibits them."""
    rows = await conn.fetch(
        """
        select level, inhibited_by is not null as inhibited, count(*) as number
          from alarms where ended_at is null group by 1, 2
        """
    )
    return {(row["level"], row["inhibited"]): row["number"] for row in rows}
