"""Findings of the platform itself become alarms: the finder has judged already, so there are no delays.

A finding is known by site, source, kind and subject. Findings come at least once: a begin of what is active
and an end of what is not change nothing, nor does a begin that is not younger than the last end.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime

from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, AlarmOrder, Condition, EndReason
from libs.common.contracts.base import Phase
from libs.common.ids import AlarmId
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain.model import ALARM_NAMESPACE, ConditionAlarm, Signal

DEFAULT_LEVEL = 3
"""Of a finding that neither the table nor the finder rates."""


def key_of(condition: Condition) -> str:
    """Return what begin and end of one finding have in common."""
    return "|".join((condition.site_id, condition.source, condition.kind, condition.subject))


def events_of(
    condition: Condition, at: datetime, last: ConditionAlarm | None, signals: Mapping[str, Signal], now: datetime
) -> list[AlarmEvent]:
    """Return the alarm events that a finding makes, none when it is no news.

    Args:
        condition: The finding.
        at: When it was so.
        last: The last alarm of the same finding.
        signals: The signal table; it has the last word on the level.
        now: Our clock.
    """
    active = last if last is not None and last.ended_at is None else None
    if condition.phase is Phase.END:
        return [] if active is None else [_end(condition, active, at, signals, now)]
    if active is not None:
        level = _level(condition, signals)
        if condition.phase is Phase.ONCE or (level == active.level and condition.detail == active.detail):
            return []
        return [_update(condition, active, signals, now)]
    if last is not None and last.ended_at is not None and at <= last.ended_at:
        return []
    alarm_id = str(uuid.uuid5(ALARM_NAMESPACE, f"{key_of(condition)}|{at.isoformat()}"))
    begin = _event(condition, Phase.BEGIN, alarm_id, 1, at, signals, now)
    if condition.phase is not Phase.ONCE:
        return [begin]
    begun = ConditionAlarm(alarm_id, 1, int(begin.level), at, None, condition.detail)
    return [begin, _end(condition, begun, at, signals, now)]


def marked(last: AlarmEvent, inhibited_by: str | None, now: datetime) -> AlarmEvent:
    """Return the next event of an active finding: something explains it since then, or nothing any more."""
    return last.model_copy(
        update={
            "phase": Phase.UPDATE,
            "sequence": last.sequence + 1,
            "inhibited_by": inhibited_by,
            "raised_at": now,
        }
    )


def dismissal_of(last: AlarmEvent, order: AlarmOrder, now: datetime) -> AlarmEvent:
    """Return the end of an active finding's alarm that a person has ordered."""
    changes = {
        "phase": Phase.END,
        "sequence": last.sequence + 1,
        "ended_at": max(order.at, last.began_at),
        "end_reason": EndReason.MANUAL,
        "actor": order.actor,
        "note": order.reason,
        "raised_at": now,
    }
    return AlarmEvent.model_validate(last.model_dump() | changes)


def _end(
    condition: Condition, active: ConditionAlarm, at: datetime, signals: Mapping[str, Signal], now: datetime
) -> AlarmEvent:
    event = _update(condition, active, signals, now)
    changes = {
        "phase": Phase.END,
        "ended_at": max(at, active.began_at),
        "end_reason": EndReason.RECOVERED,
        "level": AlarmLevel(active.level),
    }
    return AlarmEvent.model_validate(event.model_dump() | changes)


def _update(condition: Condition, active: ConditionAlarm, signals: Mapping[str, Signal], now: datetime) -> AlarmEvent:
    sequence = active.sequence + 1
    return _event(
        condition,
        Phase.UPDATE,
        active.alarm_id,
        sequence,
        active.began_at,
        signals,
        now,
        inhibited_by=active.inhibited_by,
    )


def _event(
    condition: Condition,
    phase: Phase,
    alarm_id: str,
    sequence: int,
    began_at: datetime,
    signals: Mapping[str, Signal],
    now: datetime,
    *,
    inhibited_by: str | None = None,
) -> AlarmEvent:
    code = CONDITION_PREFIX + condition.kind
    signal = signals.get(code)
    return AlarmEvent.model_validate(
        {
            "alarm_id": AlarmId(alarm_id),
            "site_id": condition.site_id,
            "sequence": sequence,
            "phase": phase,
            "level": _level(condition, signals),
            "signal": code,
            "began_at": began_at,
            "device_id": condition.device_id,
            "signal_name": signal.name_en if signal is not None else condition.kind,
            "signal_name_zh": signal.name_zh if signal is not None else None,
            "text": condition.detail,
            "text_zh": condition.detail_zh,
            "subject": condition.subject,
            "circuit_id": condition.circuit_id,
            "inhibited_by": inhibited_by,
            "raised_at": now,
        }
    )


def _level(condition: Condition, signals: Mapping[str, Signal]) -> int:
    signal = signals.get(CONDITION_PREFIX + condition.kind)
    if signal is not None and signal.levels:
        return min(signal.levels.values())
    return int(condition.level) if condition.level is not None else DEFAULT_LEVEL
