"""SQL of alarms, their events and notes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import JsonObject, Phase
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import AlarmId
from services.alarm.domain.model import (
    ConditionAlarm,
)
from services.alarm.views import AlarmFilter, AlarmRow, Note


@dataclass(frozen=True, slots=True)
class ActiveFinding:
    """An active alarm of a finding of the platform."""

    event: AlarmEvent
    """Its last event."""
    partition: int


async def put_events(conn: WriteConn, events: Sequence[AlarmEvent], partitions: Sequence[int]) -> list[AlarmEvent]:
    """Write alarm events and what they make of the alarms; return those that were not there before, in order.

    Args:
        conn: The transaction.
        events: In their order.
        partitions: Of each event, where its alarm lives.
    """
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
    where = dict(zip((event.alarm_id for event in events), partitions, strict=True))
    await _insert_alarms(conn, [event for event in news if event.phase is Phase.BEGIN], where)
    last = {event.alarm_id: event for event in news if event.phase is not Phase.BEGIN}
    await _update_alarms(conn, list(last.values()))
    return news


async def _insert_alarms(conn: WriteConn, begins: Sequence[AlarmEvent], partitions: Mapping[AlarmId, int]) -> None:
    if not begins:
        return
    await conn.execute(
        """
        insert into alarms (alarm_id, site_id, device_id, rule_id, rule_version, subject, circuit_id, signal, level,
                            sequence, began_at, raised_at, inhibited_by, point, value, threshold, unit, detail,
                            detail_zh, partition, flapping)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[],
                             $8::text[], $9::integer[], $10::integer[], $11::timestamptz[], $12::timestamptz[],
                             $13::text[], $14::text[], $15::float8[], $16::float8[], $17::text[], $18::text[],
                             $19::text[], $20::integer[], $21::boolean[])
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
        [partitions[event.alarm_id] for event in begins],
        [event.flapping is True for event in begins],
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


async def fetch_condition_alarms(conn: WriteConn, keys: Collection[str]) -> dict[str, ConditionAlarm]:
    """Return the last alarm of findings, active or ended, by their keys; one that never made an alarm is left out."""
    rows = await conn.fetch(
        """
        select distinct on (condition_key) condition_key, alarm_id, sequence, level, began_at, ended_at, detail,
               inhibited_by, dismissed
          from alarms where condition_key = any($1::text[])
         order by condition_key, began_at desc, alarm_id desc
        """,
        list(keys),
    )
    return {
        row["condition_key"]: ConditionAlarm(**{name: value for name, value in row.items() if name != "condition_key"})
        for row in rows
    }


async def set_condition_keys(conn: WriteConn, keys: Mapping[str, str]) -> None:
    """Note which finding made which alarm: alarm id to the key of the finding."""
    if keys:
        await conn.execute(
            """
            update alarms a set condition_key = k.key
              from unnest($1::text[], $2::text[]) as k (alarm_id, key) where a.alarm_id = k.alarm_id
            """,
            list(keys),
            list(keys.values()),
        )


async def fetch_active_findings(conn: WriteConn, partitions: Collection[int]) -> list[ActiveFinding]:
    """Return the active alarms of findings in partitions."""
    rows = await conn.fetch(
        """
        select e.event, a.partition
          from alarms a join alarm_events e on e.alarm_id = a.alarm_id and e.sequence = a.sequence
         where a.ended_at is null and a.condition_key is not null and a.partition = any($1::integer[])
         order by a.began_at, a.alarm_id
        """,
        sorted(partitions),
    )
    return [ActiveFinding(AlarmEvent.model_validate(row["event"]), row["partition"]) for row in rows]


async def fetch_begins(
    conn: WriteConn, partitions: Collection[int], since: datetime
) -> list[tuple[str, str, datetime]]:
    """Return device, rule and begin of the alarms of rules in partitions that began since then, in order."""
    rows = await conn.fetch(
        """
        select device_id, rule_id, began_at
          from alarms
         where partition = any($1::integer[]) and began_at >= $2 and rule_id is not null
         order by began_at
        """,
        sorted(partitions),
        since,
    )
    return [(row["device_id"], row["rule_id"], row["began_at"]) for row in rows]


async def fetch_last_event(conn: WriteConn, alarm_id: str) -> AlarmEvent | None:
    """Return the last event of an alarm, None when there is no such alarm."""
    event = await conn.fetchval(
        "select event from alarm_events where alarm_id = $1 order by sequence desc limit 1", alarm_id
    )
    return None if event is None else AlarmEvent.model_validate(event)


async def set_dismissed(conn: WriteConn, alarm_id: str, *, dismissed: bool) -> None:
    """Note that a person has ended a finding's alarm, or that the finding has ended since then."""
    await conn.execute("update alarms set dismissed = $2 where alarm_id = $1", alarm_id, dismissed)


async def assign(conn: WriteConn, alarm_id: str, assignee: str | None) -> None:
    """Note who sees to an alarm, None for nobody."""
    await conn.execute("update alarms set assigned_to = $2 where alarm_id = $1", alarm_id, assignee)


async def shelve(conn: WriteConn, alarm_id: str, *, until: datetime | None, actor: str | None) -> None:
    """Note until when an alarm is on a shelf, None for none."""
    await conn.execute(
        "update alarms set shelved_until = $2, shelved_by = $3 where alarm_id = $1", alarm_id, until, actor
    )


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
               a.detail_zh, a.acknowledged_at, a.acknowledged_by, a.flapping, a.assigned_to, a.shelved_until,
               a.shelved_by
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
           and ($13::text is null or a.assigned_to = $13)
           and ($14::boolean is null or a.flapping = $14)
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
        wanted.assigned_to,
        wanted.flapping,
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
           a.detail_zh, a.acknowledged_at, a.acknowledged_by, a.flapping, a.assigned_to, a.shelved_until,
               a.shelved_by
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


async def count_active(conn: ReadConn) -> dict[tuple[int, bool], int]:
    """Return how many alarms are active, by level and whether something inhibits them."""
    rows = await conn.fetch(
        """
        select level, inhibited_by is not null as inhibited, count(*) as number
          from alarms where ended_at is null group by 1, 2
        """
    )
    return {(row["level"], row["inhibited"]): row["number"] for row in rows}
