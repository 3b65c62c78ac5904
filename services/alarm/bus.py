"""Payload to domain and back: readings into columns, steps of alarms onto their topic.

Readings are read from the JSON directly: a full model would cost as much again as judging, and ingest has
checked them. What cannot be read is held against the full model, so that the reason is a good one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import orjson
from pydantic import ValidationError

from libs.common.bus import envelope, topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Message, Received
from libs.common.contracts.alarm import (
    AlarmEvent,
    AlarmLevel,
    AlarmOrder,
    Condition,
    ConditionKind,
    Diagnosis,
    EndReason,
    MaintenanceWindow,
)
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import PLATFORM_SITE, Payload, Phase
from libs.common.contracts.carbon import CarbonResult, Interval
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.delivery import DeliveryEvent
from libs.common.contracts.device import DeviceEvent
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Heartbeat, Quality, Reading
from libs.common.ids import AlarmId, DeviceId, SiteId
from services.alarm.domain.beats import Beat
from services.alarm.domain.engine import Reports
from services.alarm.domain.model import NEVER_US, AlarmStep, Signal, StepPhase, from_us, to_us
from services.alarm.domain.sites import Shelf, StormNews, Window

SOURCE = "alarm"
NOTIFICATION_FAILED = "notification_failed"
"""Kind of the finding that a channel does not take notifications."""
_BAD = frozenset(quality.value for quality in Quality if quality.is_bad)


@dataclass(slots=True)
class Readings:
    """What a batch of the readings topic says."""

    reports: Reports = field(default_factory=Reports)
    clocks: dict[int, int] = field(default_factory=dict)
    """Partition to the largest ``received_at`` in the batch, heartbeats included. [µs]"""
    beats: list[Beat] = field(default_factory=list)
    """Heartbeats in order."""
    messages: list[Received] = field(default_factory=list)
    """The message of each report, to name the guilty one."""


def read_readings(batch: Iterable[Received], *, max_future_us: int) -> Readings:
    """Return reports and partition clocks of a batch, in order.

    A time of acceptance far after the bus took the message is a broken clock and does not move the partition's.

    Raises:
        PoisonMessage: A message is neither a reading nor a heartbeat.
    """
    found = Readings()
    reports, clocks = found.reports, found.clocks
    for received in batch:
        try:
            body = orjson.loads(received.value or b"null")
            device_id = body.get("device_id")
            received_us = _us(body["received_at"])
            if device_id is None:
                _require_heartbeat(received)
                instance = str(body["instance"])
            else:
                source_us = _us(body["source_time"])
                points: Mapping[str, float | None] = body["points"]
                quality = body.get("quality")
                bad = [name for name, flag in quality.items() if flag in _BAD] if quality else None
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise PoisonMessage(received, reason_of(received, exc)) from exc
        partition = received.partition
        if received_us <= round(received.appended_at.timestamp() * 1e6) + max_future_us:
            clocks[partition] = max(received_us, clocks.get(partition, NEVER_US))
            if device_id is None:
                found.beats.append(Beat(len(reports), partition, instance, received_us))
        if device_id is not None:
            reports.device_ids.append(device_id)
            reports.partitions.append(partition)
            reports.source_us.append(source_us)
            reports.received_us.append(received_us)
            reports.points.append(points)
            reports.bad.append(bad)
            found.messages.append(received)
    return found


def find_poison(messages: Sequence[Received]) -> PoisonMessage | None:
    """Return the first message that the full model refuses, None when there is none."""
    for received in messages:
        try:
            Reading.from_json(received.value or b"null")
        except (ValidationError, ValueError) as exc:
            return PoisonMessage(received, f"not a reading: {_short(exc)}")
    return None


def reason_of(received: Received, exc: Exception) -> str:
    """Return why a message of the readings topic cannot be read, in the full model's words where it has any."""
    model = Heartbeat if envelope.event_type(received) == HEARTBEAT_TYPE else Reading
    try:
        model.from_json(received.value or b"null")
    except (ValidationError, ValueError) as better:
        return f"not a {model.__name__.lower()}: {_short(better)}"
    return f"not a {model.__name__.lower()}: {exc}"


