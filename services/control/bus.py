"""Commands, results and events as they go over the bus; signing is done here, deciding is not."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError

from libs.common.bus import topics
from libs.common.bus.envelope import headers, message
from libs.common.bus.port import Message, Received
from libs.common.contracts import control as contract
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, Condition, ConditionKind, MaintenanceWindow
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction
from libs.common.ids import CommandId, DeviceId, LoadId, SiteId
from libs.common.signing import sign_each
from libs.common.tokens import KeyRing, canonical
from libs.common.tracing import current_traceparent
from services.control.domain.audit import Entry, facts_text
from services.control.domain.commands import Change, Command, Effect, Outcome, WireId
from services.control.domain.plans import Plan
from services.control.faultcodes import fault_codes
from services.control.store.occurrences import Occurrence

SOURCE = "control"


class Unreadable(Exception):
    """The message is no result."""


def order_of(command: Command, *, meter: DeviceId | None, released_trip: int | None = None) -> contract.Command:
    """Return the order for the current sending of a command, unsigned; the profile knows how long to let it settle."""
    if command.sent_at is None or command.wire_not_after is None:
        raise ValueError(f"command {command.command_id} has not been sent")
    return _order(
        command,
        wire_id=command.wire_id,
        action=command.action,
        issued_at=command.sent_at,
        not_after=command.wire_not_after,
        meter=meter,
        restore=command.is_off,
        released_trip=released_trip,
    )


def look_message(
    command: Command, keys: KeyRing, now: datetime, not_after: datetime, *, meter: DeviceId | None
) -> Message:
    """Return the signed order to read the breaker that a command is about."""
    order = _order(
        command,
        wire_id=command.look_id,
        action=CommandAction.READ_BACK,
        issued_at=now,
        not_after=not_after,
        meter=meter,
        restore=False,
        released_trip=None,
    )
    return signed(order, keys)


def _order(
    command: Command,
    *,
    wire_id: str,
    action: CommandAction,
    issued_at: datetime,
    not_after: datetime,
    meter: DeviceId | None,
    restore: bool,
    released_trip: int | None,
) -> contract.Command:
    arguments = {"channel": command.channel, "released_trip": released_trip}
    return contract.Command(
        command_id=CommandId(wire_id),
        site_id=command.site_id,
        device_id=command.device_id,
        line_id=command.line_id,
        action=action,
        arguments={name: float(value) for name, value in arguments.items() if value is not None},
        not_after=not_after,
        issued_at=issued_at,
        signature="",
        restore_at=command.restore_at if restore else None,
        off_at_most_s=command.off_at_most_s if restore else None,
        isolation_id=command.isolation_id if restore else None,
        load_id=command.load_id,
        occurrence_id=command.occurrence_id,
        plan_id=command.plan_id,
        priority=command.priority,
        attempt=max(command.attempt, 1),
        meter_device_id=meter,
        actor=command.actor,
        reason=command.note,
    )


def signed(unsigned: contract.Command, keys: KeyRing) -> Message:
    """Return an order under control's signature, as it goes over the bus."""
    return signed_together([unsigned], keys)[0]


def signed_together(unsigned: Sequence[contract.Command], keys: KeyRing) -> list[Message]:
    """Return orders as they go over the bus, with some of them under each of control's signatures.

    A holder of lines that knows no such signature refuses them; what is sent again is signed by itself.
    """
    payloads = [one.signing_payload() for one in unsigned]
    shown = sign_each(keys, SOURCE, [canonical(payload) for payload in payloads])
    return [
        Message(
            topic=topics.COMMANDS,
            key=one.site_id,
            value=orjson.dumps({**payload, "signature": signature} | ({} if proof is None else {"proof": proof})),
            headers=headers(
                event_type=topics.COMMANDS,
                source=SOURCE,
                event_id=one.command_id,
                time=one.issued_at,
                subject=one.device_id,
                traceparent=current_traceparent(),
            ),
        )
        for one, payload, (signature, proof) in zip(unsigned, payloads, shown, strict=True)
    ]


