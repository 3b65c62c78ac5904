"""Topic payloads to and from export's own objects: what is read, and what is told about deliveries."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson
from pydantic import ValidationError

from libs.common.bus import envelope, topics
from libs.common.bus.port import Message, Received
from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.alarm import AlarmEvent, Condition, ConditionKind
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.contracts.delivery import DeliveryEvent, DeliveryState
from libs.common.contracts.telemetry import Reading
from libs.common.ids import AlarmId, SiteId
from services.export.domain.callbacks import Endpoint
from services.export.domain.connection import Unit
from services.export.domain.delivery import Delivery
from services.export.domain.feeds import Destination

SOURCE = "export"


def read_alarm(received: Received) -> AlarmEvent:
    """Return the alarm event of a message.

    Raises:
        ValueError: It is none; the reason says which field.
    """
    try:
        return AlarmEvent.from_json(received.value or b"")
    except (ValidationError, orjson.JSONDecodeError) as exc:
        raise ValueError(f"no alarm event: {exc}"[:500]) from exc


def event_identity(received: Received, event: AlarmEvent) -> str:
    """Return what names the event everywhere: its id, or alarm and sequence where a stranger gave none."""
    return envelope.event_id(received) or f"{event.alarm_id}:{event.sequence}"


def device_of(value: bytes) -> tuple[str | None, Mapping[str, object]]:
    """Return the device a reading speaks of and the parsed JSON; None for a heartbeat or anything else."""
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None, {}
    if not isinstance(parsed, dict):
        return None, {}
    device_id = parsed.get("device_id")
    return (device_id, parsed) if isinstance(device_id, str) else (None, parsed)


def read_reading(parsed: Mapping[str, object]) -> Reading | None:
    """Return the reading, None when the object is none (ingest has checked it; we need not say why)."""
    try:
        return Reading.model_validate(parsed)
    except ValidationError:
        return None


def delivery_event(delivery: Delivery, *, at: datetime) -> Message:
    """Return the news that a delivery has changed its state."""
    payload = DeliveryEvent(
        destination=delivery.connection_id,
        item=delivery.event_id,
        state=delivery.state,
        attempts=delivery.attempts,
        at=at,
        item_kind=f"alarm_{delivery.step.value}",
        site_id=SiteId(delivery.site_id),
        alarm_id=AlarmId(delivery.alarm_id),
        error=delivery.error,
        next_attempt_at=delivery.next_attempt_at,
        queued_at=delivery.queued_at,
    )
    return envelope.message(
        topics.DELIVERY_EVENTS,
        delivery.connection_id,
        payload,
        source=SOURCE,
        time=at,
        event_id=f"{delivery.id}:{delivery.state.value}:{delivery.attempts}",
        subject=delivery.id,
        traceparent=delivery.traceparent,
    )


def callback_event(
    endpoint_id: str, event_id: str, site_id: str, state: DeliveryState, *, attempts: int, error: str | None,
    queued_at: datetime, at: datetime,
) -> Message:  # fmt: skip
    """Return the news that a callback did not arrive at first, and what became of it."""
    payload = DeliveryEvent(
        destination=endpoint_id,
        item=event_id,
        state=state,
        attempts=attempts,
        at=at,
        item_kind="callback",
        site_id=SiteId(site_id),
        error=error,
        queued_at=queued_at,
    )
    return envelope.message(
        topics.DELIVERY_EVENTS, endpoint_id, payload, source=SOURCE, time=at, subject=event_id,
        event_id=f"{endpoint_id}:{event_id}:{state.value}:{attempts}",
    )  # fmt: skip


def callback_finding(endpoint: Endpoint, phase: Phase, *, error: str | None, at: datetime) -> Message:
    """Return a finding about an endpoint, for alarm."""
    fails = phase is Phase.BEGIN
    payload = Condition(
        site_id=PLATFORM_SITE,
        source=SOURCE,
        kind=ConditionKind.CALLBACK_FAILING,
        subject=endpoint.id,
        phase=phase,
        detail=f"callbacks to {endpoint.name!r} fail: {error}" if fails else f"callbacks to {endpoint.name!r} arrive",
        detail_zh=f"回调“{endpoint.name}”持续失败:{error}" if fails else f"回调“{endpoint.name}”已恢复",
        at=at,
    )
    return envelope.message(topics.CONDITIONS, PLATFORM_SITE, payload, source=SOURCE, time=at)


def feed_finding(destination: Destination, phase: Phase, *, error: str | None, at: datetime) -> Message:
    """Return a finding about a destination of a feed, for alarm."""
    name = destination.name
    fails = phase is Phase.BEGIN
    payload = Condition(
        site_id=PLATFORM_SITE,
        source=SOURCE,
        kind=ConditionKind.CALLBACK_FAILING,
        subject=f"feed-destination/{destination.id}",
        phase=phase,
        detail=f"batches to {name!r} fail: {error}" if fails else f"batches to {name!r} arrive",
        detail_zh=f"向“{name}”的数据推送持续失败:{error}" if fails else f"向“{name}”的数据推送已恢复",
        at=at,
    )
    return envelope.message(topics.CONDITIONS, PLATFORM_SITE, payload, source=SOURCE, time=at)


def finding(unit: Unit, kind: ConditionKind, phase: Phase, *, detail: str, detail_zh: str, at: datetime) -> Message:
    """Return a finding about a unit's connection, for alarm."""
    site_id = SiteId(unit.site_id or PLATFORM_SITE)
    payload = Condition(
        site_id=site_id,
        source=SOURCE,
        kind=kind.value,
        subject=f"{unit.connection_id}/{unit.ref.unit_id}",
        phase=phase,
        detail=detail,
        detail_zh=detail_zh,
        at=at,
    )
    return envelope.message(topics.CONDITIONS, site_id, payload, source=SOURCE, time=at)