def _require_heartbeat(received: Received) -> None:
    if envelope.event_type(received) != HEARTBEAT_TYPE:
        raise KeyError("device_id")


def _us(text: str) -> int:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"a time without an offset: {text}")
    return round(when.timestamp() * 1e6)


def _short(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()[:5])
    return str(exc)


# Control


@dataclass(frozen=True, slots=True)
class SupplyNews:
    """What an event of control means for the supply of a load."""

    off: bool
    """Control takes the supply away; else it is back, or was never taken."""
    reference: str
    load_id: str | None
    device_id: str | None
    at_us: int
    planned_end_us: int | None
    any_reference: bool
    """The load was closed by a command of its own: whatever took the supply away is over."""


_OCCURRENCE_OFF = (OccurrenceState.SHUTTING_DOWN, OccurrenceState.SHUT_DOWN)
_OCCURRENCE_ON = (OccurrenceState.AWAKE, OccurrenceState.SKIPPED, OccurrenceState.CALLED_OFF)
_COMMAND_OFF = (
    CommandState.DISPATCHED,
    CommandState.ACCEPTED,
    CommandState.VERIFYING,
    CommandState.UNKNOWN,
    CommandState.SUCCEEDED,
)
_COMMAND_NOT_DONE = (CommandState.REJECTED, CommandState.CANCELLED, CommandState.EXPIRED, CommandState.FAILED)


def read_control(received: Received) -> SupplyNews | None:
    """Return what an event of control says about a load's supply, None when it says nothing about it.

    Raises:
        PoisonMessage: It is no event of control.
    """
    event = parse(ControlEvent, received)
    if isinstance(event.state, OccurrenceState):
        if event.state in _OCCURRENCE_OFF:
            return _news(event, off=True)
        return _news(event, off=False) if event.state in _OCCURRENCE_ON else None
    if event.occurrence_id is not None:
        # A shutdown of a plan is told of by its occurrence; its commands come and go within.
        return None
    if event.action is CommandAction.OPEN and event.state in _COMMAND_OFF:
        return _news(event, off=True)
    if event.action is CommandAction.OPEN and event.state in _COMMAND_NOT_DONE:
        return _news(event, off=False)
    if event.action is CommandAction.CLOSE and event.state is CommandState.SUCCEEDED:
        return _news(event, off=False, any_reference=True)
    return None


def _news(event: ControlEvent, *, off: bool, any_reference: bool = False) -> SupplyNews:
    reference = (
        f"occurrence:{event.occurrence_id}" if event.occurrence_id is not None else f"command:{event.command_id}"
    )
    return SupplyNews(
        off=off,
        reference=reference,
        load_id=event.load_id,
        device_id=event.device_id,
        at_us=to_us(event.at),
        planned_end_us=None if event.restore_at is None else to_us(event.restore_at),
        any_reference=any_reference,
    )


# Conditions and deliveries


def read_condition(received: Received) -> Condition:
    """Return a finding of the platform itself.

    Raises:
        PoisonMessage: It is none.
    """
    return parse(Condition, received)


def condition_time(received: Received, condition: Condition) -> datetime:
    """Return when the finding was so: as it says, else the event's time, else when the bus took it."""
    if condition.at is not None:
        return condition.at
    stamp = received.header("ce_time")
    if stamp is None:
        return received.appended_at
    try:
        when = datetime.fromisoformat(stamp.decode())
    except ValueError:
        return received.appended_at
    return when if when.tzinfo is not None else received.appended_at


def read_device_event(received: Received) -> DeviceEvent:
    """Return an event that a device sent.

    Raises:
        PoisonMessage: It is none.
    """
    return parse(DeviceEvent, received)