def read_result(received: Received) -> tuple[WireId, Outcome]:
    """Return which sending a result is about, and what it says.

    Raises:
        Unreadable: It is no result.
    """
    try:
        result = contract.Result.from_json(received.value or b"")
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise Unreadable(str(exc)[:500]) from exc
    wire = WireId.parse(result.command_id)
    seen = result.evidence
    facts: dict[str, object] = seen.model_dump(mode="json", exclude_none=True)
    facts |= {"stage": result.stage.value, "result_at": result.at.isoformat(), "epoch": result.epoch}
    for name in ("detail", "detail_zh", "instance", "reason"):
        if (value := getattr(result, name)) is not None:
            facts[name] = value
    is_breaker = seen.feedback_value in (0.0, 1.0)
    return wire, Outcome(
        stage=result.stage,
        attempt=wire.attempt,
        is_look=wire.is_look,
        at=result.at,
        breaker=int(seen.feedback_value) if is_breaker and seen.feedback_value is not None else None,
        power_kw=seen.meter_power_kw,
        local_lock=seen.local_lock,
        trip_reason=seen.trip_reason,
        reason=result.reason or "",
        evidence=facts,
    )


def read_alarm(received: Received) -> AlarmEvent:
    """Return a step in an alarm's life.

    Raises:
        Unreadable: It is none.
    """
    try:
        return AlarmEvent.from_json(received.value or b"")
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise Unreadable(str(exc)[:500]) from exc


def read_window(received: Received) -> MaintenanceWindow:
    """Return a maintenance window; a tombstone is the caller's.

    Raises:
        Unreadable: It is none.
    """
    try:
        return MaintenanceWindow.from_json(received.value or b"")
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise Unreadable(str(exc)[:500]) from exc


def command_event(change: Change) -> Message:
    """Return the event of a command's new state."""
    command = change.after
    payload = contract.ControlEvent(
        site_id=command.site_id,
        state=command.state,
        at=change.at,
        reason=command.reason,
        command_id=command.command_id,
        occurrence_id=command.occurrence_id,
        load_id=command.load_id,
        device_id=command.device_id,
        plan_id=command.plan_id,
        action=command.action,
        off_at=change.at if Effect.LOAD_OFF in change.effects else None,
        restore_at=command.restore_at,
        priority=command.priority,
        actor=command.actor,
        group_id=command.group_id,
        fault_code=_fault_code(command),
        evidence=_evidence(change.evidence),
    )
    return message(
        topics.CONTROL_EVENTS,
        command.site_id,
        payload,
        source=SOURCE,
        time=change.at,
        subject=command.load_id,
        traceparent=current_traceparent(),
    )


def _fault_code(command: Command | None) -> str | None:
    return None if command is None or command.fault is None else fault_codes()[command.fault].code


def occurrence_event(
    occurrence: Occurrence, command: Command | None, site_id: SiteId, at: datetime, *, app: str | None = None
) -> Message:
    """Return the event of an occurrence's new state.

    Args:
        occurrence: Which.
        command: The one that brought it there.
        site_id: Where its load is.
        at: When.
        app: The upstream app whose plan it is, where there is no command that says so.
    """
    payload = contract.ControlEvent(
        site_id=site_id,
        state=occurrence.state,
        at=at,
        reason=occurrence.reason,
        command_id=None if command is None else command.command_id,
        occurrence_id=occurrence.occurrence_id,
        load_id=occurrence.load_id,
        device_id=None if command is None else command.device_id,
        plan_id=occurrence.plan_id,
        action=None if command is None else command.action,
        off_at=occurrence.went_off_at,
        restore_at=occurrence.on_at,
        fault_code=_fault_code(command),
        actor=app if command is None else command.actor,
    )
    return message(
        topics.CONTROL_EVENTS, site_id, payload, source=SOURCE, time=at, subject=occurrence.load_id,
        traceparent=current_traceparent(),
    )  # fmt: skip


MOST_SITES = 10_000
"""Sites that an event of a plan names: with all 100,000 it would be larger than a message of Kafka may be."""