def files_finding(connection_id: str, phase: Phase, *, count: int, oldest_at: datetime | None, at: datetime) -> Message:
    """Return a finding about files that wait too long for a connection's centre, for alarm."""
    since = "" if oldest_at is None else oldest_at.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M:%S")
    begins = phase is Phase.BEGIN
    payload = Condition(
        site_id=PLATFORM_SITE,
        source=SOURCE,
        kind=ConditionKind.FILES_WAITING,
        subject=connection_id,
        phase=phase,
        detail=f"{count} files wait for the centre, the oldest since {since}" if begins else "no file waits too long",
        detail_zh=f"{count} 个文件等待推送，最早生成于 {since}" if begins else "没有文件等待过久",
        at=at,
    )
    return envelope.message(topics.CONDITIONS, PLATFORM_SITE, payload, source=SOURCE, time=at)


def door_finding(peer: str, phase: Phase, *, detail: str, detail_zh: str, at: datetime) -> Message:
    """Return a finding about an address that is turned away at the units' door, for alarm."""
    payload = Condition(
        site_id=PLATFORM_SITE,
        source=SOURCE,
        kind=ConditionKind.AUTH_FAILED,
        subject=f"units-door/{peer}",
        phase=phase,
        detail=detail,
        detail_zh=detail_zh,
        at=at,
    )
    return envelope.message(topics.CONDITIONS, PLATFORM_SITE, payload, source=SOURCE, time=at)


def order_audited(
    unit: Unit, action: str, *, points: Sequence[str], address: str, succeeded: bool, at: datetime,
    reason: str | None = None,
) -> Message:  # fmt: skip
    """Return the audit record of an order that a centre gave."""
    actor = f"sc:{unit.connection_id}"
    payload = AuditEvent(
        actor=actor,
        door="sc",
        action=action,
        subject=f"unit:{unit.ref.unit_id}",
        at=at,
        after={"points": list(points)[:200]} if points else None,
        reason=None if succeeded else reason or "not permitted for this connection",
        address=address,
        site_id=None if unit.site_id is None else SiteId(unit.site_id),
        succeeded=succeeded,
    )
    return envelope.message(topics.AUDIT, actor, payload, source=SOURCE, time=at)


def orders_audited(
    unit: Unit, action: str, *, orders: Sequence[Mapping[str, object]], count: int, address: str, succeeded: bool,
    at: datetime,
) -> Message:  # fmt: skip
    """Return the audit record of a message of a centre that orders points: each with what became of it."""
    actor = f"sc:{unit.connection_id}"
    failed = next((str(one["reason"]) for one in orders if not one["done"]), None)
    after = {"orders": [{name: value for name, value in one.items() if value is not None} for one in orders]}
    payload = AuditEvent.model_validate(
        {
            "actor": actor, "door": "sc", "action": action, "subject": f"unit:{unit.ref.unit_id}", "at": at,
            "after": {**after, "count": count}, "reason": failed, "address": address, "site_id": unit.site_id,
            "succeeded": succeeded,
        }
    )  # fmt: skip
    return envelope.message(topics.AUDIT, actor, payload, source=SOURCE, time=at)


def change_audited(
    actor: str, action: str, subject: str, *, after: Mapping[str, object] | None, request_id: str | None, at: datetime,
    before: Mapping[str, object] | None = None, reason: str | None = None,
) -> Message:  # fmt: skip
    """Return the audit record of a change by a person, a key or a service over the API."""
    payload = AuditEvent.model_validate(
        {
            "actor": actor, "door": "api", "action": action, "subject": subject, "at": at, "after": after,
            "before": before, "reason": reason, "request_id": request_id, "succeeded": True,
        }
    )  # fmt: skip
    return envelope.message(topics.AUDIT, actor, payload, source=SOURCE, time=at)