def read_interval(received: Received) -> Interval:
    """Return what was used in an interval of a circuit.

    Raises:
        PoisonMessage: It is none.
    """
    return parse(Interval, received)


def read_result(received: Received) -> CarbonResult:
    """Return what something came to in a period.

    Raises:
        PoisonMessage: It is no result.
    """
    return parse(CarbonResult, received)


def storm_condition(news: StormNews, at: datetime) -> Condition:
    """Return the finding that a storm of alarms at a site is."""
    if news.begins:
        detail = f"{news.count} alarms in a short time; those that follow are kept and not told one by one"
        detail_zh = f"短时间内产生 {news.count} 条告警，后续告警只记录、不逐条通知"
    else:
        detail = f"the storm is over; {news.count} alarms that it kept from being told are still active"
        detail_zh = f"告警风暴结束，期间未通知的告警仍有 {news.count} 条未恢复"
    return Condition(
        site_id=SiteId(news.site_id),
        source=SOURCE,
        kind=ConditionKind.ALARM_STORM.value,
        subject=news.site_id,
        phase=Phase.BEGIN if news.begins else Phase.END,
        detail=detail,
        detail_zh=detail_zh,
        at=at,
    )


def notification_condition(channel_id: str, phase: Phase, at: datetime) -> Message:
    """Return the finding that a channel does not take notifications any more, or takes them again."""
    condition = Condition(
        site_id=PLATFORM_SITE,
        source=SOURCE,
        kind=NOTIFICATION_FAILED,
        subject=channel_id,
        phase=phase,
        detail=f"notifications to channel {channel_id} are not taken; see GET /api/v1/notifications?state=failed",
        detail_zh=f"通知渠道 {channel_id} 无法送达，详见 GET /api/v1/notifications?state=failed",
        at=at,
    )
    return envelope.message(topics.CONDITIONS, PLATFORM_SITE, condition, source=SOURCE, time=at)


def read_alarm_event(received: Received) -> AlarmEvent:
    """Return an alarm event of our own.

    Raises:
        PoisonMessage: It is none.
    """
    return parse(AlarmEvent, received)


# What people order


def read_order(received: Received) -> AlarmOrder:
    """Return what a person orders about an alarm.

    Raises:
        PoisonMessage: It is no such order.
    """
    return parse(AlarmOrder, received)


def read_window(received: Received) -> MaintenanceWindow:
    """Return a maintenance window; a tombstone is the caller's.

    Raises:
        PoisonMessage: It is none.
    """
    return parse(MaintenanceWindow, received)


def window_of(window: MaintenanceWindow) -> Window:
    """Return a window in the words of the second stage."""
    devices = window.scope.device_ids
    return Window(
        window_id=window.window_id,
        site_id=window.scope.site_id,
        device_ids=None if devices is None else frozenset(devices),
        from_us=to_us(window.from_),
        to_us=to_us(window.to),
    )


def shelf_of(order: AlarmOrder) -> Shelf:
    """Return the shelf that an order asks for; its id is that of the alarm."""
    if order.until is None or order.rule_key is None:
        raise ValueError(f"order {order.order_id} shelves nothing")
    return Shelf(order.alarm_id, order.site_id, order.device_id, order.rule_key, to_us(order.until))


def order_message(order: AlarmOrder) -> Message:
    """Return the message of an order."""
    return envelope.message(
        topics.ALARM_ORDERS, order.site_id, order, source=SOURCE, time=order.at, event_id=order.order_id
    )


def window_message(window: MaintenanceWindow, at: datetime) -> Message:
    """Return the message of a window as it is to be from now on."""
    return envelope.message(
        topics.MAINTENANCE, window.window_id, window, source=SOURCE, time=at, partition_key=window.scope.site_id
    )


def window_tombstone(window: MaintenanceWindow, at: datetime) -> Message:
    """Return the message that a window is called off."""
    return envelope.tombstone(
        topics.MAINTENANCE, window.window_id, source=SOURCE, time=at, partition_key=window.scope.site_id
    )