def plan_event(plan: Plan, sites: Collection[SiteId], at: datetime, *, actor: str | None) -> Message:
    """Return the event of a plan's new state.

    Args:
        plan: The plan, as it is now.
        sites: Where its loads are.
        at: When.
        actor: Who brought it there, None for the clock.
    """
    payload = contract.PlanEvent.model_validate(
        {
            "plan_id": plan.plan_id, "state": plan.state.value, "at": at, "name": plan.name,
            "load_count": len(plan.load_ids), "first_date": plan.schedule.first_date,
            "last_date": plan.schedule.last_date, "zone": plan.schedule.zone,
            "site_ids": sorted(sites) if len(sites) <= MOST_SITES else None, "actor": actor, "app": plan.app,
            "created_by": plan.created_by, "reason": plan.end_reason,
        }
    )  # fmt: skip
    return message(
        topics.PLANS, plan.plan_id, payload, source=SOURCE, time=at,
        event_id=f"plan/{plan.plan_id}/{plan.state.value}", traceparent=current_traceparent(),
    )  # fmt: skip


TEXTS: Mapping[str, tuple[str, str]] = {
    "overdue": (
        "the load should be awake and is not verified; it is being retried",
        "负载应已唤醒但尚未确认,正在重试",
    ),
    "isolation": ("a work permit is active: the wake-up waits for it", "检修隔离生效中,唤醒等待其解除"),
    "local_lock": ("the breaker is locked at the device: somebody must go there", "断路器就地锁定,请派人到现场"),
    "protection_trip": (
        "the breaker tripped for protection and nobody has released it: somebody must go there",
        "断路器保护跳闸且无人解除,请派人到现场",
    ),
    "isolation_active": ("the load is isolated under a work permit", "负载处于检修隔离状态"),
    "isolation_expiring": ("the work permit ends soon; the load will be woken then", "检修隔离即将到期,到期后将唤醒"),
}


def condition(
    kind: ConditionKind,
    phase: Phase,
    *,
    load_id: str,
    site_id: str,
    at: datetime,
    text: str,
    level: AlarmLevel = AlarmLevel.CRITICAL,
    device_id: str | None = None,
    source: str = SOURCE,
    detail: str | None = None,
) -> Message:
    """Return a finding about a load for ``alarm.conditions``; ``text`` names an entry of ``TEXTS``."""
    english, chinese = TEXTS[text]
    payload = Condition(
        site_id=SiteId(site_id),
        source=source,
        kind=kind.value,
        subject=load_id,
        phase=phase,
        detail=english if detail is None else f"{english}: {detail}",
        detail_zh=chinese if detail is None else f"{chinese}:{detail}",
        at=at,
        level=level,
        device_id=None if device_id is None else DeviceId(device_id),
        load_id=LoadId(load_id),
    )
    return message(topics.CONDITIONS, site_id, payload, source=source, time=at, subject=load_id)


TOLD_AT_MOST = 100
"""Of a list in ``before`` and ``after`` the bus is told so many; control's own audit has all of them."""


def audit(entry: Entry) -> Message:
    """Return what the audit of all services is told of an entry; it has the entry's id there."""
    payload = AuditEvent.model_validate(
        {
            "actor": entry.actor, "door": entry.door, "action": entry.action, "subject": entry.subject,
            "at": entry.at.isoformat(), "before": _told(entry.before), "after": _told(entry.after),
            "reason": entry.reason, "succeeded": None if entry.succeeded else False,
        }
    )  # fmt: skip
    return message(
        topics.AUDIT, entry.actor, payload, source=SOURCE, time=entry.at, event_id=entry.entry_id, subject=entry.subject
    )


def _told(facts: Mapping[str, object] | None) -> Any:
    if facts is None:
        return None
    short = {key: value[:TOLD_AT_MOST] if isinstance(value, list) else value for key, value in facts.items()}
    return orjson.loads(facts_text(short))


_EVIDENCE_FIELDS = frozenset(contract.Evidence.model_fields)


def _evidence(found: Mapping[str, object]) -> contract.Evidence | None:
    known = {name: value for name, value in found.items() if name in _EVIDENCE_FIELDS}
    if "breaker_state" in found and found["breaker_state"] is not None:
        known |= {"feedback_point": "breaker_state", "feedback_value": float(str(found["breaker_state"]))}
        if found.get("read_at"):
            known["feedback_at"] = found["read_at"]
    return contract.Evidence.model_validate(known) if known else None
