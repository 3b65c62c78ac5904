"""What somebody else has judged becomes alarms: findings of the platform, events of devices, rules over energy.

There are no delays here: the finder has judged already. Findings come at least once: a begin of what is active and
an end of what is not change nothing, nor does a begin that is not younger than the last end.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, AlarmOrder, Condition, EndReason
from libs.common.contracts.base import Phase
from libs.common.ids import AlarmId
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain.model import ALARM_NAMESPACE, ConditionAlarm, Signal

DEFAULT_LEVEL = 3
"""Of a finding that neither the table nor the finder rates."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is so, or is not so any more."""

    key: str
    """What begin and end of one finding have in common."""
    site_id: str
    signal: str
    """Code in the signal table."""
    phase: Phase
    at: datetime
    level: int
    detail: str | None = None
    detail_zh: str | None = None
    subject: str | None = None
    device_id: str | None = None
    circuit_id: str | None = None
    rule_id: str | None = None
    """The row of a table that says so; none for what the platform finds about itself."""
    rule_version: int | None = None
    point: str | None = None
    value: float | None = None
    threshold: float | None = None
    unit: str | None = None
    historical: bool = False
    """It comes so late that nobody is told."""
    remembered: bool = False
    """Its finder knows what it has said: a begin is news, however late it comes after the last end."""
    ordered: bool = False
    """Begin and end bear the time of one clock: an end that is older than the begin belongs to an alarm before."""


def finding_of(condition: Condition, at: datetime, signals: Mapping[str, Signal]) -> Finding:
    """Return a finding of the platform itself.

    Args:
        condition: As it was published.
        at: When it was so.
        signals: The signal table; it has the last word on the level.
    """
    code = CONDITION_PREFIX + condition.kind
    signal = signals.get(code)
    level = int(condition.level) if condition.level is not None else DEFAULT_LEVEL
    return Finding(
        key=key_of(condition),
        site_id=condition.site_id,
        signal=code,
        phase=condition.phase,
        at=at,
        level=min(signal.levels.values()) if signal is not None and signal.levels else level,
        detail=condition.detail,
        detail_zh=condition.detail_zh,
        subject=condition.subject,
        device_id=condition.device_id,
        circuit_id=condition.circuit_id,
    )


def key_of(condition: Condition) -> str:
    """Return what begin and end of one finding have in common."""
    return "|".join((condition.site_id, condition.source, condition.kind, condition.subject))


def events_of(
    finding: Finding, last: ConditionAlarm | None, signals: Mapping[str, Signal], now: datetime
) -> list[AlarmEvent]:
    """Return the alarm events that a finding makes, none when it is no news.

    Args:
        finding: The finding.
        last: The last alarm of the same finding.
        signals: The signal table, for names.
        now: Our clock.
    """
    active = last if last is not None and last.ended_at is None else None
    if finding.phase is Phase.END:
        if active is None or (finding.ordered and finding.at < active.began_at):
            return []
        return [_end(finding, active, signals, now)]
    if active is not None:
        if finding.phase is Phase.ONCE or (finding.level == active.level and finding.detail == active.detail):
            return []
        return [_update(finding, active, signals, now)]
    old = last is not None and last.ended_at is not None and finding.at <= last.ended_at
    if old and not finding.remembered:
        return []
    alarm_id = str(uuid.uuid5(ALARM_NAMESPACE, f"{finding.key}|{finding.at.isoformat()}"))
    begin = _event(finding, Phase.BEGIN, alarm_id, 1, finding.at, signals, now)
    if finding.phase is not Phase.ONCE:
        return [begin]
    return [begin, _end(finding, alarm_after(begin), signals, now)]


def alarm_after(event: AlarmEvent) -> ConditionAlarm:
    """Return what is known of a finding's alarm after this event."""
    return ConditionAlarm(
        alarm_id=event.alarm_id,
        sequence=event.sequence,
        level=int(event.level),
        began_at=event.began_at,
        ended_at=event.ended_at,
        detail=event.text,
        inhibited_by=event.inhibited_by,
    )


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
    changes = {"ended_at": max(order.at, last.began_at), "actor": order.actor, "note": order.reason}
    return _ended(last, EndReason.MANUAL, now, changes)


def withdrawal_of(last: AlarmEvent, reason: EndReason, at: datetime, now: datetime) -> AlarmEvent:
    """Return the end of an active finding's alarm whose device or rule is no more."""
    return _ended(last, reason, now, {"ended_at": max(at, last.began_at)})


def _ended(last: AlarmEvent, reason: EndReason, now: datetime, more: Mapping[str, object]) -> AlarmEvent:
    changes = {"phase": Phase.END, "sequence": last.sequence + 1, "end_reason": reason, "raised_at": now, **more}
    return AlarmEvent.model_validate(last.model_dump() | changes)


def _end(finding: Finding, active: ConditionAlarm, signals: Mapping[str, Signal], now: datetime) -> AlarmEvent:
    event = _update(finding, active, signals, now)
    changes = {
        "phase": Phase.END,
        "ended_at": max(finding.at, active.began_at),
        "end_reason": EndReason.RECOVERED,
        "level": AlarmLevel(active.level),
    }
    return AlarmEvent.model_validate(event.model_dump() | changes)


def _update(finding: Finding, active: ConditionAlarm, signals: Mapping[str, Signal], now: datetime) -> AlarmEvent:
    sequence = active.sequence + 1
    return _event(
        finding,
        Phase.UPDATE,
        active.alarm_id,
        sequence,
        active.began_at,
        signals,
        now,
        inhibited_by=active.inhibited_by,
    )


def _event(
    finding: Finding,
    phase: Phase,
    alarm_id: str,
    sequence: int,
    began_at: datetime,
    signals: Mapping[str, Signal],
    now: datetime,
    *,
    inhibited_by: str | None = None,
) -> AlarmEvent:
    signal = signals.get(finding.signal)
    return AlarmEvent.model_validate(
        {
            "alarm_id": AlarmId(alarm_id),
            "site_id": finding.site_id,
            "sequence": sequence,
            "phase": phase,
            "level": finding.level,
            "signal": finding.signal,
            "began_at": began_at,
            "device_id": finding.device_id,
            "signal_name": signal.name_en if signal is not None else finding.signal.removeprefix(CONDITION_PREFIX),
            "signal_name_zh": signal.name_zh if signal is not None else None,
            "text": finding.detail,
            "text_zh": finding.detail_zh,
            "subject": finding.subject,
            "circuit_id": finding.circuit_id,
            "inhibited_by": inhibited_by,
            "rule_id": finding.rule_id,
            "rule_version": finding.rule_version,
            "point": finding.point,
            "value": finding.value,
            "threshold": finding.threshold,
            "unit": finding.unit,
            "historical": finding.historical or None,
            "raised_at": now,
        }
    )