def read_delivery(received: Received) -> DeliveryEvent:
    """Return what became of a delivery.

    Raises:
        PoisonMessage: It is no such event.
    """
    return parse(DeliveryEvent, received)


Model = TypeVar("Model", bound=Payload)


def parse(model: type[Model], received: Received) -> Model:
    """Return the payload of a message.

    Raises:
        PoisonMessage: It is none of that kind.
    """
    try:
        return model.from_json(received.value or b"null")
    except (ValidationError, ValueError) as exc:
        raise PoisonMessage(received, f"not a {model.__name__}: {_short(exc)}") from exc


# Alarm events


def event_of(step: AlarmStep, signal: Signal | None, raised_at: datetime) -> AlarmEvent:
    """Return the event that tells of a step."""
    ended = step.phase is StepPhase.END
    return AlarmEvent(
        alarm_id=AlarmId(step.alarm_id),
        site_id=SiteId(step.site_id),
        sequence=step.sequence,
        phase=_PHASES[step.phase],
        level=AlarmLevel(step.level),
        signal=step.signal,
        began_at=from_us(step.began_us),
        device_id=DeviceId(step.device_id),
        ended_at=from_us(step.ended_us) if ended and step.ended_us is not None else None,
        end_reason=EndReason(step.end_reason.value) if ended and step.end_reason is not None else None,
        inhibited_by=step.inhibited_by,
        signal_name=signal.name_en if signal is not None else None,
        signal_name_zh=signal.name_zh if signal is not None else None,
        text=_text(signal, ended),
        text_zh=_text_zh(signal, ended),
        point=step.point,
        value=step.value,
        threshold=step.threshold,
        unit=step.unit or None,
        rule_id=step.rule_id,
        rule_version=step.rule_version,
        raised_at=raised_at,
        actor=step.actor,
        note=step.note,
        flapping=True if step.flapping else None,
    )


_PHASES: Mapping[StepPhase, Phase] = {
    StepPhase.BEGIN: Phase.BEGIN,
    StepPhase.UPDATE: Phase.UPDATE,
    StepPhase.END: Phase.END,
}


def _text(signal: Signal | None, ended: bool) -> str | None:
    return None if signal is None else f"{signal.name_en}: {'normal' if ended else 'alarm'}"


def _text_zh(signal: Signal | None, ended: bool) -> str | None:
    if signal is None:
        return None
    meaning = signal.normal_text_zh if ended else signal.alarm_text_zh
    return f"{signal.name_zh} {meaning or ('正常' if ended else '告警')}"


def alarm_message(event: AlarmEvent, traceparent: str | None = None) -> Message:
    """Return the message of an alarm event; its id is that of the step, whoever publishes it again."""
    return envelope.message(
        topics.ALARM_EVENTS,
        event.site_id,
        event,
        source=SOURCE,
        time=event.raised_at or event.began_at,
        event_id=f"{event.alarm_id}:{event.sequence}",
        subject=event.device_id or event.subject,
        traceparent=traceparent,
    )


def diagnosis_message(diagnosis: Diagnosis, sequence: int, at: datetime) -> Message:
    """Return the message of a step of a diagnosis; its id is that of the step, whoever publishes it again."""
    return envelope.message(
        topics.DIAGNOSES,
        diagnosis.site_id,
        diagnosis,
        source=SOURCE,
        time=at,
        event_id=f"{diagnosis.diagnosis_id}:{sequence}",
        subject=diagnosis.device_id,
    )


def condition_message(condition: Condition, at: datetime) -> Message:
    """Return the message of a finding of our own."""
    return envelope.message(
        topics.CONDITIONS, condition.site_id, condition, source=SOURCE, time=at, subject=condition.subject
    )


def audit_message(event: AuditEvent) -> Message:
    """Return the message of a change by a person, a key or a service."""
    return envelope.message(topics.AUDIT, event.actor, event, source=SOURCE, time=event.at)
